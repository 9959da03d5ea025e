"""The errors of the public API, an error as one line, and the checks of arguments that all functions of the API share.

All can import it: it imports only the standard library.
"""

import difflib
import os
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beamscribe.pipelines.output.run_documents import Report

# Characters of an error's line. Some libraries quote whole files.
LONGEST = 300
# Characters of a value that an error shows.
_LONGEST_VALUE = 40

# Errors that show a mistake in a program, rather than something wrong with its input.
PROGRAMMING_ERRORS = (TypeError, AttributeError, NameError, ImportError, AssertionError, LookupError, ZeroDivisionError)


class BeamscribeError(Exception):
    r"""The base of all errors that Beamscribe raises for its caller.

    The message is one line: what is wrong, where, and what to do. It names arguments of functions in backticks, such as
    `max_failures`; the command line names the options that set them. Line breaks and control characters of the names in
    it are shown as escapes, such as `\n`.

    Example:
      >>> try:
      ...   beamscribe.read("nowhere")
      ... except beamscribe.BeamscribeError as error:
      ...   print("there is no folder" in str(error))
      True
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class InputError(BeamscribeError):
    """An argument is wrong, or it names a file, a folder or a photo that is not there or can't be understood.

    Attributes:
      field: the setting, by its name in `ListOptions`, that says what could not be told; None where there is none.

    Example:
      >>> try:
      ...   beamscribe.caption("nowhere", "captions")
      ... except beamscribe.InputError as error:
      ...   print("nowhere does not exist" in str(error))
      True
    """

    def __init__(self, message: str, field: str | None = None):
        super().__init__(message)
        self.field = field


class OutputInUse(BeamscribeError):  # noqa: N818 - a public name
    """Another job writes to the output folder, or has taken it over.

    Example:
      >>> try:
      ...   report = beamscribe.caption("photos", "captions", limit=3)
      ... except beamscribe.OutputInUse as error:
      ...   print(f"not tonight: {error}")
      >>> report.captioned
      3
    """


class RunError(BeamscribeError):
    """A run has ended, and its folder has no `_SUCCESS`: the job has failed, or photos have by a fault of Beamscribe.

    Attributes:
      report: the report of the run, a `beamscribe.Report`; None where the job failed before there was one.

    Example:
      >>> try:
      ...   beamscribe.caption("photos", "captions", max_failures=0)
      ... except beamscribe.RunError as error:
      ...   print(type(error).__name__, error.report.failed)
      TooManyFailures 1
    """

    def __init__(self, message: str, report: "Report | None" = None):
        super().__init__(message)
        self.report = report


class NoPhotos(RunError):  # noqa: N818 - a public name
    """An input holds no photos; a disk may not be mounted.

    Example:
      >>> import os
      >>> os.mkdir("not_mounted")
      >>> try:
      ...   beamscribe.caption(["not_mounted", "photos"], "captions")
      ... except beamscribe.NoPhotos as error:
      ...   print([os.path.basename(uri) for uri in error.report.empty_inputs], error.report.captioned)
      ['not_mounted'] 12
    """


class TooManyFailures(RunError):  # noqa: N818 - a public name
    """More photos have failed than `max_failures` allows. If the run was stopped early, the next one does the rest.

    Example:
      >>> try:
      ...   beamscribe.caption("photos", "captions", max_failures="5%")
      ... except beamscribe.TooManyFailures as error:
      ...   print(error.report.failures)
      {'truncated': 1}
    """


class Stopped(RunError):  # noqa: N818 - a public name
    """The run was asked to stop, and has left photos to the next run.

    Example:
      >>> import threading
      >>> stop = threading.Event()
      >>> stop.set()
      >>> try:
      ...   beamscribe.caption("photos", "captions", stop=stop)
      ... except beamscribe.Stopped:
      ...   print("the next run does the rest")
      the next run does the rest
    """


def one_line(error: object) -> str:
    """What an error, or a text, says: one line of at most `LONGEST` characters.

    For an error of the operating system that is its reason, without the number and the path; for an error that says
    nothing, the name of its kind.
    """
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join(str(said).split()) or type(error).__name__
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def printable(text: str) -> str:
    r"""The text with an escape, such as `\x1b`, for each character that would break the line or command a terminal."""
    return "".join(
        # `isprintable` takes the spaces of other scripts for control characters.
        char if char.isprintable() or unicodedata.category(char) == "Zs" else repr(char)[1:-1]
        for char in text
    )


def nearest(name: str, names: Iterable[str], alike: float = 0.6) -> str:
    """The end of a message about an unknown name: `; did you mean …?` if one of the names is like it; else empty.

    Args:
      name: the unknown name.
      names: the known ones.
      alike: how much of them must be the same, from 0 to 1.
    """
    close = difflib.get_close_matches(name, list(names), 1, alike)
    return f"; did you mean {close[0]}?" if close else ""


def shown(value: object) -> str:
    """A wrong value and its type, for a message: one line, however long the value is."""
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + '…'} ({type(value).__name__})"


def path_of(name: str, value: Any) -> str:
    """Checks an argument that names a file or a folder, and returns it as a text.

    Args:
      name: name of the argument, for the message.
      value: the argument: a path or a URI.

    Raises:
      InputError: it is neither, is empty, or holds a character that no name can hold.
    """
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"`{name}` must be a path or a URI, not {shown(value)}")
    try:
        text = os.fsdecode(value)
    except TypeError as error:
        raise InputError(f"`{name}` must be a path or a URI: {one_line(error)}") from None
    if not text:
        raise InputError(f"`{name}` is empty; give a path or a URI")
    if "\0" in text:
        raise InputError(f"`{name}` {text}: no name can hold the character NUL")
    return text


def text(name: str, value: Any) -> str | None:
    """Checks an argument that is a text, or None.

    Raises:
      InputError: it is something else.
    """
    if value is not None and not isinstance(value, str):
        raise InputError(f"`{name}` must be a text, not {shown(value)}")
    return value


def flag(name: str, value: Any) -> bool:
    """Checks an argument that turns something on or off.

    Raises:
      InputError: it is neither True nor False.
    """
    if not isinstance(value, bool):
        raise InputError(f"`{name}` must be True or False, not {shown(value)}")
    return value
