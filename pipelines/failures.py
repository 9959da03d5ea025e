"""The reasons why a photo can't be captioned: a closed list of error codes, one of them for faults of Beamscribe."""

import enum
import logging
import os
import sys
import threading
import traceback
from typing import NamedTuple

from beamscribe.model.errors import PROGRAMMING_ERRORS, one_line

_LOGGER = logging.getLogger(__name__)
_FAULT = "a fault of Beamscribe in the stage %s: %s"

# The kinds of errors that this process has logged since its last job began.
_logged: set[str] = set()
_lock = threading.Lock()


class Stage(enum.StrEnum):
    """The stage of the job in which a photo failed.

    Example:
      >>> [str(stage) for stage in beamscribe.Stage]
      ['list', 'read', 'decode', 'caption']
    """

    LIST = "list"
    READ = "read"
    DECODE = "decode"
    CAPTION = "caption"


class ErrorCode(enum.StrEnum):
    """The kind of a failure: a closed list, which docs/failures.md explains.

    Example:
      >>> beamscribe.ErrorCode("empty").sentence
      'The file has no bytes.'
      >>> beamscribe.ErrorCode.NOT_FOUND.transient
      True
    """

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
    DECODER_KILLED = "decoder_killed"
    MODEL_ERROR = "model_error"
    INTERNAL_ERROR = "internal_error"

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
    ErrorCode.DECODER_KILLED: _Meaning(
        "The image process was killed from outside several times, for example because memory ran out.",
        (Stage.DECODE,),
        transient=True,
    ),
    ErrorCode.MODEL_ERROR: _Meaning("The model failed on the photo.", (Stage.CAPTION,), transient=True),
    ErrorCode.INTERNAL_ERROR: _Meaning(
        "A fault of Beamscribe itself; the log has the traceback.", tuple(Stage), transient=True
    ),
}


class Failure(NamedTuple):
    """Why a photo has no caption: the stage, the error code, and a message of one line.

    Attributes:
      stage: `list`, `read`, `decode` or `caption`.
      error: one of the codes in docs/failures.md.
      message: what was wrong with the photo.

    Example:
      >>> model = beamscribe.load()
      >>> failure = model.caption(["photos/nothing.jpg"])[0].failure
      >>> str(failure.stage), str(failure.error)
      ('read', 'not_found')
    """

    stage: Stage
    error: ErrorCode
    message: str


class Fault(NamedTuple):
    """An error that is a fault of Beamscribe, in a form that an image process can send to its worker.

    Attributes:
      kind: type and place of the error: faults of one kind are logged once per process and job.
      message: type, message and place of the error, in one line.
      traceback: the traceback, as Python prints it.
    """

    kind: str
    message: str
    traceback: str


def of_error(stage: Stage, error: Exception) -> Failure:
    """Describes an error that was raised while a photo was listed, read or captioned.

    In the stage `caption`, every error is a fault of Beamscribe, except those that TensorFlow raises if it can't
    compute a batch. In the other stages, `PROGRAMMING_ERRORS` are faults. Code that parses damaged bytes calls
    `is_own_fault` first, since libraries raise programming errors for such bytes, too.

    Faults and errors of the model are logged, each kind once per process and job.

    Args:
      stage: the stage in which the error was raised.
      error: any error; one that is no fault, and not about a missing file or a permission, gets the code `unreadable`.
    """
    if stage == Stage.CAPTION and _is_of_tensorflow(error):
        said = "the model failed on photos: %s: %s"
        log_once(fault_of(error).kind, logging.WARNING, said, type(error).__name__, one_line(error))
        return Failure(stage, ErrorCode.MODEL_ERROR, one_line(error))
    if stage == Stage.CAPTION or isinstance(error, PROGRAMMING_ERRORS):
        return of_fault(stage, error)
    kinds = {FileNotFoundError: ErrorCode.NOT_FOUND, PermissionError: ErrorCode.PERMISSION}
    code = next((code for kind, code in kinds.items() if isinstance(error, kind)), ErrorCode.UNREADABLE)
    return Failure(stage, code, one_line(error))


def of_fault(stage: Stage, error: Exception) -> Failure:
    """Describes an error that is a fault of Beamscribe, whatever its type, and logs its traceback."""
    fault = fault_of(error)
    log_once(fault.kind, logging.ERROR, _FAULT, stage, fault.message, error=error)
    return Failure(stage, ErrorCode.INTERNAL_ERROR, fault.message)


def log_remote_fault(stage: Stage, fault: Fault) -> None:
    """Logs the traceback of a fault that another process caught."""
    log_once(fault.kind, logging.ERROR, f"{_FAULT}\n%s", stage, fault.message, fault.traceback)


def is_own_fault(error: Exception) -> bool:
    """Whether an error is one of `PROGRAMMING_ERRORS`, and was raised by code of Beamscribe, not by a library."""
    return isinstance(error, PROGRAMMING_ERRORS) and f"{_raised_in(error)[0]}.".startswith("beamscribe.")


def fault_of(error: Exception) -> Fault:
    """Describes an error that was caught, for example as `KeyError: 'a' (pipelines/planning.py, line 12)`."""
    name = type(error).__name__
    _, place = _raised_in(error)
    message = one_line(f"{name}: {error}".rstrip(": "))
    return Fault(f"{name} {place}", f"{message} ({place})", "".join(traceback.format_exception(error)))


def _raised_in(error: Exception) -> tuple[str, str]:
    """The package of the code that raised an error, and the file and line, such as `pipelines/planning.py, line 12`."""
    found = ("", "unknown place")
    for frame, line in traceback.walk_tb(error.__traceback__):
        package = frame.f_globals.get("__package__") or ""
        folder = f"{package}.".lstrip(".").removeprefix("beamscribe.").replace(".", "/")
        found = package, f"{folder}{os.path.basename(frame.f_code.co_filename)}, line {line}"
    return found


def _is_of_tensorflow(error: Exception) -> bool:
    """Whether an error says that TensorFlow can't compute a batch; for example, because the memory is full."""
    # Who uses no model of TensorFlow must not wait for its import.
    tensorflow = sys.modules.get("tensorflow")
    return isinstance(error, MemoryError) or (tensorflow is not None and isinstance(error, tensorflow.errors.OpError))


def log_once(kind: str, level: int, message: str, *values: object, error: Exception | None = None) -> None:
    """Logs a message, unless one of its kind was logged by this process since its last job began.

    Args:
      kind: the kind; the record has it as an attribute, by which whoever gathers the logs of several processes can tell
        it.
      level, message, values: as for `Logger.log`.
      error: an error whose traceback is logged, too.
    """
    with _lock:
        is_new = kind not in _logged
        _logged.add(kind)
    if is_new:
        _LOGGER.log(level, message, *values, exc_info=error, extra={"kind": kind})


def forget() -> None:
    """Begins anew with what `log_once` logs: called where a job begins, since a process may run several."""
    with _lock:
        _logged.clear()
