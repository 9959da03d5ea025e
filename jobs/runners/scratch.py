"""A temporary folder for a job. What killed jobs have left of theirs, the next job deletes."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from beamscribe.model import folder_lock

_PREFIX = "beamscribe-job-"


@contextlib.contextmanager
def folder() -> Iterator[str]:
    """A block with a temporary folder of its own, which this user alone can open."""
    folder_lock.delete_left_over(_left_over())
    path, descriptor = _locked_folder()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _locked_folder() -> tuple[str, int | None]:
    while True:
        path = tempfile.mkdtemp(prefix=_PREFIX)
        try:
            descriptor = folder_lock.take(path)
        except BlockingIOError:
            # Another job takes it for a left-over, and deletes it.
            continue
        if os.path.isdir(path):
            return path, descriptor
        if descriptor is not None:
            os.close(descriptor)


def _left_over() -> Iterator[Path]:
    """The folders that jobs of this user have, or have left."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_uid == os.getuid():
                yield path
