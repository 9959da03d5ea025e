"""Runs a pipeline with the user's Beam options, and says in a line what the user can mend."""

import argparse
import contextlib
import os
import re
import shlex
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import grpc
import psutil
from apache_beam.options.pipeline_options import (
    DirectOptions,
    JobServerOptions,
    PipelineOptions,
    PrismRunnerOptions,
    StandardOptions,
)
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner, create_runner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from beamscribe.jobs.runners import flink_runner, worker_process
from beamscribe.model.errors import UserError

# The direct runner for batch, by its own name: `DirectRunner` would first try to download another.
DEFAULT_RUNNER = "FnApiRunner"


def pipeline_options(arguments: Sequence[str]) -> PipelineOptions:
    """Parses Beam's own options.

    Raises:
      UserError: an option is unknown to Beam, too.
    """
    known = _names_of_options()
    # A number may be negative.
    given = [a for a in arguments if re.match(r"-[^\d.]", a)]
    unknown = [a for a in given if a.split("=")[0] not in known]
    if unknown:
        raise UserError(f"unknown option {unknown[0]}: neither this command nor Beam has it; see --help")
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if not argument.startswith("-") and not (before.startswith("--") and "=" not in before):
            raise UserError(f"what is {argument} for? No option takes it; see --help")
    options = PipelineOptions(list(arguments))
    standard: Any = options.view_as(StandardOptions)
    standard.runner = _canonical(standard.runner or "DirectRunner")
    if standard.runner == "DirectRunner":
        standard.runner = DEFAULT_RUNNER
    try:
        create_runner(standard.runner)
    except (ValueError, ImportError, AttributeError):
        runners = ", ".join(StandardOptions.KNOWN_RUNNER_NAMES)
        raise UserError(f"--runner {standard.runner}: Beam has no such runner; it has {runners}") from None
    prism = options.view_as(PrismRunnerOptions).prism_location
    if standard.runner == "PrismRunner" and prism and not prism.startswith("http") and not os.path.isfile(prism):
        raise UserError(f"--prism_location: there is no {prism}; build it with `make prism`")
    if standard.runner == "FlinkRunner":
        flink_runner.complete(options)
    return options


def _names_of_options() -> set[str]:
    """All options of Beam, in all their spellings."""
    parser: Any = argparse.ArgumentParser(allow_abbrev=False, conflict_handler="resolve")
    for kind in PipelineOptions.__subclasses__():
        kind._add_argparse_args(parser)
    return {name for action in parser._actions for name in action.option_strings}


def _canonical(runner: str) -> str:
    """A runner's name, of which Beam takes other spellings, too: `flink`, or the path of its class."""
    names = {name.lower().removesuffix("runner"): name for name in StandardOptions.KNOWN_RUNNER_NAMES}
    return names.get(runner.rpartition(".")[2].lower().removesuffix("runner"), runner)


def run(job: beam.PTransform, options: PipelineOptions) -> None:
    """Runs a job from its root transform to the end; raises what the runner raises.

    Where a worker process of the direct runner dies, for which that would wait for ever, this process ends, too.
    """
    with _job_server_ends_too(options), beam.Pipeline(runner=_runner(options), options=options) as pipeline:
        pipeline | type(job).__name__ >> job


@contextlib.contextmanager
def _job_server_ends_too(options: PipelineOptions) -> Iterator[None]:
    """Has Prism, or Flink's job server, started by a script that ties it to this process, should that be killed."""
    runner: Any = options.view_as(StandardOptions).runner
    prism: Any = options.view_as(PrismRunnerOptions)
    server: Any = options.view_as(JobServerOptions)
    binary = prism.prism_location
    with tempfile.TemporaryDirectory(prefix="beamscribe-") as folder:
        if runner == "PrismRunner" and binary and os.path.isfile(binary) and not zipfile.is_zipfile(binary):
            prism.prism_location = _script(folder, "prism", os.path.abspath(binary))
        if runner == "FlinkRunner":
            server.job_server_java_launcher = _script(folder, "java", server.job_server_java_launcher)
        yield


def _script(folder: str, name: str, program: str) -> str:
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\n{worker_process.command(os.getpid())} {shlex.quote(program)} "$@"\n')
    os.chmod(path, 0o755)
    return path


def _runner(options: PipelineOptions) -> PipelineRunner | None:
    """The direct runner with worker processes that don't outlive this one; None for any other that the options name."""
    direct: Any = options.view_as(DirectOptions)
    runner: Any = options.view_as(StandardOptions).runner
    if runner != DEFAULT_RUNNER or direct.direct_running_mode != "multi_processing":
        return None
    threading.excepthook = _end_with_worker
    # Else it would start them its own way.
    direct.direct_running_mode = "in_memory"
    command = worker_process.command(os.getpid())
    return FnApiRunner(default_environment=SubprocessSDKEnvironment.from_command_string(command))


def _end_with_worker(failure: threading.ExceptHookArgs) -> None:
    """Ends the process where a thread fails that waits for a worker process; reports what fails in other threads."""
    if not (failure.thread and failure.thread.name == "run_worker"):
        # A connection that breaks is the other side of a worker's end.
        if not isinstance(failure.exc_value, grpc.RpcError):
            threading.__excepthook__(failure)
        return
    print(f"beamscribe: the job stopped: {failure.exc_value}; what is committed stays, run it again", file=sys.stderr)
    # The runner's own way out waits for the dead worker, and leaves the others alone.
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()
    os._exit(1)


def reason(error: Exception) -> str:
    """What went wrong, without the place in the pipeline that Beam writes behind it."""
    text = re.sub(r"\s*\[while running '.*?'\]", "", str(error))
    return " ".join(text.split())[:300] or type(error).__name__


def workers(options: PipelineOptions) -> int:
    """How many workers a job will have, as far as its options say."""
    chosen = options.get_all_options()
    for name in ("max_num_workers", "num_workers", "parallelism", "direct_num_workers"):
        number = chosen.get(name)
        if isinstance(number, int) and number > 0:
            return number
    return 1
