"""The parts of Beam that are not its public interface, each with why there is no way around it.

Nothing else under `jobs/` uses such parts. tests/test_private_parts.py fails where a new version changes one of them.
"""

import contextlib
import logging
import os
import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from signal import Signals
from typing import Any, NoReturn

import grpc
from apache_beam.options import pipeline_options
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.portability.api import (
    beam_fn_api_pb2,
    beam_fn_api_pb2_grpc,
    beam_provision_api_pb2,
    endpoints_pb2,
)
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES, FlinkRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, worker_handlers
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo
from apache_beam.runners.runner import PipelineRunner
from apache_beam.runners.worker import data_plane
from apache_beam.transforms.environments import Environment, SubprocessSDKEnvironment
from apache_beam.utils import thread_pool_executor
from google.protobuf import json_format, text_format

from beamscribe.jobs import argparse_internals
from beamscribe.jobs.runners import worker_logs
from beamscribe.jobs.runners.worker_logs import Replay
from beamscribe.model.errors import InputError, one_line

# The name of workers that are processes of ours, among the kinds of workers that the direct runner can start.
_WORKERS = "beamscribe:env:worker_process:v1"
# What Beam logs of an error in a step, with its traceback, before it raises the error.
_STEPS = logging.getLogger("apache_beam.runners.common")
# How argparse says that a value has the wrong type.
_WRONG_TYPE = re.compile(r"argument ([^\s/:]+)[^:]*: invalid (\w+) value: '(.*)'", re.DOTALL)
_WRONG_CHOICE = re.compile(r"argument ([^\s/:]+)[^:]*: invalid choice: '?(.*?)'? \(choose from (.*)\)", re.DOTALL)
_TYPES = {"int": "a whole number", "float": "a number"}


class _Parser(pipeline_options._BeamArgumentParser):
    """A parser of all options of Beam, which raises `InputError` where argparse prints its usage and exits."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False, conflict_handler="resolve")
        for kind in PipelineOptions.__subclasses__():
            kind._add_argparse_args(self)

    def error(self, message: str) -> NoReturn:
        if wrong := _WRONG_TYPE.fullmatch(message):
            option, kind, value = wrong.groups()
            raise InputError(f"{option} {value}: must be {_TYPES.get(kind, 'JSON' if kind == 'loads' else kind)}")
        if wrong := _WRONG_CHOICE.fullmatch(message):
            option, value, choices = wrong.groups()
            raise InputError(f"{option} {value}: must be one of {choices.replace(chr(39), '')}")
        raise InputError(message.removeprefix("argument "))


def option_names() -> set[str]:
    """All options of Beam, in all their spellings, such as `--runner`.

    Beam passes over an option that it does not know, so that a misspelt one would have no effect. It has no list of
    those that it knows: each class of options adds its own to a parser.
    """
    return argparse_internals.names_in(_Parser())


def check_values(options: Sequence[str] | PipelineOptions) -> None:
    """Checks that Beam can understand the values of options, for which it would end the process with a page of usage.

    Args:
      options: Beam's options as on a command line; or those that somebody has made, which Beam parses when it needs
        them.

    Raises:
      InputError: a value is none that the option may have.
    """
    given = options._flags if isinstance(options, PipelineOptions) else options
    try:
        _Parser().parse_known_args(None if given is None else list(given))
    except ValueError as error:
        # Some options parse their values in ways that argparse does not know of.
        raise InputError(f"an option of Beam has a value that it can't have: {one_line(error)}") from None


@contextlib.contextmanager
def steps_tell_once(job: str) -> Iterator[None]:
    """A block in which Beam does not log the errors of a job's steps, which it raises, too.

    Where the logger lets `INFO` through, they are logged.

    Args:
      job: the name of the job's root transform.
    """

    def is_wanted(record: logging.LogRecord) -> bool:
        return _STEPS.isEnabledFor(logging.INFO) or f"[while running '{job}/" not in record.getMessage()

    _STEPS.addFilter(is_wanted)
    try:
        yield
    finally:
        _STEPS.removeFilter(is_wanted)


def runner_with_processes(command: str, died: Callable[[str], None]) -> PipelineRunner:
    """The direct runner, whose workers are processes that a command starts, and that log through this process.

    Where one of them dies, the runner raises an error that says so: Beam's own such runner waits for it for ever. Nor
    does an option name the command, with which alone workers can be made to end with their launcher.

    Args:
      command: what a shell runs to become a worker, itself and not as a child of the shell.
      died: called, from another thread, with what has happened, once a worker has died and the others are ended.
    """
    return _ProcessRunner(
        default_environment=_ProcessEnvironment.from_command_string(command), provision_info=_Workers(died)
    )


class _ProcessRunner(FnApiRunner):
    def run_pipeline(self, pipeline: Any, options: PipelineOptions) -> Any:
        """Runs a pipeline by the workers of its constructor; the option would have it make others, or warn."""
        direct: Any = options.view_as(DirectOptions)
        mode, direct.direct_running_mode = direct.direct_running_mode, None
        try:
            return super().run_pipeline(pipeline, options)
        finally:
            direct.direct_running_mode = mode


@Environment.register_urn(_WORKERS, bytes)
class _ProcessEnvironment(SubprocessSDKEnvironment):
    def to_runner_api_parameter(self, context: Any) -> tuple[str, bytes]:
        return _WORKERS, self.command_string.encode()

    @staticmethod
    def from_runner_api_parameter(
        payload: bytes, capabilities: Iterable[str], artifacts: Iterable[Any], resource_hints: Any, context: Any
    ) -> "_ProcessEnvironment":
        return _ProcessEnvironment(payload.decode(), capabilities, artifacts, resource_hints)


class _Workers(ExtendedProvisionInfo):
    """What the worker processes of a run share: the runner passes it on to each of them.

    Attributes:
      replay: takes what they log.
      lock: held while a process is started, and while all are ended.
      why: what has happened to one of them, so that all were ended; None if nothing has.
      all: those that there are.
    """

    def __init__(self, died: Callable[[str], None]):
        super().__init__(beam_provision_api_pb2.ProvisionInfo(retrieval_token="unused"))
        self._died = died
        self.replay = Replay()
        self.lock = threading.RLock()
        self.why: str | None = None
        self.all: list[_ProcessHandler] = []

    def for_environment(self, env: Any) -> "_Workers":
        """This object itself: the processes run what is installed here, and need no files."""
        return self

    def end(self, why: str) -> None:
        """Ends all processes, since one has died; what the runner waits for fails for that reason."""
        with self.lock:
            if self.why:
                return
            self.why = why
            for handler in self.all:
                handler.end(why)
        self._died(why)


class _ControlConnection(worker_handlers.ControlConnection):
    """What the runner asks a worker to do; where that has died, each question has the answer that it has failed."""

    _why: str | None = None

    def _read(self) -> None:
        # A connection that breaks is the other side of a worker's end.
        with contextlib.suppress(grpc.RpcError):
            super()._read()

    def push(self, req: Any) -> Any:
        future = super().push(req)
        if future is not None and self._why:
            self._fail(future)
        return future

    def fail(self, why: str) -> None:
        """Answers all questions, those that are still to come, too."""
        self._why = why
        for future in list(self._futures_by_id.values()):
            self._fail(future)

    def _fail(self, future: Any) -> None:
        future.set(beam_fn_api_pb2.InstructionResponse(instruction_id=future.instruction_id, error=self._why))


class _DataConnection(data_plane._GrpcDataChannel):
    """What a worker and the runner send each other; its end is no news until the runner has closed it.

    Attributes:
      closed: set when the runner closes it.
    """

    def __init__(self) -> None:
        super().__init__(worker_handlers.DATA_BUFFER_TIME_LIMIT_MS)
        self.closed = threading.Event()

    def _read_inputs(self, elements_iterator: Iterable[Any]) -> None:
        def until_closed() -> Iterator[Any]:
            with contextlib.suppress(grpc.RpcError):
                yield from elements_iterator
            # What has become of the worker is told by whoever waits for the process.
            self.closed.wait()

        super()._read_inputs(until_closed())


class _LoggingService(beam_fn_api_pb2_grpc.BeamFnLoggingServicer):
    def __init__(self, replay: Replay):
        self._replay = replay

    def Logging(self, request_iterator: Iterable[Any], context: Any = None) -> Iterator[Any]:  # noqa: N802 - gRPC's
        """Replays what a worker logs, until it ends."""
        with contextlib.suppress(grpc.RpcError):
            for entries in request_iterator:
                for entry in entries.log_entries:
                    self._replay(entry.message)
        return iter(())


@worker_handlers.WorkerHandler.register_environment(_WORKERS, bytes)
class _ProcessHandler(worker_handlers.GrpcWorkerHandler):
    """Starts a worker process, waits for its end, and ends it."""

    def __init__(self, command: bytes, state: Any, provision_info: _Workers, grpc_server: Any):
        super().__init__(state, provision_info, grpc_server)
        self._command, self._workers = command.decode(), provision_info
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closing = False
        # In place of those that the base class has asked for.
        self.data_conn.close()
        self._control, self._data = _ControlConnection(), _DataConnection()
        self.control_conn, self.data_conn = self._control, self._data
        self.control_handler._connections_by_worker_id[self.worker_id] = self._control
        self.data_plane_handler._connections_by_worker_id[self.worker_id, ""] = self._data
        self._thread = threading.Thread(target=self._run, name="worker process", daemon=True)

    def start_worker(self) -> None:
        with self._workers.lock:
            self._workers.all.append(self)
            if self._workers.why:
                self.end(self._workers.why)
        self._thread.start()

    def stop_worker(self) -> None:
        self._thread.join()

    def close(self) -> None:
        self._is_closing = True
        self._data.closed.set()
        if self._workers.why:
            # A dead worker takes nothing more: to wait for that could take for ever.
            threading.Thread(target=self._data.close, daemon=True).start()
            self._control.push(worker_handlers.BeamFnControlServicer._DONE_MARKER)
            self.stop_worker()
        else:
            super().close()

    def end(self, why: str) -> None:
        """Ends the process, for a reason that whoever waits for it is told."""
        self._control.fail(why)
        if self._process:
            self._process.kill()

    def _run(self) -> None:
        server = grpc.server(thread_pool_executor.shared_unbounded_instance())
        port = server.add_insecure_port("localhost:0")
        beam_fn_api_pb2_grpc.add_BeamFnLoggingServicer_to_server(_LoggingService(self._workers.replay), server)
        server.start()
        try:
            # The kernel ends the process when the thread ends that has started it.
            with self._workers.lock:
                if self._workers.why:
                    return
                self._process = subprocess.Popen(self._command, shell=True, env=self._environment(port))
            status = self._process.wait()
            if not self._is_closing:
                what = f"died of {Signals(-status).name}" if status < 0 else f"ended with status {status}"
                self._workers.end(f"a worker process {what}")
        except Exception as error:  # noqa: BLE001 - whoever waits for the worker is told
            self._workers.end(f"no worker process could be started: {error}")
        finally:
            server.stop(0)

    def _environment(self, logging_port: int) -> Mapping[str, str]:
        options = json_format.MessageToJson(self.provision_info.provision_info.pipeline_options)
        return {
            **os.environ,
            "CONTROL_API_SERVICE_DESCRIPTOR": _descriptor(self.control_address),
            "LOGGING_API_SERVICE_DESCRIPTOR": _descriptor(f"localhost:{logging_port}"),
            "PIPELINE_OPTIONS": options,
            "WORKER_ID": self.worker_id,
        }


def _descriptor(address: str) -> str:
    return text_format.MessageToString(endpoints_pb2.ApiServiceDescriptor(url=address))


def become_worker() -> None:
    """Runs a worker in this process, with what the runner says in the environment; returns when the job has ended.

    Beam has a program for this, `python -m apache_beam.runners.worker.sdk_worker_main`; what a process does before it
    becomes a worker can't be added to that.
    """
    from apache_beam.runners.worker import log_handler, sdk_worker, sdk_worker_main

    class Harness(sdk_worker.SdkHarness):
        def _execute(self, task: Callable[[], Any], request: Any) -> None:
            """Answers a request, with its error if it has one, which Beam would print and log, too."""

            def answer() -> Any:
                try:
                    return task()
                except BaseException:  # noqa: BLE001 - as in Beam, the runner raises it
                    return beam_fn_api_pb2.InstructionResponse(
                        instruction_id=request.instruction_id, error=traceback.format_exc()
                    )

            super()._execute(answer, request)

    class Handler(log_handler.FnApiLogRecordHandler):
        def format(self, record: logging.LogRecord) -> str:
            """The record as a whole: what Beam sends lacks the name of the logger."""
            return worker_logs.packed(record)

    main: Any = sdk_worker_main
    main.SdkHarness, main.FnApiLogRecordHandler = Harness, Handler
    main.main(sys.argv[:1])


def look_for_no_credentials() -> None:
    """Has Beam's clients of Google Cloud take it that there are no credentials.

    Where there is only an emulator, which knows no accounts, Beam would look for credentials for more than a minute; no
    option tells it not to.
    """
    from apache_beam.internal.gcp import auth

    auth._Credentials._credentials_init = True


def flink_url(master: str) -> str | None:
    """URL of the job manager that `--flink_master` names; None where Beam starts a Flink of its own for the job.

    Beam decides this within its runner, by names that have a meaning of their own.
    """
    return None if master in MAGIC_HOST_NAMES else FlinkRunner.add_http_scheme(master).rstrip("/")
