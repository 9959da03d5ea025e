"""Follows a run on any runner: a thread counts the rows of its committed files, and stops it where that is due."""

import collections
import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Self

import pyarrow as pa

from beamscribe.model.errors import BeamscribeError, one_line
from beamscribe.model.ticker import Ticker
from beamscribe.pipelines.control import stopping
from beamscribe.pipelines.output import frozen_plan, layout, report, rows
from beamscribe.pipelines.output.run_documents import Plan, StopCause
from beamscribe.pipelines.photos import CAPTIONED, FAILED, TAKEN_OVER

_LOGGER = logging.getLogger(__name__)

# Seconds between two looks at the run's files: each look lists a folder.
_LOOK_SECONDS = 2.0
# Seconds between two looks at the event that asks for a stop.
_STOP_SECONDS = 0.5


class Limit(NamedTuple):
    """The number of photos that may fail.

    Attributes:
      photos: the number; ignored if `share` is given.
      share: share of the planned photos, 0 to 1; None if `photos` is the limit.
    """

    photos: int = 0
    share: float | None = None

    def of(self, planned: int) -> int:
        """The limit for a number of planned photos."""
        return self.photos if self.share is None else int(self.share * planned)

    def exceeded(self, failed: int, planned: int) -> str | None:
        """What to say where more photos have failed than the limit allows; None where no more have."""
        allowed = self.of(planned)
        if failed <= allowed:
            return None
        photos = "1 photo" if failed == 1 else f"{failed:,} photos"
        return f"{photos} failed, more than the {allowed:,} that `max_failures` allows"


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
      planned: number of photos that the run has to caption.
      captioned: number of photos in the committed files with a caption that the run made.
      failed: number of photos in the committed files without a caption.
      taken_over: number of photos in the committed files with the caption of an earlier row.

    Example:
      >>> seen = []
      >>> report = beamscribe.caption("photos", "captions", limit=3, progress=seen.append)
      >>> seen[-1]
      Progress(planned=3, captioned=3, failed=0, taken_over=0)
    """

    planned: int
    captioned: int
    failed: int
    taken_over: int = 0


class Follower:
    """A context manager that follows a run until the end of the block, and shows nothing itself.

    Its thread looks at the run's committed files every 2 seconds, and once more at the end.

    Args:
      output: the folder that holds the captions of all runs.
      run: id of the run.
      max_failures: number of photos that may fail before the run is asked to stop; None for any number.
      stop: the run is asked to stop at most half a second after this event is set; None for no event.
      watch: called from the thread when the plan is known, when the numbers have changed, and at the end.
    """

    def __init__(
        self,
        output: str,
        run: str,
        max_failures: Limit | None = None,
        stop: threading.Event | None = None,
        watch: Callable[[Progress], None] | None = None,
    ):
        self._output, self._run, self._folder = output, run, layout.run_folder(output, run)
        self._max_failures, self._stop, self._watch = max_failures, stop or threading.Event(), watch
        self._plan: Plan | None = None
        # The counts of the committed files that have been read.
        self._counts: dict[str, collections.Counter[str]] = {}
        self._watched: Progress | None = None
        self._next_look = time.monotonic() + _LOOK_SECONDS
        self._has_noticed_stop = self._has_asked = self._has_warned = False
        self._ticker = Ticker(self._tick, _STOP_SECONDS, "progress")

    def __enter__(self) -> Self:
        self._ticker.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._ticker.__exit__()

    def _tick(self, last: bool) -> None:
        is_stop_new = self._stop.is_set() and not self._has_noticed_stop
        if not (last or is_stop_new or time.monotonic() >= self._next_look):
            return
        self._has_noticed_stop = self._has_noticed_stop or is_stop_new
        try:
            self._look(last)
        finally:
            self._next_look = time.monotonic() + _LOOK_SECONDS

    def _look(self, last: bool) -> None:
        if self._stop.is_set():
            self._ask("it was asked to stop", StopCause.ASKED)
        try:
            self._plan = self._plan or frozen_plan.read(self._folder)
            if self._plan:
                self._count()
        except (OSError, BeamscribeError) as error:
            # The store may answer the next time. What is wrong with a plan, the job itself reports.
            _LOGGER.debug("can't see how far the run %s is: %s", self._run, one_line(error))
        if self._plan is None:
            return
        captioned, failed, taken_over = (
            sum(count[status] for count in self._counts.values()) for status in (CAPTIONED, FAILED, TAKEN_OVER)
        )
        now = Progress(self._plan.planned, captioned, failed, taken_over)
        if self._max_failures and (reason := self._max_failures.exceeded(failed, now.planned)):
            self._ask(reason, StopCause.FAILURES)
        if self._watch and (last or now != self._watched):
            self._watched = now
            self._watch(now)

    def _count(self) -> None:
        """Counts the rows of the files that have been committed since the last look."""
        new = (path for path in layout.committed_files(self._output, self._run) if path not in self._counts)
        for path, table in rows.read_ahead(lambda path: rows.read_table(path, ["status", "taken_from"]), new):
            try:
                statuses = report.statuses_of(table.result())
            except OSError as error:
                _LOGGER.debug("can't read %s: %s", path, one_line(error))
            except (pa.ArrowException, BeamscribeError) as error:
                # A file is committed as a whole: it stays as it is.
                self._counts[path] = collections.Counter()
                _LOGGER.warning("the progress leaves out %s, which can't be read: %s", path, one_line(error))
            else:
                self._counts[path] = collections.Counter(statuses)

    def _ask(self, reason: str, cause: StopCause) -> None:
        """Asks the run to stop, unless this has been done; where that fails, the next look repeats it."""
        if self._has_asked:
            return
        try:
            stopping.stop(self._folder, reason, cause)
        except OSError as error:
            level = logging.DEBUG if self._has_warned else logging.WARNING
            _LOGGER.log(level, "can't ask the run %s to stop, trying again: %s", self._run, one_line(error))
            self._has_warned = True
        else:
            self._has_asked = True
