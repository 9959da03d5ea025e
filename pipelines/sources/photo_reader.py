"""Reads photos ahead of the consumer, and converts them to pixels in a pool of image processes."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeVar

from beamscribe.pipelines.images import process_pool, to_pixels
from beamscribe.pipelines.images.pictures import Expected, Picture
from beamscribe.pipelines.images.process_pool import ImagePool
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import files, reading
from beamscribe.pipelines.sources.base import ListOptions

# Limits of one message to an image process: enough photos to make its cost small, few enough bytes to hold several
# messages in memory.
CHUNK_PHOTOS = 8
CHUNK_BYTES = 32 * 2**20
# Bytes of photos that are read ahead of the model, if these are more than one message.
AHEAD_BYTES = 256 * 2**20
# The assumed size of a photo, if the listing does not contain its size.
UNKNOWN_BYTES = 4 * 2**20


class Photo(NamedTuple):
    """A listed photo with its pixels or its failure.

    Attributes:
      ref: the photo.
      picture: what its bytes were converted to.
      bytes: number of its bytes; None if they could not be read.
    """

    ref: PhotoRef
    picture: Picture
    bytes: int | None = None


# What the digests of photos are compared with, by the photos' names.
Expectations = Mapping[str, Expected]
_NOTHING = Expected()


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How photos are read and converted to pixels.

    Attributes:
      sources: how containers are read.
      max_pixels: width × height above which a photo is refused.
      look_up: whether to look up the version and the size of photos that no listing has described; see
        `files.looked_up`.
    """

    sources: ListOptions = ListOptions()
    max_pixels: int = to_pixels.MAX_PIXELS
    look_up: bool = False


class _Read(NamedTuple):
    """The bytes or the failure of a photo, and the milliseconds that reading took."""

    content: reading.Content
    ms: float


class _Task(NamedTuple):
    """A chunk of photos that is read and converted, and the number of its bytes, as far as the listing says."""

    photos: concurrent.futures.Future[list[Photo]]
    bytes: int


class _Conversion(NamedTuple):
    """How photos are converted; see `ImagePool.convert`, and `PhotoReader.stream` for `expected`."""

    size: int
    max_pixels: int
    expected: Expectations


class PhotoReader:
    """Reads photos and keeps a pool of image processes busy with them.

    Args:
      pool: converts bytes to pixels. The caller closes it.
    """

    def __init__(self, pool: ImagePool):
        self._pool = pool
        # Threads only read files and wait: two more threads than processes keep every process busy.
        self._ahead = pool.workers + 2
        self._threads = concurrent.futures.ThreadPoolExecutor(self._ahead, thread_name_prefix="read")
        self._budget = _Budget()

    def stream(
        self,
        refs: Iterable[PhotoRef],
        size: int,
        options: ReadOptions = ReadOptions(),
        expected: Expectations = MappingProxyType({}),
    ) -> Iterator[Photo]:
        """Reads photos and converts them to pixels, a few chunks ahead of the consumer.

        Args:
          refs: references to the photos.
          size: height and width of the results, pixels.
          options: how photos are read and converted.
          expected: digests that make a photo known; one that has them is read, but not decoded.

        Yields:
          Each photo, in order, with pixels `[size, size, 3]`, uint8, with its failure, or known.
        """
        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="container") as reader:
            pending: collections.deque[_Task] = collections.deque()
            tasks = self._tasks(refs, _Conversion(size, options.max_pixels, expected), options, reader)
            try:
                for task in tasks:
                    pending.append(task)
                    while len(pending) > self._ahead or sum(task.bytes for task in pending) > AHEAD_BYTES:
                        yield from pending.popleft().photos.result()
                while pending:
                    yield from pending.popleft().photos.result()
            finally:
                for task in pending:
                    task.photos.cancel()

    def _tasks(
        self,
        refs: Iterable[PhotoRef],
        conversion: "_Conversion",
        options: ReadOptions,
        reader: concurrent.futures.Executor,
    ) -> Iterator["_Task"]:
        """Starts to read and convert a chunk each time the consumer asks for one."""
        for container, run in reading.by_container(refs):
            # Standalone files are read in parallel; a container is read in order, by one thread.
            contents = reading.read_members(run, options.sources) if container else None
            for chunk in chunks(run):
                if options.look_up and not container:
                    future = self._threads.submit(self._looked_up, chunk, conversion)
                else:
                    read = reader.submit(_next, contents, len(chunk)) if contents else None
                    future = self._threads.submit(self._photos, chunk, read, conversion)
                yield _Task(future, sum(ref.size for ref in chunk))

    def _looked_up(self, refs: Sequence[PhotoRef], conversion: "_Conversion") -> list[Photo]:
        """Looks photos up, then reads and converts them."""
        # Their sizes are known only now: they may be too much for one message.
        photos: list[Photo] = []
        for chunk in chunks([files.looked_up(ref) for ref in refs]):
            with self._budget.taken(sum(map(_bytes, chunk))):
                photos += self._photos(chunk, None, conversion)
        return photos

    def _photos(
        self,
        refs: Sequence[PhotoRef],
        read: concurrent.futures.Future[list[_Read]] | None,
        conversion: "_Conversion",
    ) -> list[Photo]:
        contents = read.result() if read else _next(map(reading.read_photo, refs), len(refs))
        several = list(zip(refs, contents, strict=True))
        found = [(ref, data) for ref, (data, _) in several if isinstance(data, bytes)]
        pictures = iter(
            self._pool.convert(
                [data for _, data in found],
                conversion.size,
                conversion.max_pixels,
                [conversion.expected.get(ref.photo, _NOTHING) for ref, _ in found] if conversion.expected else (),
            )
        )
        return [
            Photo(ref, next(pictures)._replace(read_ms=ms), len(data))
            if isinstance(data, bytes)
            else Photo(ref, Picture(None, failure=data))
            for ref, (data, ms) in several
        ]


@functools.cache
def shared() -> PhotoReader:
    """The reader of this process, with this process's pool."""
    return PhotoReader(process_pool.shared())


# In a process that was forked, the threads of the reader don't run.
os.register_at_fork(after_in_child=shared.cache_clear)


class _Budget:
    """Keeps the bytes that several threads read at a time below `AHEAD_BYTES`, or lets one thread read alone."""

    def __init__(self) -> None:
        self._taken, self._changed = 0, threading.Condition()

    @contextlib.contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """A block in which a number of bytes may be read; waits for other threads to end theirs."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + size <= AHEAD_BYTES)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()


class _Sized(Protocol):
    """A photo whose size in bytes is known, or 0."""

    @property
    def size(self) -> int: ...


_Any = TypeVar("_Any", bound=_Sized)


def _bytes(photo: _Sized) -> int:
    """The size of a photo, as far as it is known."""
    return photo.size or UNKNOWN_BYTES


def chunks(photos: Iterable[_Any], most: int = CHUNK_PHOTOS) -> Iterator[list[_Any]]:
    """Groups photos into chunks; a chunk is sent to an image process as one message.

    Args:
      photos: what to group.
      most: how many photos a chunk may have, if fewer than `CHUNK_PHOTOS`.
    """
    chunk: list[_Any] = []
    total = 0
    for photo in photos:
        size = _bytes(photo)
        if chunk and (len(chunk) >= min(most, CHUNK_PHOTOS) or total + size > CHUNK_BYTES):
            yield chunk
            chunk, total = [], 0
        chunk.append(photo)
        total += size
    if chunk:
        yield chunk


def _next(contents: Iterator[reading.Content], count: int) -> list[_Read]:
    """Reads the next photos."""
    read: list[_Read] = []
    started = time.perf_counter()
    for content in itertools.islice(contents, count):
        ended = time.perf_counter()
        read.append(_Read(content, 1000 * (ended - started)))
        started = ended
    return read
