"""Shows the progress of a run on any runner: a thread compares the committed shards with the plan."""

import contextlib
import sys
import threading
import time
from types import TracebackType
from typing import NamedTuple

from tqdm import tqdm

from beamscribe.model.errors import BeamscribeError
from beamscribe.pipelines.control import stopping
from beamscribe.pipelines.output import frozen_plan, layout, rows
from beamscribe.pipelines.output.run_documents import Plan
from beamscribe.pipelines.photos import FAILED

# Seconds between two updates, on a terminal and in a log. Each update lists a folder and, in a log, adds a line.
_TERMINAL_INTERVAL = 2.0
_LOG_INTERVAL = 30.0
# Seconds between two counts of failures.
_CHECK_INTERVAL = 1.0


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


class Progress:
    """A context manager that shows a progress bar of the run's commits, and stops a run with too many failures.

    Args:
      output: the folder that holds the captions of all runs.
      run: id of the run.
      max_failures: limit of failed photos; None for no limit.
    """

    def __init__(self, output: str, run: str, max_failures: Limit | None = None):
        self._output, self._run, self._folder = output, run, layout.run_folder(output, run)
        self._max_failures = max_failures
        self._failed: dict[str, int] = {}
        self._interval = _TERMINAL_INTERVAL if sys.stderr.isatty() else _LOG_INTERVAL
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        plan = None
        while plan is None and not self._stop.wait(_TERMINAL_INTERVAL):
            plan = self._plan()
        plan = plan or self._plan()
        if plan is None or not plan.planned:
            return
        with tqdm(total=plan.planned, unit="photo", desc="captioned", smoothing=0.1) as bar:
            last = False
            while not last:
                last = self._wait(plan)
                bar.n = self._photos(plan, self._committed())
                bar.refresh()

    def _wait(self, plan: Plan) -> bool:
        """Waits until the next update and returns whether the run has ended; meanwhile checks the limit of failures."""
        end = time.monotonic() + self._interval
        while self._max_failures and time.monotonic() < end and not self._stop.is_set():
            self._check(plan, self._max_failures)
            self._stop.wait(_CHECK_INTERVAL)
        ended = self._stop.wait(max(end - time.monotonic(), 0.0))
        if ended and self._max_failures:
            self._check(plan, self._max_failures)
        return ended

    def _check(self, plan: Plan, limit: Limit) -> None:
        for path in self._committed() - self._failed.keys():
            try:
                statuses = rows.read_table(path, ["status"])["status"].to_pylist()
            except OSError:
                continue
            self._failed[path] = statuses.count(FAILED)
        failed, allowed = sum(self._failed.values()), limit.of(plan.planned)
        if failed > allowed:
            reason = f"{failed} photos failed, more than the limit of {allowed} (--max-failures)"
            # If the request fails, the next check repeats it.
            with contextlib.suppress(OSError):
                stopping.stop(self._folder, reason)

    def _plan(self) -> Plan | None:
        try:
            return frozen_plan.read(self._folder)
        except (OSError, BeamscribeError):
            # The job itself reports what is wrong with its plan.
            return None

    def _committed(self) -> set[str]:
        """The run's committed files; empty if the listing fails, since the next update repeats it."""
        try:
            return set(layout.committed_files(self._output, self._run))
        except OSError:
            return set()

    def _photos(self, plan: Plan, committed: set[str]) -> int:
        return sum(
            shard.photos
            for shard in plan.shards
            if layout.shard_file(self._output, self._run, shard.index) in committed
        )
