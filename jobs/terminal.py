"""Prints to a terminal, or to a pipe."""

import contextlib
import sys
from collections.abc import Iterator, Mapping

from beamscribe.jobs.streams import ReaderGone
from beamscribe.model.errors import printable as printable


def print_ignored(ignored: Mapping[str, int]) -> None:
    """Prints how many files a listing ignored, by kind; nothing where there are none."""
    if ignored:
        kinds = (f"{count} {printable(kind) or 'without an extension'}" for kind, count in ignored.items())
        print(f"ignored files: {', '.join(kinds)}")


@contextlib.contextmanager
def until_closed() -> Iterator[None]:
    """Ends a block quietly where the reader of its output has closed the pipe, as `head` does."""
    with contextlib.suppress(ReaderGone):
        yield
        sys.stdout.flush()
