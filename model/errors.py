"""The errors of the public API, and an error as one line. All can import it: it imports only the standard library."""

import difflib
from collections.abc import Iterable
from typing import Any

# Characters of an error's line. Some libraries quote whole files.
LONGEST = 300

# Errors that show a mistake in a program, rather than something wrong with its input.
PROGRAMMING_ERRORS = (TypeError, AttributeError, NameError, ImportError, AssertionError, LookupError, ZeroDivisionError)


class BeamscribeError(Exception):
    """The base of all errors that Beamscribe raises for its caller.

    The message is one line: what is wrong, where, and what to do. It names arguments of functions in backticks, such as
    `max_failures`; the command line names the options that set them.

    Example:
      >>> try:
      ...   beamscribe.read("nowhere")
      ... except beamscribe.BeamscribeError as error:
      ...   print("there is no folder" in str(error))
      True
    """


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

    def __init__(self, message: str, report: Any = None):
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


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: `; did you mean …?` if one of the names is like it; else empty."""
    close = difflib.get_close_matches(name, list(names), 1)
    return f"; did you mean {close[0]}?" if close else ""
