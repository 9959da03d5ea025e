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
    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_LARGE = "too_large"
    TIMEOUT = "timeout"
    DECODER_CRASH = "decoder_crash"
    MODEL_ERROR = "model_error"

    @property
    def sentence(self) -> str:
        """What it means."""
        return _SENTENCES[self]

    @property
    def passing(self) -> bool:
        """Whether it may be gone at the next run, which therefore tries the photo again."""
        return self in _PASSING


_SENTENCES = {
    ErrorCode.NOT_FOUND: "The file was listed, but there is nothing to open (a link to nothing, say).",
    ErrorCode.PERMISSION: "The store did not allow reading it.",
    ErrorCode.UNREADABLE: "Opening or reading it failed for another reason.",
    ErrorCode.EMPTY: "The file has no bytes.",
    ErrorCode.NOT_AN_IMAGE: "The bytes are not those of any photo format, whatever the name says.",
    ErrorCode.TRUNCATED: "The file ends before the photo does.",
    ErrorCode.CORRUPT: "The file begins like a photo, but can't be decoded.",
    ErrorCode.TOO_LARGE: "The photo has more pixels than the limit.",
    ErrorCode.TIMEOUT: "Decoding it alone took longer than the limit.",
    ErrorCode.DECODER_CRASH: "The decoder's process died on it.",
    ErrorCode.MODEL_ERROR: "The model failed on it.",
}

_PASSING = frozenset(
    (
        ErrorCode.NOT_FOUND,
        ErrorCode.PERMISSION,
        ErrorCode.UNREADABLE,
        ErrorCode.TIMEOUT,
        ErrorCode.MODEL_ERROR,
    )
)


class Failure(NamedTuple):
    """Why one photo has no caption."""

    stage: Stage
    error: ErrorCode
    message: str
