"""A temporary folder for a job. What killed jobs have left of theirs, the next job deletes."""

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator

_PREFIX = "beamscribe-job-"


@contextlib.contextmanager
def folder() -> Iterator[str]:
    """A block with a temporary folder of its own, which this user alone can open.

    The kernel frees the folder's lock when the process ends, however it ends.
    """
    _delete_left_over()
    path, descriptor = _locked_folder()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _locked_folder() -> tuple[str, int]:
    while True:
        path = tempfile.mkdtemp(prefix=_PREFIX)
        descriptor = _lock(path)
        # Before it had its lock, another job may have taken it for a left-over.
        if descriptor is not None and os.path.isdir(path):
            return path, descriptor
        if descriptor is not None:
            os.close(descriptor)


def _delete_left_over() -> None:
    for path in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), f"{_PREFIX}*")):
        with contextlib.suppress(OSError):
            if os.lstat(path).st_uid == os.getuid() and (descriptor := _lock(path)) is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(descriptor)


def _lock(path: str) -> int | None:
    """Locks a folder, and returns the descriptor that holds the lock; None if another process has it, or deleted it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
