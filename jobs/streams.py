"""The standard streams of the command's process: closed ones, full ones, and those whose reader has gone."""

import io
import os
import sys
from collections.abc import Callable
from typing import Any

from beamscribe.model.errors import BeamscribeError, one_line

_STDOUT, _STDERR = 1, 2


class ReaderGone(Exception):  # noqa: N818 - it is not an error: `head` has seen enough
    """The reader of the standard output has closed the pipe. After a `BrokenPipeError`, Rich would exit with 1."""


def install() -> None:
    """Replaces the standard streams of this process.

    A stream that was closed leads nowhere. What an encoding can't express is written as an escape. Writing to a
    standard output that is full raises a `BeamscribeError`, and where the reader has gone, `ReaderGone`. Writing to the
    standard error raises nothing: no job ends because its log is full.
    """
    _fill_descriptors()
    sys.stdout = _Output(_STDOUT, sys.stdout)
    sys.stderr = to_stderr()


def to_stderr(descriptor: int = _STDERR) -> io.TextIOWrapper:
    """A stream that writes to the standard error by a descriptor of it, and raises nothing."""
    return _Log(descriptor, sys.stderr, line_buffering=True)


def _fill_descriptors() -> None:
    """Opens the descriptors 0, 1 and 2 that are closed: else the next files that are opened would get them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


class _Stream(io.TextIOWrapper):
    """A standard stream. Once writing has failed, what else is written is dropped: Python flushes again at exit.

    Args:
      descriptor: where to write.
      before: the stream that this one replaces; its encoding is kept. None where the stream was closed.
      line_buffering: whether each line is written at once also where no terminal reads it.
    """

    def __init__(self, descriptor: int, before: Any, line_buffering: bool = False):
        raw = io.FileIO(descriptor, "w", closefd=descriptor > _STDERR)
        super().__init__(
            io.BufferedWriter(raw),
            encoding=getattr(before, "encoding", "utf-8"),
            errors="backslashreplace",
            line_buffering=line_buffering or raw.isatty(),
        )
        self._has_failed = False

    def write(self, text: str) -> int:
        """Writes a text, and returns its length."""
        self._try(lambda: super(_Stream, self).write(text))
        return len(text)

    def flush(self) -> None:
        """Writes what is buffered."""
        self._try(super().flush)

    def _try(self, act: Callable[[], Any]) -> None:
        if self._has_failed:
            return
        try:
            act()
        except OSError as error:
            self._has_failed = True
            self._tell(error)

    def _tell(self, error: OSError) -> None:
        """Raises what the error of writing means to the command."""


class _Log(_Stream):
    """The standard error. No job ends because its log is full."""


class _Output(_Stream):
    """The standard output."""

    def _tell(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            raise ReaderGone from None
        raise BeamscribeError(f"can't write to the standard output: {one_line(error)}") from None
