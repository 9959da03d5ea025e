"""The reasons why a photo can't be captioned: a closed list of error codes."""

import enum
from typing import NamedTuple

from beamscribe.model.errors import one_line


class Stage(enum.StrEnum):
    """The stage of the job in which a photo failed."""

    LIST = "list"
    READ = "read"
    DECODE = "decode"
    CAPTION = "caption"


class ErrorCode(enum.StrEnum):
    """The kind of failure."""

    NOT_FOUND = "not_found"
    PERMISSION = "permission"
    UNREADABLE = "unreadable"
    CHANGED_WHILE_READING = "changed_while_reading"
    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_SMALL = "too_small"
    TOO_LARGE = "too_large"
    TIMEOUT = "timeout"
    DECODER_CRASH = "decoder_crash"
    MODEL_ERROR = "model_error"

    @property
    def sentence(self) -> str:
        """The meaning of the code, for users."""
        return _MEANINGS[self].sentence

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages in which the failure can happen."""
        return _MEANINGS[self].stages

    @property
    def transient(self) -> bool:
        """Whether the failure may be gone in the next run, which therefore tries the photo again."""
        return _MEANINGS[self].transient


class _Meaning(NamedTuple):
    sentence: str
    stages: tuple[Stage, ...]
    transient: bool = False


_FINDING = (Stage.LIST, Stage.READ)
_ANYWHERE = (Stage.LIST, Stage.READ, Stage.DECODE)

_MEANINGS = {
    ErrorCode.NOT_FOUND: _Meaning(
        "The listed file does not exist (for example, it is a broken link).", _FINDING, transient=True
    ),
    ErrorCode.PERMISSION: _Meaning("The store denied access to the file.", _FINDING, transient=True),
    ErrorCode.UNREADABLE: _Meaning("Opening or reading the file failed for another reason.", _FINDING, transient=True),
    ErrorCode.CHANGED_WHILE_READING: _Meaning("The file changed after it was listed.", (Stage.READ,), transient=True),
    ErrorCode.EMPTY: _Meaning("The file has no bytes.", (Stage.READ, Stage.DECODE)),
    ErrorCode.NOT_AN_IMAGE: _Meaning(
        "The bytes are in no known photo format, whatever the file's name suggests.", (Stage.DECODE,)
    ),
    ErrorCode.UNSUPPORTED_FORMAT: _Meaning(
        "Beamscribe recognizes the format but can't decode it, or can't decode this variant of it.", _ANYWHERE
    ),
    ErrorCode.TRUNCATED: _Meaning("The file, or the archive that contains it, ends before the photo does.", _ANYWHERE),
    ErrorCode.CORRUPT: _Meaning("The file starts like a photo or an archive, but can't be decoded.", _ANYWHERE),
    ErrorCode.TOO_SMALL: _Meaning("One side of the photo has too few pixels to show anything.", (Stage.DECODE,)),
    ErrorCode.TOO_LARGE: _Meaning(
        "The photo has more pixels or bytes than the limit, or needs more memory than an image process may use.",
        (Stage.READ, Stage.DECODE),
    ),
    ErrorCode.TIMEOUT: _Meaning(
        "Decoding the photo alone took longer than the limit.", (Stage.DECODE,), transient=True
    ),
    ErrorCode.DECODER_CRASH: _Meaning("The image process died while it decoded the photo.", (Stage.DECODE,)),
    ErrorCode.MODEL_ERROR: _Meaning("The model failed on the photo.", (Stage.CAPTION,), transient=True),
}


class Failure(NamedTuple):
    """Why a photo has no caption: the stage, the error code, and a message of one line."""

    stage: Stage
    error: ErrorCode
    message: str


def of_error(stage: Stage, error: Exception) -> Failure:
    """Describes the error that reading a file raised.

    Args:
      stage: the stage in which the error was raised.
      error: any error; one that is not about a missing file or a permission gets the code `unreadable`.
    """
    kinds = {FileNotFoundError: ErrorCode.NOT_FOUND, PermissionError: ErrorCode.PERMISSION}
    code = next((code for kind, code in kinds.items() if isinstance(error, kind)), ErrorCode.UNREADABLE)
    return Failure(stage, code, one_line(error))
