"""The errors of the public API, and an error as one line. Imports nothing, so that everything can import it."""

from typing import Any

# Characters of an error's line. Some libraries quote whole files.
LONGEST = 300


class BeamscribeError(Exception):
    """The base of all errors that Beamscribe raises for its caller.

    The message is one line: what is wrong, where, and what to do. It names arguments of functions in backticks, such as
    `max_failures`; the command line names the options that set them.
    """


class InputError(BeamscribeError):
    """An argument is wrong, or it names a file, a folder or a photo that is not there or can't be understood.

    Attributes:
      field: the setting, by its name in `ListOptions`, that says what could not be told; None where there is none.
    """

    def __init__(self, message: str, field: str | None = None):
        super().__init__(message)
        self.field = field


class OutputInUse(BeamscribeError):  # noqa: N818 - a public name
    """Another job writes to the output folder."""


class RunError(BeamscribeError):
    """A run has ended, and its folder has no `_SUCCESS`: the job has failed, or photos have by a fault of Beamscribe.

    Attributes:
      report: the report of the run, a `beamscribe.Report`; None where the job failed before there was one.
    """

    def __init__(self, message: str, report: Any = None):
        super().__init__(message)
        self.report = report


class NoPhotos(RunError):
    """An input holds no photos; a disk may not be mounted."""


class TooManyFailures(RunError):
    """More photos have failed than `max_failures` allows. The run may have been stopped early; the next does the rest."""


class Stopped(RunError):
    """The run was asked to stop, and has left photos to the next run."""


def one_line(error: object) -> str:
    """What an error, or a text, says: one line of at most `LONGEST` characters.

    For an error of the operating system that is its reason, without the number and the path; for an error that says
    nothing, the name of its kind.
    """
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join(str(said).split()) or type(error).__name__
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
