"""The parts of Beam that are not its public interface, each with why there is no way around it.

Nothing else under `jobs/` uses such parts. tests/test_private_parts.py fails where a new version changes one of them.
"""

import argparse
import sys
import threading
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES, FlinkRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from beamscribe.jobs import argparse_internals

# The thread in which the direct runner waits for the end of a worker process.
_WAITING_THREAD = "run_worker"


def option_names() -> set[str]:
    """All options of Beam, in all their spellings, such as `--runner`.

    Beam passes over an option that it does not know, so that a misspelt one would have no effect. It has no list of
    those that it knows: each class of options adds its own to a parser.
    """
    parser: Any = argparse.ArgumentParser(allow_abbrev=False, conflict_handler="resolve")
    for kind in PipelineOptions.__subclasses__():
        kind._add_argparse_args(parser)
    return argparse_internals.names_in(parser)


def runner_with_processes(command: str) -> PipelineRunner:
    """The direct runner, whose workers are processes that a command starts.

    Of the options of Beam none names the command, with which alone workers can be made to end with their launcher.

    Args:
      command: what a shell runs to become a worker.
    """
    return FnApiRunner(default_environment=SubprocessSDKEnvironment.from_command_string(command))


def is_waiting_for_worker(thread: threading.Thread | None) -> bool:
    """Whether a thread is one of those in which the direct runner waits for the end of a worker process.

    An error in it means that a worker has died. The runner itself does not look, and waits for ever.
    """
    return thread is not None and thread.name == _WAITING_THREAD


def become_worker() -> None:
    """Runs a worker in this process, with what the runner says in the environment; returns when the job has ended.

    Beam has a program for this, `python -m apache_beam.runners.worker.sdk_worker_main`; what a process does before it
    becomes a worker can't be added to that.
    """
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv[:1])


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
