"""Asks the runs that write to an output folder to stop early: their workers take no more shards.

It works for a job on any runner, also for one that `caption --detach` has started. Committed captions stay.
"""

import argparse

from beamscribe.jobs.options import output_folder
from beamscribe.jobs.terminal import printable

EXAMPLE = "beamscribe stop /captions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    output_folder.add_argument(parser)


def run(options: argparse.Namespace, _: list[str]) -> int:
    """Asks the unfinished runs to stop, and prints which they are."""
    from beamscribe.model.errors import BeamscribeError, one_line
    from beamscribe.pipelines.control import history
    from beamscribe.pipelines.output.run_documents import StopCause

    output = output_folder.checked(options.output)
    try:
        stopped = history.stop_earlier(output, "it was asked to, by `beamscribe stop`", StopCause.ASKED)
    except OSError as error:
        raise BeamscribeError(f"can't write to {output}: {one_line(error)}") from error
    if not options.quiet:
        for run_id in stopped:
            print(f"run {printable(run_id)} takes no more shards")
        if not stopped:
            print("no run is going on")
    return 0
