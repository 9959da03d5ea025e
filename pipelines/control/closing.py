"""Closes runs that did not end by their own hand, so that whatever wakes up of them commits nothing more.

A job may stand still for longer than its lease lasts, as on a laptop that is suspended, and then go on. Neither a clock
nor a look at the lease stops it: it may stand still between the look and the commit. But each place that it can still
commit to is known from its plan, and files are created only where there is none. So whoever takes the lease over
creates them first: a closing file, which has all columns and no rows, at the place of each shard that is not committed,
and a plan without shards for a run that has none. The sleeper's own files then lose.
"""

import collections
import concurrent.futures
import contextlib
from collections.abc import Callable, Mapping, Sequence

from beamscribe.model.documents import DamagedDocumentError
from beamscribe.model.errors import BeamscribeError, OutputInUse
from beamscribe.pipelines import stores
from beamscribe.pipelines.control import stopping
from beamscribe.pipelines.output import frozen_plan, layout
from beamscribe.pipelines.output.places import closing_file
from beamscribe.pipelines.output.run_documents import Closing, Plan, StopCause

# Files that are created in parallel: creating one in a remote store is mostly waiting.
_CREATORS = 16


def close_earlier(
    output: str, number: int, holders: Mapping[str, bool], is_held: Callable[[], bool], own: str = ""
) -> list[str]:
    """Closes the earlier runs that have not written their reports, and deletes what their killed writers left.

    Args:
      output: the folder that holds the captions of all runs.
      number: number of the lease that this process has taken.
      holders: the runs that earlier leases name, and whether their processes are known to have ended.
      is_held: whether this process still holds the lease.
      own: id of the run that this process works for.

    Returns:
      The ids of the runs that were closed now.

    Raises:
      OutputInUse: another job has taken the lease over.
      BeamscribeError: a plan is damaged, or a newer version wrote it, so that the places of its shards are not known.
      OSError: the store reported an error.
    """
    names: dict[str, set[str]] = collections.defaultdict(set)
    # One listing for all files, since a listing takes long if there are many runs.
    for path in layout.run_files(output, "*.json"):
        names[layout.run_of_file(path)].add(path.rpartition("/")[2])
    known = {run for run, found in names.items() if found & {layout.CONFIG, layout.PLAN}} | set(holders)
    closed = []
    for run in sorted(known):
        has_ended = names[run] & {layout.REPORT, layout.COMPACTION, layout.CLOSED}
        if run == own or has_ended or layout.number_of(run) >= number or not layout.is_run(run):
            continue
        if not is_held():
            raise OutputInUse(f"another job has taken {output} over, because this one seemed dead; run it again")
        if _close(output, run, number, holders.get(run, False)):
            closed.append(run)
    _delete_temporary(output, closed, is_held)
    return closed


def _delete_temporary(output: str, closed: Sequence[str], is_held: Callable[[], bool]) -> None:
    """Deletes the temporary files of runs that are closed.

    What wakes up of these runs may miss one of them; it then commits nothing, as where it finds its place taken.
    """
    left = layout.temporary_files_of(output, closed)
    # A job that has taken the lease since may write such files, but not those that were found before.
    if left and is_held():
        for path in left:
            # A file that can't be deleted does no harm: readers ignore it.
            with contextlib.suppress(OSError):
                stores.delete(path)


def is_closed(output: str, run: str) -> bool:
    """Whether another job has closed a run."""
    return stores.exists(layout.run_file(output, run, layout.CLOSED))


def _close(output: str, run: str, number: int, is_over: bool) -> bool:
    """Closes one run; returns False for a run that is not an earlier one."""
    folder = layout.run_folder(output, run)
    empty = Plan(
        run=run, listed=0, skipped=0, planned=0, duplicates=0, outdated=0, ignored={}, shards=(), closed_by=number
    )
    try:
        plan = frozen_plan.write(folder, empty)
    except DamagedDocumentError as error:
        raise BeamscribeError(
            f"{error.path} {error.problem}; restore it from a backup, or, once no process of run {run} is left, delete "
            f"the folder {folder}: the captions do not depend on it"
        ) from None
    if plan.run_number > number:
        return False
    # Its workers take no more shards.
    stopping.stop(folder, "a later run took over", StopCause.TAKEN_OVER)
    committed = set(layout.committed_files(output, run))
    planned = (layout.shard_file(output, run, shard.index) for shard in plan.shards)
    data = closing_file(number)
    with concurrent.futures.ThreadPoolExecutor(_CREATORS) as creators:
        # The list raises the first error.
        list(creators.map(lambda path: stores.create(path, data), (path for path in planned if path not in committed)))
    if layout.is_compaction(run):
        # A compaction has no plan. It writes its files one after the other, and stops at the first one that is there.
        index = max((layout.index_of(path) + 1 for path in committed), default=0)
        while not stores.create(layout.shard_file(output, run, index), data):
            index += 1
    stores.create(layout.run_file(output, run, layout.CLOSED), Closing(closed_by=number, is_over=is_over).to_json())
    return True
