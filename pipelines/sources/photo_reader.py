"""Reads photos ahead of the consumer, and converts them to pixels in a pool of image processes."""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

from beamscribe.pipelines.images import process_pool, to_pixels
from beamscribe.pipelines.images.pictures import Picture
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
    """A listed photo with its pixels or its failure."""

    ref: PhotoRef
    picture: Picture


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

    def stream(self, refs: Iterable[PhotoRef], size: int, options: ReadOptions = ReadOptions()) -> Iterator[Photo]:
        """Reads photos and converts them to pixels, a few chunks ahead of the consumer.

        Args:
          refs: references to the photos.
          size: height and width of the results, pixels.
          options: how photos are read and converted.

        Yields:
          Each photo, in order, with pixels `[size, size, 3]`, uint8, or with its failure.
        """
        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="container") as reader:
            pending: collections.deque[_Task] = collections.deque()
            tasks = self._tasks(refs, size, options, reader)
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
        self, refs: Iterable[PhotoRef], size: int, options: ReadOptions, reader: concurrent.futures.Executor
    ) -> Iterator["_Task"]:
        """Starts to read and convert a chunk each time the consumer asks for one."""
        for container, run in reading.by_container(refs):
            # Standalone files are read in parallel; a container is read in order, by one thread.
            contents = reading.read_members(run, options.sources) if container else None
            for chunk in chunks(run):
                if options.look_up and not container:
                    future = self._threads.submit(self._looked_up, chunk, size, options.max_pixels)
                else:
                    read = reader.submit(_next, contents, len(chunk)) if contents else None
                    future = self._threads.submit(self._photos, chunk, read, size, options.max_pixels)
                yield _Task(future, sum(ref.size for ref in chunk))

    def _looked_up(self, refs: Sequence[PhotoRef], size: int, max_pixels: int) -> list[Photo]:
        """Looks photos up, then reads and converts them."""
        # Their sizes are known only now: they may be too much for one message.
        found = chunks([files.looked_up(ref) for ref in refs])
        return [photo for chunk in found for photo in self._photos(chunk, None, size, max_pixels)]

    def _photos(
        self,
        refs: Sequence[PhotoRef],
        read: concurrent.futures.Future[list[_Read]] | None,
        size: int,
        max_pixels: int,
    ) -> list[Photo]:
        contents = read.result() if read else _next(map(reading.read_photo, refs), len(refs))
        found = [data for data, _ in contents if isinstance(data, bytes)]
        pictures = iter(self._pool.convert(found, size, max_pixels))
        return [
            Photo(ref, next(pictures)._replace(read_ms=ms) if isinstance(data, bytes) else Picture(None, failure=data))
            for ref, (data, ms) in zip(refs, contents, strict=True)
        ]


@functools.cache
def shared() -> PhotoReader:
    """The reader of this process, with this process's pool."""
    return PhotoReader(process_pool.shared())


# In a process that was forked, the threads of the reader don't run.
os.register_at_fork(after_in_child=shared.cache_clear)


class _Sized(Protocol):
    """A photo whose size in bytes is known, or 0."""

    @property
    def size(self) -> int: ...


_Any = TypeVar("_Any", bound=_Sized)


def chunks(photos: Iterable[_Any], most: int = CHUNK_PHOTOS) -> Iterator[list[_Any]]:
    """Groups photos into chunks; a chunk is sent to an image process as one message.

    Args:
      photos: what to group.
      most: how many photos a chunk may have, if fewer than `CHUNK_PHOTOS`.
    """
    chunk: list[_Any] = []
    total = 0
    for photo in photos:
        size = photo.size or UNKNOWN_BYTES
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
