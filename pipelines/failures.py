"""Why a photo could not be captioned: a closed list of codes."""

import enum
from typing import NamedTuple


class Stage(enum.StrEnum):
    """Where in the work a photo failed."""

    LIST = "list"
    READ = "read"
    DECODE = "decode"
    CAPTION = "caption"


class ErrorCode(enum.StrEnum):
    """What was wrong."""

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
        """What it means."""
        return _MEANINGS[self].sentence

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Where it can happen."""
        return _MEANINGS[self].stages

    @property
    def passing(self) -> bool:
        """Whether it may be gone at the next run, which therefore tries the photo again."""
        return _MEANINGS[self].passing


class _Meaning(NamedTuple):
    sentence: str
    stages: tuple[Stage, ...]
    passing: bool = False


_FINDING = (Stage.LIST, Stage.READ)
_ANYWHERE = (Stage.LIST, Stage.READ, Stage.DECODE)

_MEANINGS = {
    ErrorCode.NOT_FOUND: _Meaning(
        "The file was listed, but there is nothing to open (a link to nothing, say).", _FINDING, passing=True
    ),
    ErrorCode.PERMISSION: _Meaning("The store did not allow reading it.", _FINDING, passing=True),
    ErrorCode.UNREADABLE: _Meaning("Opening or reading it failed for another reason.", _FINDING, passing=True),
    ErrorCode.CHANGED_WHILE_READING: _Meaning(
        "The bytes are no longer those that were listed.", (Stage.READ,), passing=True
    ),
    ErrorCode.EMPTY: _Meaning("The file has no bytes.", (Stage.READ, Stage.DECODE)),
    ErrorCode.NOT_AN_IMAGE: _Meaning(
        "The bytes are not those of any photo format, whatever the name says.", (Stage.DECODE,)
    ),
    ErrorCode.UNSUPPORTED_FORMAT: _Meaning(
        "The bytes are of a known format, or of a variant of one, that is not decoded.", _ANYWHERE
    ),
    ErrorCode.TRUNCATED: _Meaning("The file, or the archive that it lies in, ends before the photo does.", _ANYWHERE),
    ErrorCode.CORRUPT: _Meaning(
        "The file begins like a photo, or like an archive of them, but can't be decoded.", _ANYWHERE
    ),
    ErrorCode.TOO_SMALL: _Meaning("A side of the photo has too few pixels to show anything.", (Stage.DECODE,)),
    ErrorCode.TOO_LARGE: _Meaning(
        "The photo has more pixels or bytes than the limit, or needs more memory than a decoder may use.",
        (Stage.READ, Stage.DECODE),
    ),
    ErrorCode.TIMEOUT: _Meaning("Decoding it alone took longer than the limit.", (Stage.DECODE,), passing=True),
    ErrorCode.DECODER_CRASH: _Meaning("The decoder's process died on it.", (Stage.DECODE,)),
    ErrorCode.MODEL_ERROR: _Meaning("The model failed on it.", (Stage.CAPTION,), passing=True),
}


class Failure(NamedTuple):
    """Why one photo has no caption."""

    stage: Stage
    error: ErrorCode
    message: str


def of_error(stage: Stage, error: Exception) -> Failure:
    """What an error says of why a file can't be read, in one line."""
    kinds = {FileNotFoundError: ErrorCode.NOT_FOUND, PermissionError: ErrorCode.PERMISSION}
    code = next((code for kind, code in kinds.items() if isinstance(error, kind)), ErrorCode.UNREADABLE)
    reason = error.strerror if isinstance(error, OSError) else None
    return Failure(stage, code, reason or " ".join(str(error).split())[:300] or type(error).__name__)
