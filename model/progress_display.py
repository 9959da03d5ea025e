"""Shows on stderr how far a job is: a bar on a terminal, elsewhere a line with a time every 30 seconds."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol, Self, TextIO

from tqdm import tqdm

from beamscribe.model.ticker import Ticker

_LOGGER = logging.getLogger("beamscribe.progress")

# Seconds between two lines, and between two updates of a bar.
_LINE_SECONDS = 30.0
_BAR_SECONDS = 0.5

# The columns of a terminal of unknown width.
_COLUMNS = 80

# The units of rates, with their seconds: a slow job's rate is a number of photos per minute or per hour.
_RATES = (("s", 1), ("min", 60), ("h", 3600))


class _Snapshot(Protocol):
    """How far a captioning job is: `beamscribe.pipelines.control.progress.Progress` is one."""

    @property
    def planned(self) -> int: ...

    @property
    def captioned(self) -> int: ...

    @property
    def failed(self) -> int: ...

    @property
    def taken_over(self) -> int: ...


class _Count(NamedTuple):
    """The numbers of what is done and of what has failed, a note, and how many of the unit a second brings."""

    done: int
    failed: int
    note: str
    rate: float | None

    @property
    def number(self) -> int:
        return self.done + self.failed


class Display:
    """A context manager that shows how far a job is: captioned 512 and failed 3 of 6,000 photos, 3 min left.

    On a terminal it draws a bar, below the records that others log meanwhile. Elsewhere it logs a line every 30
    seconds, and one at the end. It shows nothing before the first count, and nothing where the logger
    `beamscribe.progress` does not take INFO.

    Args:
      total: how many of the unit there are; None for an unknown number. The attribute may be set later.
      unit: what is counted, in the singular.
      done: the words before the number of those that are done.
      clock: gives the time in seconds.
    """

    def __init__(
        self, total: int | None, unit: str, done: str = "captioned", clock: Callable[[], float] = time.monotonic
    ):
        self.total = total
        self._unit, self._done, self._clock = unit, done, clock
        self._count: _Count | None = None
        self._pace = _Pace()
        self._bar: tqdm | None = None
        self._line = ""
        self._is_shown = _LOGGER.isEnabledFor(logging.INFO)
        self._has_terminal = self._is_shown and _is_terminal(sys.stderr)
        self._block = ExitStack()

    def __enter__(self) -> Self:
        if self._has_terminal:
            self._block.enter_context(_LogsAboveBar())
        if self._is_shown:
            seconds = _BAR_SECONDS if self._has_terminal else _LINE_SECONDS
            self._block.enter_context(Ticker(self._draw, seconds, "display"))
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Shows the last numbers, and nothing after them; the end of the block does this, too."""
        self._block.close()

    def show(self, done: int, failed: int = 0, note: str = "") -> None:
        """Takes the present numbers, which the next update shows.

        Args:
          done: number of those that are done.
          failed: number of those that have failed.
          note: what else to show, such as a loss.
        """
        self._pace.take(self._clock(), done + failed)
        self._count = _Count(done, failed, note, self._pace.rate)

    def follow(self, run: _Snapshot) -> None:
        """Takes the total and the present numbers of a captioning job."""
        self.total = run.planned
        note = f"{run.taken_over:,} of them taken over" if run.taken_over else ""
        self.show(run.captioned + run.taken_over, run.failed, note)

    def _draw(self, last: bool) -> None:
        count = self._count
        if count is None or self.total == 0:
            return
        line = self._text(count, last)
        if not self._has_terminal:
            if line != self._line or not last:
                _LOGGER.info("%s", line)
            self._line = line
            return
        if self._bar is None:
            # The rows are given since tqdm draws nothing on a terminal that says it has none.
            self._bar = tqdm(file=sys.stderr, ncols=_COLUMNS, nrows=20, bar_format="{percentage:3.0f}%|{bar}| {desc}")
        # While TensorFlow is imported, descriptor 2 is no terminal.
        with contextlib.suppress(OSError):
            self._bar.ncols = os.get_terminal_size(sys.stderr.fileno()).columns or _COLUMNS
        self._bar.total, self._bar.n = self.total, count.number
        self._bar.set_description_str(line)
        if last:
            self._bar.close()

    def _text(self, count: _Count, last: bool) -> str:
        """The line about a count; the last one says nothing of the time that is left."""
        numbers = f"{count.done:,}" + (f" and failed {count.failed:,}" if count.failed else "")
        total = count.number if self.total is None else self.total
        of = "" if self.total is None else f" of {total:,}"
        parts = [f"{self._done} {numbers}{of} {self._unit}{'' if total == 1 else 's'}", count.note]
        if count.rate:
            parts.append(_rate(count.rate, self._unit))
            if self.total is not None and self.total > count.number and not last:
                parts.append(f"{_duration((self.total - count.number) / count.rate)} left")
        return ", ".join(part for part in parts if part)


class _Pace:
    """How fast a number grows. The clock starts when it first grows: what comes before is the start-up."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None
        self._latest = 0
        self.rate: float | None = None

    def take(self, now: float, number: int) -> None:
        """Takes the number at a time in seconds."""
        if number <= self._latest:
            return
        self._latest = number
        if self._first is None:
            self._first = (now, number)
        elif now > self._first[0]:
            self.rate = (number - self._first[1]) / (now - self._first[0])


class _LogsAboveBar:
    """A context manager in which records that are logged to a terminal push the bar down instead of mixing with it."""

    def __enter__(self) -> None:
        self._streams: list[tuple[logging.StreamHandler, Any]] = []
        logger: logging.Logger | None = _LOGGER
        while logger:
            for handler in logger.handlers:
                if isinstance(handler, logging.StreamHandler) and _is_terminal(handler.stream):
                    self._streams.append((handler, handler.setStream(_AboveBar(handler.stream))))
            logger = logger.parent

    def __exit__(self, *_: object) -> None:
        for handler, stream in self._streams:
            handler.setStream(stream)


class _AboveBar:
    """A terminal's stream that takes the bar away while it writes."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            self._stream.write(text)
            self._stream.flush()

    def flush(self) -> None:
        self._stream.flush()


def _is_terminal(stream: Any) -> bool:
    """Whether a stream is an open terminal."""
    return not getattr(stream, "closed", True) and stream.isatty()


def _rate(per_second: float, unit: str) -> str:
    """A rate as people read it: 30.1 photos/s, or 2.5 photos/min where that is below one a second."""
    name, seconds = next((rate for rate in _RATES if per_second * rate[1] >= 1), _RATES[-1])
    return f"{per_second * seconds:,.1f} {unit}s/{name}"


def _duration(seconds: float) -> str:
    """A duration as people read it: 40 s, 3 min, 2 h 10 min, 3 days 4 h."""
    if seconds < 59.5:
        return f"{max(seconds, 1.0):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    days, hours = divmod(round(minutes / 60), 24)
    return f"{days} day{'s'[: days > 1]} {hours} h"
