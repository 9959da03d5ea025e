"""Folds the files of many runs into few, which hold the rows that may still count, sorted by photo: mostly one a photo.

The new files are read back and compared with the old ones before the old ones are deleted. The command can be stopped
at any moment: the output stays valid, and the same command goes on. Sorting takes about as much temporary disk space
(TMPDIR) as the captions take. Photos that are no longer there keep their captions, unless --prune-gone drops them.
"""

import argparse
from typing import TYPE_CHECKING

from beamscribe.jobs.options import output_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from beamscribe.pipelines.output.compaction import Compaction, FileRecord, Outcome

EXAMPLE = "beamscribe compact /captions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    output_folder.add_argument(parser)
    parser.add_argument(
        "--prune-gone",
        action="store_true",
        help="drop all rows of photos that are no longer there; those that come back are then captioned again",
    )


def run(options: argparse.Namespace, _: list[str]) -> int:
    """Folds the runs and prints what has changed."""
    from beamscribe.jobs.runners import remote_jobs
    from beamscribe.model.errors import BeamscribeError, one_line
    from beamscribe.pipelines.control import lease
    from beamscribe.pipelines.output import compaction, layout

    output = output_folder.checked(options.output)
    lost: list[str] = []
    try:
        run = layout.new_run(compaction=True)
        with lease.hold(output, "compact", lost.append, is_running=remote_jobs.is_running, run=run) as held:
            taken = compaction.Lease(held.number, held.is_held, layout.numbered(run, held.number))
            outcome = compaction.compact(output, lost, taken, options.prune_gone)
    except OSError as error:
        raise BeamscribeError(f"can't compact {output}: {one_line(error)}; run it again to go on") from None
    if not options.quiet:
        _print_outcome(outcome)
    return 0


def _print_outcome(outcome: "Outcome") -> None:
    if outcome.left_over:
        print(f"deleted {_counted(outcome.left_over, 'file')} that an interrupted compaction had left")
    if outcome.folded:
        _print_summary(outcome.folded)
    elif not outcome.left_over:
        print("nothing to do")


def _print_summary(folded: "Compaction") -> None:
    before, after = folded.sources, folded.results
    print(f"files: {len(before):,} of {len(folded.runs):,} runs → {len(after):,}")
    print(f"rows:  {sum(file.rows for file in before):,} → {folded.rows:,}")
    print(f"size:  {_megabytes(before)} → {_megabytes(after)}")
    if folded.pruned:
        print(f"gone:  {_counted(folded.pruned, 'photo')} dropped")


def _counted(count: int, noun: str) -> str:
    return f"1 {noun}" if count == 1 else f"{count:,} {noun}s"


def _megabytes(files: "Sequence[FileRecord]") -> str:
    return f"{sum(file.bytes for file in files) / 1e6:,.1f} MB"
