"""Starts image processes, from a thread that lives as long as this process, and with signals and modules in order."""

import concurrent.futures
import contextlib
import json
import multiprocessing.spawn
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

# The environment variable for Python's switch `-P`: Python does not search the current folder.
_SAFE_PATH = "PYTHONSAFEPATH"

# What an image process runs. It searches for modules where its worker does.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from beamscribe.pipelines.images import image_process; image_process.main(*map(int, sys.argv[2:]))"
)


def start(end: socket.socket, memory: int, seconds: float) -> "subprocess.Popen[bytes]":
    """Starts an image process.

    It blocks the signals that Ctrl-C on a terminal, its end, and systemd send to all processes: without its image
    processes, a worker could not finish the photos in hand. It dies when the worker does.

    Args:
      end: the end of the connection that the process gets.
      memory: address space that the process may use, bytes.
      seconds: processor time that a photo may take.

    Raises:
      OSError: the system starts no more processes.
    """
    numbers = (end.fileno(), os.getpid(), memory, round(seconds))
    # What the process itself imports comes from the same folders as here, but a file in the current folder, such as a
    # user's own `random.py`, must not take the place of one of Python's modules.
    command = [_python(), "-P", "-c", _PROGRAM, json.dumps(_search_path()), *map(str, numbers)]
    return _starter().start(command, pass_fds=[end.fileno()], stdin=subprocess.DEVNULL)


def _python() -> str:
    executable = multiprocessing.spawn.get_executable()
    return executable.decode() if isinstance(executable, bytes) else executable


def _search_path() -> list[str]:
    """Where this process searches for modules, with the current folder last if it is first."""
    current, found = os.getcwd(), [path or os.getcwd() for path in sys.path]
    return [*found[1:], current] if found and found[0] == current else found


class _Starter:
    """A thread that starts processes: the kernel ends an image process with the thread that has started it."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[tuple[Any, dict[str, Any], concurrent.futures.Future[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="starter", daemon=True).start()

    def start(self, command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        answer: concurrent.futures.Future[subprocess.Popen[bytes]] = concurrent.futures.Future()
        self._asked.put((command, options, answer))
        return answer.result()

    def _run(self) -> None:
        # Processes inherit it.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        while True:
            command, options, answer = self._asked.get()
            try:
                answer.set_result(subprocess.Popen(command, **options))
            except Exception as error:  # noqa: BLE001 - the waiting thread raises it
                answer.set_exception(error)


_started: _Starter | None = None
_lock = threading.Lock()


def _starter() -> _Starter:
    global _started
    with _lock:
        _started = _started or _Starter()
        return _started


def _forget() -> None:
    """In a process that was forked, the thread does not run."""
    global _started, _lock
    _started, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)


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
