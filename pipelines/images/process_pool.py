"""Reads and decodes photos ahead of the model, in spawned processes that may crash or hang.

One pool serves a worker process, however many bundles it runs at once.
"""

import atexit
import collections
import concurrent.futures
import dataclasses
import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import loky
import pebble

from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.images import image_process, to_pixels
from beamscribe.pipelines.images.to_pixels import Picture
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import reading
from beamscribe.pipelines.sources.base import ListOptions

# One message to a process and back: enough photos to make its cost small, few enough bytes to hold several.
CHUNK_PHOTOS = 8
CHUNK_BYTES = 32 * 2**20
# What a photo is taken for whose size is not known before it is read.
UNKNOWN_BYTES = 4 * 2**20
# Time to decode one photo, seconds: far more than any honest photo takes.
PHOTO_TIMEOUT = 60.0


class Photo(NamedTuple):
    """A listed photo, read and decoded, or its failure."""

    ref: PhotoRef
    picture: Picture


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How photos are read and decoded.

    Attributes:
      sources: how containers are read.
      max_pixels: width × height above which a photo is refused.
    """

    sources: ListOptions = ListOptions()
    max_pixels: int = to_pixels.MAX_PIXELS


class ImagePool:
    """Spawned processes that decode, each replaced when it dies or overruns its time.

    Args:
      workers: number of processes.
      timeout: seconds that one photo may take.
      memory: address space that a process may use, bytes.
    """

    def __init__(self, workers: int, timeout: float = PHOTO_TIMEOUT, memory: int = image_process.MEMORY_LIMIT):
        self._timeout = timeout
        # loky's processes, unlike multiprocessing's, do not import the parent's main module,
        # which on a Beam worker is all of Beam.
        context = loky.backend.get_context("loky")
        self._processes = pebble.ProcessPool(
            max_workers=workers,
            initializer=image_process.initialize,
            initargs=(os.getpid(), memory),
            context=context,
        )
        # Threads only read files and wait: two more than processes keep every process fed.
        self._threads = concurrent.futures.ThreadPoolExecutor(workers + 2, thread_name_prefix="read")
        # For the kernel the thread that starts a process is its parent, with which it dies: one that stays does it.
        self._threads.submit(getattr, self._processes, "active").result()
        self._ahead = workers + 2

    def stream(self, refs: Iterable[PhotoRef], size: int, options: ReadOptions = ReadOptions()) -> Iterator[Photo]:
        """Yields every photo in order, decoded to `[size, size, 3]` pixels or failed, a few chunks ahead."""
        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="container") as reader:
            pending: collections.deque[concurrent.futures.Future[list[Photo]]] = collections.deque()
            tasks = self._tasks(refs, size, options, reader)
            try:
                pending.extend(itertools.islice(tasks, self._ahead))
                while pending:
                    photos = pending.popleft().result()
                    pending.extend(itertools.islice(tasks, 1))
                    yield from photos
            finally:
                for future in pending:
                    future.cancel()

    def _tasks(
        self, refs: Iterable[PhotoRef], size: int, options: ReadOptions, reader: concurrent.futures.Executor
    ) -> Iterator[concurrent.futures.Future[list[Photo]]]:
        """Starts to read and decode chunk after chunk, as they are asked for."""
        for container, run in reading.by_container(refs):
            # Files of their own are read many at once; a container in its order, by the one thread that does so.
            contents = reading.read_members(run, options.sources) if container else None
            for chunk in _chunks(run):
                read = reader.submit(_next, contents, len(chunk)) if contents else None
                yield self._threads.submit(self._read_and_decode, chunk, read, size, options.max_pixels)

    def close(self) -> None:
        """Ends the processes."""
        self._processes.stop()
        self._processes.join()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read_and_decode(
        self, refs: Sequence[PhotoRef], read: concurrent.futures.Future | None, size: int, max_pixels: int
    ) -> list[Photo]:
        contents = read.result() if read else [reading.read_photo(ref) for ref in refs]
        found = [data for data in contents if isinstance(data, bytes)]
        decoded = iter(self._decode(found, size, max_pixels))
        return [
            Photo(ref, next(decoded) if isinstance(data, bytes) else Picture(None, failure=data))
            for ref, data in zip(refs, contents, strict=True)
        ]

    def _decode(self, photos: Sequence[bytes], size: int, max_pixels: int) -> list[Picture]:
        if not photos:
            return []
        try:
            arguments = (photos, size, max_pixels)
            return self._processes.schedule(to_pixels.convert_all, arguments, timeout=self._timeout).result()
        except concurrent.futures.TimeoutError:
            error, message = ErrorCode.TIMEOUT, f"decoding took longer than {self._timeout:g} s"
        except pebble.ProcessExpired as expired:
            error, message = ErrorCode.DECODER_CRASH, f"the decoder's process ended with code {expired.exitcode}"
        if len(photos) > 1:
            # One of them did it: alone, each shows whether it was the one.
            return [decoded for data in photos for decoded in self._decode([data], size, max_pixels)]
        return [Picture(None, failure=Failure(Stage.DECODE, error, message))]


def shared() -> ImagePool:
    """The pool of this process: as many decoders as it may use processors."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ImagePool(loky.cpu_count())
            atexit.register(_pool.close)
        return _pool


_pool: ImagePool | None = None
_pool_lock = threading.Lock()


def _chunks(refs: Iterable[PhotoRef]) -> Iterator[list[PhotoRef]]:
    chunk: list[PhotoRef] = []
    total = 0
    for ref in refs:
        size = ref.size or UNKNOWN_BYTES
        if chunk and (len(chunk) == CHUNK_PHOTOS or total + size > CHUNK_BYTES):
            yield chunk
            chunk, total = [], 0
        chunk.append(ref)
        total += size
    if chunk:
        yield chunk


def _next(contents: Iterator[reading.Content], count: int) -> list[reading.Content]:
    return list(itertools.islice(contents, count))
