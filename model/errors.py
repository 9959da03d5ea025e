"""Errors that are the user's to mend, and an error as one line. Imports nothing, so that everything can import it."""

# Characters of an error's line. Some libraries quote whole files.
LONGEST = 300


class UserError(Exception):
    """Something that the user gave is wrong; the message is one line: what, where and what to do."""


class InputError(UserError):
    """Something is wrong with an input of a job; the message is one line.

    Attributes:
      field: the setting, by its name in `ListOptions`, that says what could not be told; None where there is none.
    """

    def __init__(self, message: str, field: str | None = None):
        super().__init__(message)
        self.field = field


def one_line(error: object) -> str:
    """What an error, or a text, says: one line of at most `LONGEST` characters.

    For an error of the operating system that is its reason, without the number and the path; for an error that says
    nothing, the name of its kind.
    """
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join(str(said).split()) or type(error).__name__
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
