"""The exit statuses of the command, and which error ends in which; docs/exits.md explains them to users."""

from beamscribe.model.errors import (
    BeamscribeError,
    InputError,
    NoPhotos,
    OutputInUse,
    Stopped,
    TooManyFailures,
)

DONE = 0
FAILED = 1
WRONG_USE = 2
TOO_MANY_FAILURES = 3
OUTPUT_IN_USE = 4
NO_PHOTOS = 5
STOPPED = 6

_STATUSES: dict[type[BeamscribeError], int] = {
    InputError: WRONG_USE,
    TooManyFailures: TOO_MANY_FAILURES,
    OutputInUse: OUTPUT_IN_USE,
    NoPhotos: NO_PHOTOS,
    Stopped: STOPPED,
}


def status_of(error: BeamscribeError) -> int:
    """The exit status that an error ends in: `FAILED` for one that has none of its own."""
    return next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), FAILED)
