"""What is wrong with a container, told from the error that reading it raised."""

from beamscribe.pipelines import failures, stores
from beamscribe.pipelines.failures import ErrorCode, Failure, Stage

# Longer names are an attack on the memory.
LONGEST_NAME = 4096

_CUT_SHORT = ("unexpected end", "truncated", "ended before", "not a zip file")


def failure(stage: Stage, error: BaseException) -> Failure:
    """A failure of the store, which may pass, or of the container's bytes, which doesn't."""
    # Some libraries turn whatever the store said into "no such archive".
    for cause in (error, error.__cause__, error.__context__):
        if isinstance(cause, stores.StoreError) or (isinstance(cause, OSError) and cause.errno):
            return failures.of_error(stage, cause)
    text = " ".join(str(error).split())[:300] or type(error).__name__
    cut_short = isinstance(error, EOFError | StopIteration) or any(words in text.lower() for words in _CUT_SHORT)
    return Failure(stage, ErrorCode.TRUNCATED if cut_short else ErrorCode.CORRUPT, text)
