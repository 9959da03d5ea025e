"""Shows how far a run is: a thread that counts commits against the plan, the same on every runner."""

import contextlib
import sys
import threading
import time
from types import TracebackType
from typing import NamedTuple

from tqdm import tqdm

from beamscribe.pipelines import plan
from beamscribe.pipelines.caption_archive import CaptionOptions, commit_path
from beamscribe.pipelines.control import stopping
from beamscribe.pipelines.output import rows
from beamscribe.pipelines.photos import FAILED

# Seconds between two looks, each of which lists a folder; in a log, every look is a line.
_TERMINAL_INTERVAL = 2.0
_LOG_INTERVAL = 30.0
# Between two counts of failures.
_CHECK_INTERVAL = 1.0


class Limit(NamedTuple):
    """How many photos may fail: a number, or a share of those that are planned."""

    photos: int = 0
    share: float | None = None

    def of(self, planned: int) -> int:
        """The number."""
        return self.photos if self.share is None else int(self.share * planned)


class Progress:
    """A context in which a progress bar follows the run's commits, and which ends a run that fails too often.

    Args:
      options: of the run.
      max_failures: how many photos may fail; None for any number.
    """

    def __init__(self, options: CaptionOptions, max_failures: Limit | None = None):
        self._options = options
        self._max_failures = max_failures
        self._failed: dict[str, int] = {}
        self._interval = _TERMINAL_INTERVAL if sys.stderr.isatty() else _LOG_INTERVAL
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        made = None
        while made is None and not self._stop.wait(_TERMINAL_INTERVAL):
            made = self._plan()
        made = made or self._plan()
        if made is None or not made.planned:
            return
        with tqdm(total=made.planned, unit="photo", desc="captioned", smoothing=0.1) as bar:
            last = False
            while not last:
                last = self._wait(made)
                bar.n = self._photos(made, self._committed())
                bar.refresh()

    def _wait(self, made: plan.Plan) -> bool:
        """Waits for the next look, and says whether the run has ended; meanwhile counts failures where they matter."""
        end = time.monotonic() + self._interval
        while self._max_failures and time.monotonic() < end and not self._stop.is_set():
            self._check(made, self._max_failures)
            self._stop.wait(_CHECK_INTERVAL)
        ended = self._stop.wait(max(end - time.monotonic(), 0.0))
        if ended and self._max_failures:
            self._check(made, self._max_failures)
        return ended

    def _check(self, made: plan.Plan, limit: Limit) -> None:
        for path in self._committed() - self._failed.keys():
            try:
                statuses = rows.read_table(path, ["status"])["status"].to_pylist()
            except OSError:
                continue
            self._failed[path] = statuses.count(FAILED)
        failed, allowed = sum(self._failed.values()), limit.of(made.planned)
        if failed > allowed:
            reason = f"{failed} photos failed, more than the {allowed} of --max-failures"
            # Where that fails it is done at the next look.
            with contextlib.suppress(OSError):
                stopping.stop(self._options.folder, reason)

    def _plan(self) -> plan.Plan | None:
        try:
            return plan.read(self._options.folder)
        except OSError:
            return None

    def _committed(self) -> set[str]:
        """The run's committed files; none where a look fails, which is made again."""
        try:
            return set(rows.committed_files(self._options.output, self._options.run))
        except OSError:
            return set()

    def _photos(self, made: plan.Plan, committed: set[str]) -> int:
        options = self._options
        return sum(s.photos for s in made.shards if commit_path(options.output, options.run, s.index) in committed)
