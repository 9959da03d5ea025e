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
    """What was wrong. `passing` codes may be gone at the next run, which therefore tries again."""

    sentence: str
    passing: bool

    def __new__(cls, value: str, sentence: str, passing: bool):
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        member.passing = passing
        return member

    NOT_FOUND = "not_found", "The file was listed, but there is nothing to open (a link to nothing, say).", True
    PERMISSION = "permission", "The store did not allow reading it.", True
    UNREADABLE = "unreadable", "Opening or reading it failed for another reason.", True
    EMPTY = "empty", "The file has no bytes.", False
    NOT_AN_IMAGE = "not_an_image", "The bytes are not those of any photo format, whatever the name says.", False
    TRUNCATED = "truncated", "The file ends before the photo does.", False
    CORRUPT = "corrupt", "The file begins like a photo, but can't be decoded.", False
    TOO_LARGE = "too_large", "The photo has more pixels than the limit.", False
    TIMEOUT = "timeout", "Decoding it alone took longer than the limit.", True
    DECODER_CRASH = "decoder_crash", "The decoder's process died on it.", False
    MODEL_ERROR = "model_error", "The model failed on it.", True


class Failure(NamedTuple):
    """Why one photo has no caption."""

    stage: Stage
    error: ErrorCode
    message: str
