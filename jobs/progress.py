"""Shows how far a run is: a thread that counts commits against the plan, the same on every runner."""

import sys
import threading
from types import TracebackType
from typing import Any

from tqdm import tqdm

from pipelines import plan, storage
from pipelines.caption import CaptionOptions, commit_path

# Seconds between two looks, each of which lists a folder; in a log, every look is a line.
_TERMINAL_INTERVAL = 2.0
_LOG_INTERVAL = 30.0


class Progress:
    """A context in which a progress bar follows the run's commits.

    Args:
      options: of the run.
    """

    def __init__(self, options: CaptionOptions):
        self._options = options
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
                last = self._stop.wait(self._interval)
                bar.n = self._committed(made)
                bar.refresh()

    def _plan(self) -> plan.Plan | None:
        try:
            return plan.read(self._options.folder)
        except OSError:
            return None

    def _committed(self, made: plan.Plan) -> int:
        """Photos of the shards that are committed; a look that fails counts none and is made again."""
        options: Any = self._options
        try:
            done = set(storage.within(options.output, "captions", f"run={options.run}", "shard-*.parquet"))
        except OSError:
            return 0
        return sum(s.photos for s in made.shards if commit_path(options.output, options.run, s.index) in done)
