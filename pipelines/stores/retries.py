"""How often requests to remote stores had to be made again, counted in each process."""

import threading

_lock = threading.Lock()
_count = 0


def count(_: object = None) -> None:
    """Counts one; what failed may be given, as retrying libraries do."""
    global _count
    with _lock:
        _count += 1


def take() -> int:
    """How many were counted since the last call."""
    global _count
    with _lock:
        taken, _count = _count, 0
    return taken
