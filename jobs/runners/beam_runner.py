"""Runs a pipeline with the user's Beam options, and says in one line what the user can mend."""

import concurrent.futures
import contextlib
import itertools
import os
import re
import shlex
import signal
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    FlinkRunnerOptions,
    JobServerOptions,
    PipelineOptions,
    PrismRunnerOptions,
    SetupOptions,
    StandardOptions,
)
from apache_beam.runners.runner import PipelineResult, PipelineRunner, PipelineState, create_runner

from beamscribe.jobs.runners import beam_internals, flink_runner, scratch, worker_internals, worker_process
from beamscribe.model.errors import BeamscribeError, InputError, nearest, one_line
from beamscribe.pipelines import failures
from beamscribe.pipelines.images import starting

# The direct runner for batch, by its own name: `DirectRunner` would first try to download another.
DEFAULT_RUNNER = "FnApiRunner"
# Seconds between two looks at a job that is being started.
_POLL_SECONDS = 0.5
_TRACEBACK = "Traceback (most recent call last):"
# Seconds in which the direct runner notices that a worker has died, and ends what it has started.
_UNWIND_SECONDS = 10.0


def pipeline_options(given: Sequence[str] | PipelineOptions) -> PipelineOptions:
    """Checks Beam's own options, and completes them.

    Args:
      given: Beam's options as on a command line, or parsed; those that are parsed are completed in place.

    Raises:
      InputError: Beam has no such option or runner, or an option has a value that it can't have.
      BeamscribeError: no Flink answers where an option says.
    """
    options = given if isinstance(given, PipelineOptions) else _parsed(given)
    _check_values(options)
    standard: Any = options.view_as(StandardOptions)
    standard.runner = _canonical(standard.runner or "DirectRunner")
    if standard.runner == "DirectRunner":
        standard.runner = DEFAULT_RUNNER
    try:
        create_runner(standard.runner)
    except (ValueError, ImportError, AttributeError):
        runners = ", ".join(StandardOptions.KNOWN_RUNNER_NAMES)
        raise InputError(f"--runner: Beam has no runner {standard.runner}; choose one of {runners}") from None
    prism = options.view_as(PrismRunnerOptions).prism_location
    if standard.runner == "PrismRunner" and prism and not prism.startswith("http") and not os.path.isfile(prism):
        raise InputError(f"--prism_location: there is no file {prism}; build it with `make prism`")
    if standard.runner == "FlinkRunner":
        flink_runner.complete(options)
    return options


def _parsed(arguments: Sequence[str]) -> PipelineOptions:
    is_list = isinstance(arguments, Iterable) and not isinstance(arguments, str | bytes)
    given = list(arguments) if is_list else []
    if not is_list or not all(isinstance(argument, str) for argument in given):
        raise InputError(f"`beam_options` {arguments!r}: must be a list of texts, one for each option")
    check_names(given, ())
    return PipelineOptions(given)


def _check_values(options: PipelineOptions) -> None:
    """Checks values of which Beam's own errors don't say what is wrong, also those that were not given as texts."""
    beam_internals.check_values(options)
    direct: Any = options.view_as(DirectOptions)
    _check_number("direct_num_workers", direct.direct_num_workers, 0, "0 for one on each processor")
    modes = ("in_memory", "multi_threading", "multi_processing")
    if direct.direct_running_mode not in modes:
        raise InputError(f"--direct_running_mode {direct.direct_running_mode}: must be one of {', '.join(modes)}")
    flink: Any = options.view_as(FlinkRunnerOptions)
    for name in ("parallelism", "max_parallelism"):
        if getattr(flink, name) != -1:
            _check_number(name, getattr(flink, name), 1, "-1 for what the cluster is set to")


def _check_number(name: str, value: Any, least: int, otherwise: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"--{name} {value}: must be a whole number from 1 on, or {otherwise}")


def check_names(arguments: Sequence[str], others: Collection[str]) -> None:
    """Checks that Beam knows all options of a command line: it passes over those that it does not know.

    Args:
      arguments: what a command itself has no option for.
      others: the options of the command, of which an unknown one may be a misspelling.

    Raises:
      InputError: Beam has no such option, or an argument belongs to none.
    """
    known = beam_internals.option_names()
    # A number may be negative.
    given = [argument.partition("=")[0] for argument in arguments if re.match(r"-[^\d.]", argument)]
    if "--dry_run" in given:
        raise InputError("--dry_run: Beam's option would list and caption nothing; use `beamscribe plan`")
    if unknown := [name for name in given if name not in known]:
        raise InputError(f"unknown option {unknown[0]}{nearest(unknown[0], [*others, *known])}")
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if not argument.startswith("-") and not (before.startswith("--") and "=" not in before):
            raise InputError(f"unexpected argument {argument}: no option before it takes a value")


def _canonical(runner: str) -> str:
    """The one name of a runner, for which Beam takes other spellings, too: `flink`, or the path of its class."""
    names = {name.lower().removesuffix("runner"): name for name in StandardOptions.KNOWN_RUNNER_NAMES}
    return names.get(runner.rpartition(".")[2].lower().removesuffix("runner"), runner)


def run(job: beam.PTransform, options: PipelineOptions, interrupted: Callable[[], None] | None = None) -> None:
    """Runs a job from its root transform to the end; raises what the runner raises.

    Args:
      job: the root transform.
      options: Beam's.
      interrupted: called when a `KeyboardInterrupt` reaches this thread: it asks the job to end early. The interrupt is
        raised when the job has ended, or at the next one. None to raise it at once.
    """

    def run_to_the_end(died: Callable[[str], None]) -> None:
        _started(job, options, folder, died).wait_until_finish()

    failures.forget()
    runner: Any = options.view_as(StandardOptions).runner
    with _safe_path(options), _temporary_folder(options) as folder, beam_internals.steps_tell_once(type(job).__name__):
        if runner == DEFAULT_RUNNER:
            _run_in_thread(run_to_the_end, interrupted)
        else:
            run_to_the_end(lambda _: None)


def _run_in_thread(function: Callable[[Callable[[str], None]], None], interrupted: Callable[[], None] | None) -> None:
    """Runs a function in a thread, and waits: the direct runner would turn a `KeyboardInterrupt` into another error.

    Args:
      function: gets a function that it may call to say why it will fail, and soon; if it does not, it is left alone.
      interrupted: as for `run`.
    """
    done: concurrent.futures.Future[None] = concurrent.futures.Future()

    def end(error: BaseException | None) -> None:
        # It may have ended before.
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

    def died(why: str) -> None:
        timer = threading.Timer(_UNWIND_SECONDS, end, [RuntimeError(why)])
        timer.daemon = True
        timer.start()

    def run_and_tell() -> None:
        try:
            function(died)
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            end(error)
        else:
            end(None)

    threading.Thread(target=run_and_tell, name="pipeline", daemon=True).start()
    try:
        done.result()
    except KeyboardInterrupt:
        if interrupted and not done.done():
            interrupted()
            concurrent.futures.wait([done])
        raise


def submit(job: beam.PTransform, options: PipelineOptions, is_running: Callable[[], bool | None]) -> None:
    """Starts a job that goes on without this process; raises what the runner raises.

    Args:
      job: the root transform.
      options: Beam's.
      is_running: asks the runner whether it has the job.
    """
    with _safe_path(options), _temporary_folder(options) as folder:
        result = _started(job, options, folder, lambda _: None)
        # Dataflow has the job by now. Flink's job server, which ends with this process, passes it on in its own time.
        runner: Any = options.view_as(StandardOptions).runner
        while runner != "DataflowRunner" and not is_running():
            if PipelineState.is_terminal(result.state):
                result.wait_until_finish()
                return
            time.sleep(_POLL_SECONDS)


def _started(
    job: beam.PTransform, options: PipelineOptions, folder: str, died: Callable[[str], None]
) -> PipelineResult:
    pipeline = beam.Pipeline(runner=_runner(options, died), options=options)
    # Beam's own folder would stay where this process is killed.
    os.rmdir(pipeline.local_tempdir)
    pipeline.local_tempdir = tempfile.mkdtemp(dir=folder)
    pipeline | type(job).__name__ >> job
    handler = signal.getsignal(signal.SIGINT)
    result = pipeline.run()
    if threading.current_thread() is threading.main_thread():
        # Beam's own handler would stop the job's server, and so the shards that are open.
        signal.signal(signal.SIGINT, handler)
    return result


def _safe_path(options: PipelineOptions) -> contextlib.AbstractContextManager[None]:
    """Keeps programs that Beam starts here, such as pip, from taking files of the current folder for modules.

    A `setup.py` of the user's may import modules beside it; where one is given, they search as usual.
    """
    setup: Any = options.view_as(SetupOptions)
    return contextlib.nullcontext() if setup.setup_file else starting.safe_path()


@contextlib.contextmanager
def _temporary_folder(options: PipelineOptions) -> Iterator[str]:
    """A temporary folder for a job.

    It has the script by which Prism, or Flink's job server, is started: it ties the server to this process.
    """
    runner: Any = options.view_as(StandardOptions).runner
    prism: Any = options.view_as(PrismRunnerOptions)
    server: Any = options.view_as(JobServerOptions)
    binary = prism.prism_location
    with scratch.folder() as folder:
        if runner == "PrismRunner" and binary and os.path.isfile(binary) and not zipfile.is_zipfile(binary):
            prism.prism_location = _script(folder, "prism", os.path.abspath(binary))
        if runner == "FlinkRunner":
            server.job_server_java_launcher = _script(folder, "java", server.job_server_java_launcher)
        yield folder


def _script(folder: str, name: str, program: str) -> str:
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as file:
        # Beam ends it by SIGTERM.
        file.write(f'#!/bin/sh\n{worker_process.command(os.getpid(), ("INT", "HUP"))} {shlex.quote(program)} "$@"\n')
    os.chmod(path, 0o755)
    return path


def _runner(options: PipelineOptions, died: Callable[[str], None]) -> PipelineRunner | None:
    """The direct runner with workers of our own; None for any other, and where the pipeline runs in its own thread."""
    direct: Any = options.view_as(DirectOptions)
    runner: Any = options.view_as(StandardOptions).runner
    if runner == DEFAULT_RUNNER and direct.direct_running_mode == "multi_processing":
        return worker_internals.runner_with_processes(worker_process.command(os.getpid()), died)
    if runner == DEFAULT_RUNNER and direct.direct_running_mode == "multi_threading":
        return worker_internals.runner_with_threads()
    return None


def reason(error: Exception) -> str:
    """What went wrong, in one line: without the place in the pipeline that Beam writes after it, and the traceback."""
    text = str(error).strip()
    if text.startswith(_TRACEBACK):
        # Of an error in a worker process, which has passed it on as a text. What was raised comes after the indented
        # lines of the last traceback.
        lines = text.rpartition(_TRACEBACK)[2].splitlines()
        text = "\n".join(itertools.dropwhile(lambda line: not line or line[0].isspace(), lines))
    text = re.sub(r"\s*\[while running '.*?'\]", "", text)
    # An error of ours, with the name of its class where it has become a text.
    own = re.sub(r"^beamscribe\.[\w.]+: ", "", text)
    if isinstance(error, BeamscribeError) or own != text:
        # It is one line as it is, and says what to do at its end.
        return own
    return one_line(text or type(error).__name__)


def workers(options: PipelineOptions) -> int:
    """How many workers a job will have, as far as its options say."""
    chosen = options.get_all_options()
    for name in ("max_num_workers", "num_workers", "parallelism", "direct_num_workers"):
        number = chosen.get(name)
        if isinstance(number, int) and number > 0:
            return number
    # The direct runner takes none for one on each processor.
    return os.cpu_count() or 1 if chosen.get("direct_num_workers") == 0 else 1
