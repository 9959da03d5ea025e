"""Counts the retried requests to remote stores, in each process."""

import threading

_lock = threading.Lock()
_count = 0


def count(_: object = None) -> None:
    """Counts one retry. The argument is ignored: retry libraries call this function with the error."""
    global _count
    with _lock:
        _count += 1


def take() -> int:
    """Returns the number of retries since the last call, and resets it."""
    global _count
    with _lock:
        taken, _count = _count, 0
    return taken
