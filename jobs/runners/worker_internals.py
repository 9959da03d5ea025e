"""The parts of Beam's direct runner that are not its public interface: its workers, which are ours.

As in `beam_internals`, tests/test_private_parts.py fails where a new version changes one of them.
"""

import contextlib
import logging
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from signal import Signals
from typing import Any

import grpc
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.portability.api import (
    beam_fn_api_pb2,
    beam_fn_api_pb2_grpc,
    beam_provision_api_pb2,
    endpoints_pb2,
)
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, worker_handlers
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo
from apache_beam.runners.runner import PipelineRunner
from apache_beam.runners.worker import data_plane, sdk_worker
from apache_beam.transforms.environments import (
    EmbeddedPythonGrpcEnvironment,
    Environment,
    SubprocessSDKEnvironment,
)
from apache_beam.utils import thread_pool_executor
from google.protobuf import json_format, text_format

from beamscribe.jobs.runners import worker_logs
from beamscribe.jobs.runners.worker_logs import Replay

# The names of our workers, among the kinds that the direct runner can start.
_PROCESSES = "beamscribe:env:worker_process:v1"
_THREADS = "beamscribe:env:worker_thread:v1"


def runner_with_processes(command: str, died: Callable[[str], None]) -> PipelineRunner:
    """The direct runner, whose workers are processes that a command starts, and that log through this process.

    Where one of them dies, the runner raises an error that says so: Beam's own such runner waits for it for ever. Nor
    does an option name the command, with which alone workers can be made to end with their launcher.

    Args:
      command: what a shell runs to become a worker, itself and not as a child of the shell.
      died: called, from another thread, with what has happened, once a worker has died and the others are ended.
    """
    return _Runner(default_environment=_ProcessEnvironment.from_command_string(command), provision_info=_Workers(died))


def runner_with_threads() -> PipelineRunner:
    """The direct runner, whose workers are threads, with an error in a step raised and not printed, too."""
    return _Runner(default_environment=_ThreadEnvironment.default())


class _Runner(FnApiRunner):
    def run_pipeline(self, pipeline: Any, options: PipelineOptions) -> Any:
        """Runs a pipeline by the workers of its constructor; the option would have it make others, or warn."""
        direct: Any = options.view_as(DirectOptions)
        mode, direct.direct_running_mode = direct.direct_running_mode, None
        try:
            return super().run_pipeline(pipeline, options)
        finally:
            direct.direct_running_mode = mode


@Environment.register_urn(_PROCESSES, bytes)
class _ProcessEnvironment(SubprocessSDKEnvironment):
    def to_runner_api_parameter(self, context: Any) -> tuple[str, bytes]:
        return _PROCESSES, self.command_string.encode()

    @staticmethod
    def from_runner_api_parameter(
        payload: bytes, capabilities: Iterable[str], artifacts: Iterable[Any], resource_hints: Any, context: Any
    ) -> "_ProcessEnvironment":
        return _ProcessEnvironment(payload.decode(), capabilities, artifacts, resource_hints)


@Environment.register_urn(_THREADS, bytes)
class _ThreadEnvironment(EmbeddedPythonGrpcEnvironment):
    def to_runner_api_parameter(self, context: Any) -> tuple[str, bytes]:
        return _THREADS, super().to_runner_api_parameter(context)[1]

    @staticmethod
    def from_runner_api_parameter(
        payload: bytes, capabilities: Iterable[str], artifacts: Iterable[Any], resource_hints: Any, context: Any
    ) -> "_ThreadEnvironment":
        return _ThreadEnvironment(None, None, capabilities, artifacts, resource_hints)


class _Harness(sdk_worker.SdkHarness):
    def _execute(self, task: Callable[[], Any], request: Any) -> None:
        """Answers a request, with its error if it has one, which Beam would print and log, too."""

        def answer() -> Any:
            try:
                return task()
            except BaseException:  # noqa: BLE001 - as in Beam, the runner raises it
                said = traceback.format_exc()
                return beam_fn_api_pb2.InstructionResponse(instruction_id=request.instruction_id, error=said)

        super()._execute(answer, request)


@worker_handlers.WorkerHandler.register_environment(_THREADS, bytes)
class _ThreadHandler(worker_handlers.EmbeddedGrpcWorkerHandler):
    def start_worker(self) -> None:
        self.worker = _Harness(
            self.control_address,
            state_cache_size=self._state_cache_size,
            data_buffer_time_limit_ms=self._data_buffer_time_limit_ms,
            worker_id=self.worker_id,
            runner_capabilities=worker_handlers.FNAPI_RUNNER_CAPABILITIES,
        )
        self.worker_thread = threading.Thread(name="worker thread", target=self.worker.run, daemon=True)
        self.worker_thread.start()


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


@worker_handlers.WorkerHandler.register_environment(_PROCESSES, bytes)
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
    from apache_beam.runners.worker import log_handler, sdk_worker_main

    class Handler(log_handler.FnApiLogRecordHandler):
        def format(self, record: logging.LogRecord) -> str:
            """The record as a whole: what Beam sends lacks the name of the logger."""
            return worker_logs.packed(record)

    main: Any = sdk_worker_main
    main.SdkHarness, main.FnApiLogRecordHandler = _Harness, Handler
    main.main(sys.argv[:1])
