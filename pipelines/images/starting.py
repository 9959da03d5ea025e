"""Starts image processes so that they never import a file in the current folder in place of a library's module.

Image processes and their resource trackers are started with `python -m` or `-c`, which search the current folder first.
A user's own `random.py` or `logging.py` in that folder would be imported in place of Python's.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

from loky.backend import resource_tracker as loky_resource_tracker
from loky.backend import spawn
from loky.backend.context import LokyContext
from loky.backend.process import LokyProcess

# The environment variable for Python's switch `-P`: Python does not search the current folder.
_SAFE_PATH = "PYTHONSAFEPATH"

# Held while a process starts, since its start changes global state for a moment.
_starting = threading.Lock()


class ImageProcess(LokyProcess):
    """A loky process that searches the current folder last, even if the process that starts it searches it first."""

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named, env={_SAFE_PATH: "1"})

    def terminate(self) -> None:
        """Ends the process, which blocks the signal that is meant for that."""
        if self.pid and self.is_alive():
            os.kill(self.pid, signal.SIGKILL)

    @staticmethod
    def _Popen(process: "ImageProcess") -> Any:  # noqa: N802 - the name is multiprocessing's
        with _starting, _current_folder_last(), _signals_blocked():
            return LokyProcess._Popen(process)


class ImageContext(LokyContext):
    """The multiprocessing context of image processes: it makes the pool's processes, locks and pipes.

    Unlike processes of multiprocessing, loky's processes do not import the main module of the process that starts them,
    which would import all of Beam on a Beam worker.
    """

    Process = ImageProcess

    def __init__(self) -> None:
        super().__init__()
        _start_trackers()


def _start_trackers() -> None:
    """Starts the resource trackers of Python and loky, which free what dead processes leave, unless they already run.

    If the first process or lock that needs a tracker started it, the tracker would search the current folder.
    """
    with _starting, safe_path():
        resource_tracker.ensure_running()
        loky_resource_tracker.ensure_running()


@contextlib.contextmanager
def _current_folder_last() -> Iterator[None]:
    """Makes loky move the current folder from the start to the end of the search path that a new process gets."""
    prepared = spawn.get_preparation_data

    def safely_prepared(*arguments: Any) -> dict[str, Any]:
        data = prepared(*arguments)
        if sys.path and sys.path[0] in ("", os.getcwd()):
            current, *others = data["sys_path"]
            data["sys_path"] = [*others, current]
        return data

    spawn.get_preparation_data = safely_prepared
    try:
        yield
    finally:
        spawn.get_preparation_data = prepared


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Has new processes block SIGINT and SIGTERM: Ctrl-C on a terminal, and systemd, send them to all processes.

    Without its image processes, the process that started them could not finish the photos in hand.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def safe_path() -> Iterator[None]:
    """Keeps Python programs that are started within the block from searching the current folder for modules."""
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before
