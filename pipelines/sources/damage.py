"""Finds out what is wrong with a container from the error that reading it raised."""

from beamscribe.model.errors import one_line
from beamscribe.pipelines import failures
from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.stores.base import StoreError

# Characters of the longest name that is read: a longer one would be an attack on the memory.
LONGEST_NAME = 4096

_CUT_SHORT = ("unexpected end", "truncated", "ended before", "not a zip file")


def failure(stage: Stage, error: Exception) -> Failure:
    """Makes the failure of a container: a transient one of its store or of Beamscribe, or a permanent one of its bytes.

    Args:
      stage: the stage in which the error was raised.
      error: error that a store or a container's library raised.
    """
    if failures.is_own_fault(error):
        return failures.of_fault(stage, error)
    # Some libraries raise "no such archive" for every error of the store.
    for cause in (error, error.__cause__, error.__context__):
        if isinstance(cause, OSError) and is_of_store(cause):
            return failures.of_error(stage, cause)
    text = one_line(error)
    cut_short = isinstance(error, EOFError | StopIteration) or any(words in text.lower() for words in _CUT_SHORT)
    return Failure(stage, ErrorCode.TRUNCATED if cut_short else ErrorCode.CORRUPT, text)


def is_of_store(error: BaseException) -> bool:
    """Whether a store raised an error, rather than a library that found damaged bytes."""
    return isinstance(error, StoreError) or (isinstance(error, OSError) and bool(error.errno))
