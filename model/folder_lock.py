"""Locks a folder for as long as a process lives, so that others can tell its temporary folder from one left over."""

import fcntl
import os
import shutil
from collections.abc import Iterable
from pathlib import Path


def take(folder: str | Path) -> int | None:
    """Locks a folder. The kernel frees the lock when the process ends, however it ends.

    Returns:
      A descriptor, which frees the lock when it is closed; None where the filesystem has no locks, or the folder is
      gone.

    Raises:
      BlockingIOError: another process has the lock.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def delete_left_over(folders: Iterable[Path]) -> None:
    """Deletes those folders that no process has locked."""
    for folder in folders:
        try:
            descriptor = take(folder)
        except BlockingIOError:
            continue
        if descriptor is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)
