"""Finds earlier runs on an output folder that did not finish, to continue or to stop them."""

import collections
import logging

from beamscribe.model.documents import DamagedDocumentError
from beamscribe.model.errors import one_line
from beamscribe.pipelines import stores
from beamscribe.pipelines.control import stopping
from beamscribe.pipelines.output import frozen_plan, layout, report
from beamscribe.pipelines.output.current import Since
from beamscribe.pipelines.output.run_documents import Config, StopCause

_LOGGER = logging.getLogger(__name__)

# A run continues an earlier one if these are equal. With another limit or version, a photo that failed may succeed.
_ALIKE = ("inputs", "bundle", "settings", "recaption", "max_pixels", "version")


def unfinished_since(config: Config) -> Since | None:
    """The first unfinished run that a new run continues; None if there is none to continue.

    A run continues the latest earlier runs that are unfinished and had the same configuration. The rows that they wrote
    need not be written again, even if `--recaption` asks for all photos.

    Args:
      config: configuration of the new run.

    Raises:
      NewerDocumentError: a newer version of Beamscribe wrote to the folder.
      OSError: the store reported an error.
    """
    since = None
    for path in reversed(layout.run_files(config.output, layout.CONFIG)):
        try:
            earlier = Config.from_json(stores.read(path), path)
        except DamagedDocumentError as error:
            # Nothing else tells whether that run had the same configuration.
            _LOGGER.warning("no earlier run is continued, since its configuration can't be read: %s", one_line(error))
            break
        alike = all(getattr(earlier, name) == getattr(config, name) for name in _ALIKE)
        if not alike or report.finished_runs(config.output, layout.run_of_file(path)):
            break
        since = Since(earlier.run_number or _planned_number(config.output, path), earlier.started_at)
    return since


def _planned_number(output: str, path: str) -> int:
    """The number of a template's run, which its plan alone has; 0 for a run of an earlier version."""
    try:
        plan = frozen_plan.read(layout.run_folder(output, layout.run_of_file(path)))
    except DamagedDocumentError:
        return 0
    return plan.run_number if plan else 0


def stop_earlier(
    output: str, reason: str = "a later run took over", cause: StopCause = StopCause.TAKEN_OVER
) -> list[str]:
    """Stops earlier runs that did not finish: their workers may still run on other machines.

    Args:
      output: the folder that holds the captions of all runs.
      reason: why, for people.
      cause: what asks for it.

    Returns:
      The ids of the runs that were asked to stop now.

    Raises:
      OSError: the store reported an error.
    """
    names = collections.defaultdict(set)
    # One listing for all files, since a listing takes long if there are many runs.
    for path in layout.run_files(output, "*.json"):
        names[layout.run_of_file(path)].add(path.rpartition("/")[2])
    unfinished = [
        run
        for run, found in sorted(names.items())
        if layout.CONFIG in found and not found & {layout.REPORT, layout.STOP, layout.COMPACTION}
    ]
    for run in unfinished:
        stopping.stop(layout.run_folder(output, run), reason, cause)
    return unfinished
