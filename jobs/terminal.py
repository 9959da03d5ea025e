"""Prints to a terminal, or to a pipe."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping

from beamscribe.jobs.streams import ReaderGone
from beamscribe.model.errors import printable as printable


def print_ignored(ignored: Mapping[str, int]) -> None:
    """Prints how many files a listing ignored, by kind; nothing where there are none."""
    if ignored:
        kinds = (f"{count} {printable(kind) or 'without an extension'}" for kind, count in ignored.items())
        print(f"ignored files: {', '.join(kinds)}")


class PrintableFormatter(logging.Formatter):
    """Formats records of logs so that no name in them commands a terminal, or looks like a record of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, with escapes for control characters; lines after the first one are indented."""
        return "\n    ".join(printable(line) for line in super().format(record).split("\n"))


@contextlib.contextmanager
def until_closed() -> Iterator[None]:
    """Ends a block quietly where the reader of its output has closed the pipe, as `head` does."""
    with contextlib.suppress(ReaderGone):
        yield
        sys.stdout.flush()
