"""A pool of image processes, which convert the bytes of photos to pixels and may crash or hang.

A worker process has one pool, however many bundles it runs at once.
"""

import atexit
import contextlib
import os
import queue
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import loky

from beamscribe.model.errors import BeamscribeError, one_line
from beamscribe.pipelines import failures
from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.images import image_process, pictures, starting
from beamscribe.pipelines.images.messages import Connection
from beamscribe.pipelines.images.pictures import Expected, Picture

# Processor time that one photo may take, seconds: far more than any valid photo needs.
PHOTO_SECONDS = 60.0
# Seconds to wait for an answer, in which a process that is short of processors gets through its photos.
MESSAGE_SECONDS = 300.0
# Seconds that a process has for loading its codecs, from a slow network drive, too.
_START_SECONDS = 300.0
# Seconds that a process has between closing its connection and its end.
_END_SECONDS = 5.0

# How often the same photos are tried where the process is killed from outside.
_TRIES = 3


class PoolClosedError(Exception):
    """The pool was closed, which is no fault of the photos."""


class _Ended(Exception):  # noqa: N818 - it says what has happened to a process
    """An image process has ended.

    Attributes:
      code: its exit code; for one that a signal has ended, the signal's number, negative.
    """

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


class ImagePool:
    """A pool of image processes. A process that dies or takes too long is replaced; processes start when needed.

    Args:
      workers: number of processes.
      seconds: processor time that one photo may take.
      patience: seconds to wait for an answer.
      memory: address space that a process may use, bytes.

    Attributes:
      workers: number of processes.
    """

    def __init__(
        self,
        workers: int,
        seconds: float = PHOTO_SECONDS,
        patience: float = MESSAGE_SECONDS,
        memory: int = image_process.MEMORY_LIMIT,
    ):
        self.workers = workers
        self._seconds = seconds
        self._slots = [_Slot(seconds, patience, memory) for _ in range(workers)]
        # The last one used is the first to be used again: a few photos start few processes.
        self._idle: queue.LifoQueue[_Slot] = queue.LifoQueue()
        for slot in self._slots:
            self._idle.put(slot)

    @property
    def processes(self) -> list[int]:
        """The ids of the processes that have been started and not been replaced."""
        running = [slot.running for slot in self._slots]
        return [one.process.pid for one in running if one]

    def convert(
        self, photos: Sequence[bytes], size: int, max_pixels: int, expected: Sequence[Expected] = ()
    ) -> list[Picture]:
        """Converts photos to pixels in one image process, and waits for the result.

        A photo on which the process dies or takes too long gets a failure; the other photos don't.

        Args:
          photos: the bytes of each photo.
          size: height and width of the results, pixels.
          max_pixels: width × height above which a photo is refused.
          expected: what each photo may turn out to be, and is not decoded for then; empty if nothing is expected.

        Returns:
          The result for each photo, in order.

        Raises:
          PoolClosedError: the pool was closed.
          BeamscribeError: no image process can be started.
          ValueError: `expected` has another length than `photos`, and is not empty.
        """
        if not photos:
            return []
        expected = expected or [Expected()] * len(photos)
        if len(expected) != len(photos):
            raise ValueError(f"{len(expected)} expectations for {len(photos)} photos")
        for _ in range(_TRIES):
            try:
                with self._slot() as slot:
                    found = slot.convert(photos, size, max_pixels, expected)
            except TimeoutError as error:
                failure = Failure(Stage.DECODE, ErrorCode.TIMEOUT, str(error))
                break
            except _Ended as ended:
                failure = self._failure(ended.code)
                if failure.error != ErrorCode.DECODER_KILLED:
                    break
            else:
                for picture in found:
                    if picture.fault:
                        # Image processes have no log.
                        failures.log_remote_fault(Stage.DECODE, picture.fault)
                return found
        if len(photos) > 1:
            # One of the photos is to blame: converting each of them alone shows which one.
            each = zip(photos, expected, strict=True)
            return [picture for data, one in each for picture in self.convert([data], size, max_pixels, [one])]
        return [Picture(None, failure=failure)]

    def close(self) -> None:
        """Ends the processes. Whoever waits for one gets a `PoolClosedError`."""
        for slot in self._slots:
            slot.close()

    @contextlib.contextmanager
    def _slot(self) -> Iterator["_Slot"]:
        slot = self._idle.get()
        try:
            yield slot
        finally:
            self._idle.put(slot)

    def _failure(self, code: int) -> Failure:
        """Says why an image process has ended, by its exit code."""
        if code == -signal.SIGXCPU:
            message = f"decoding took longer than {self._seconds:g} s of processor time"
            return Failure(Stage.DECODE, ErrorCode.TIMEOUT, message)
        if code == -signal.SIGKILL:
            # No process kills itself.
            message = "the image process was killed from outside, for example because memory ran out"
            return Failure(Stage.DECODE, ErrorCode.DECODER_KILLED, message)
        return Failure(Stage.DECODE, ErrorCode.DECODER_CRASH, f"the image process ended with code {code}")


class _Running(NamedTuple):
    """An image process, and the connection with it."""

    process: "subprocess.Popen[bytes]"
    connection: Connection


class _Slot:
    """An image process that starts with the first photos and is replaced when it has ended; for one thread at a time.

    Args:
      seconds, patience, memory: see `ImagePool`.

    Attributes:
      running: the process; None while there is none.
    """

    def __init__(self, seconds: float, patience: float, memory: int):
        self._seconds, self._patience, self._memory = seconds, patience, memory
        self.running: _Running | None = None
        self._owner = os.getpid()
        # Held while the process is started or ended.
        self._lock = threading.Lock()
        self._is_closed = False

    def convert(
        self, photos: Sequence[bytes], size: int, max_pixels: int, expected: Sequence[Expected]
    ) -> list[Picture]:
        """Converts photos to pixels; takes and returns what `ImagePool.convert` does.

        Raises:
          _Ended: the process has ended by itself, or was killed by another process.
          TimeoutError: the process took too long, and was ended.
          PoolClosedError, BeamscribeError: see `ImagePool.convert`.
        """
        running = self._ready()
        try:
            running.connection.send([size, max_pixels, expected], photos, self._patience)
            answer = running.connection.receive(self._patience, most=len(photos) * size * size * 3)
            found = pictures.unpacked(*answer, size, expected)
        except TimeoutError:
            self._end(running)
            raise TimeoutError(f"decoding took longer than {self._patience:g} s") from None
        except (OSError, EOFError):
            raise _Ended(self._code_of(running)) from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            # Hostile bytes may have taken the process over.
            self._end(running)
            raise _Ended(0) from None
        except BaseException:
            # The answer would be taken for that to the next message.
            self._end(running)
            raise
        return found

    def close(self) -> None:
        """Ends the process for good; in a process that was forked it does nothing, since it belongs to the other."""
        if os.getpid() == self._owner:
            with self._lock:
                self._is_closed = True
                if self.running:
                    self.running.process.kill()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self.running.process.wait(_END_SECONDS)

    def _ready(self) -> _Running:
        """The process, which is started if there is none that lives."""
        if self.running and self.running.process.poll() is None:
            return self.running
        if self.running:
            self._end(self.running)
        running = self._start()
        try:
            running.connection.receive(_START_SECONDS)
        except TimeoutError:
            self._end(running)
            raise BeamscribeError(f"an image process has not started within {_START_SECONDS:g} s") from None
        except (OSError, EOFError, ValueError):
            code = self._code_of(running)
            if code == -signal.SIGKILL:
                raise _Ended(code) from None
            # No photo is to blame.
            raise BeamscribeError(f"an image process has ended as it started, with code {code}") from None
        return running

    def _start(self) -> _Running:
        try:
            ours, theirs = socket.socketpair()
            with theirs, self._lock:
                if self._is_closed:
                    raise PoolClosedError
                self.running = _Running(starting.start(theirs, self._memory, self._seconds), Connection(ours))
                return self.running
        except OSError as error:
            raise BeamscribeError(f"can't start an image process: {one_line(error)}") from error

    def _code_of(self, running: _Running) -> int:
        """The exit code of a process that has closed its connection: it ends, unless it hangs as it does.

        Raises:
          PoolClosedError: the process has ended because the pool was closed.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(_END_SECONDS)
        code = self._end(running)
        if self._is_closed:
            raise PoolClosedError from None
        return code

    def _end(self, running: _Running) -> int:
        """Ends a process, if it has not ended yet, and returns its exit code."""
        with self._lock:
            self.running = None
        running.connection.close()
        running.process.kill()
        return running.process.wait()


_pool: ImagePool | None = None
_pool_lock = threading.Lock()


def shared() -> ImagePool:
    """The pool of this process, with one image process for each processor that this process may use."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ImagePool(loky.cpu_count())
            atexit.register(_pool.close)
        return _pool


def _forget() -> None:
    """In a process that was forked, the image processes belong to the other."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
