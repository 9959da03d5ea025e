"""What is printed to a terminal."""

import contextlib
import os
import sys
from collections.abc import Iterator


def printable(text: str) -> str:
    """The text without what would move a terminal's cursor or change its colours."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


@contextlib.contextmanager
def until_closed() -> Iterator[None]:
    """What prints within ends quietly where whoever reads the output has enough (`| head`)."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes again at exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
