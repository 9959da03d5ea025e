"""Reads photos ahead of the consumer, and converts them to pixels in a pool of image processes."""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from beamscribe.pipelines.images import process_pool, to_pixels
from beamscribe.pipelines.images.process_pool import ImagePool
from beamscribe.pipelines.images.to_pixels import Picture
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import reading
from beamscribe.pipelines.sources.base import ListOptions

# Limits of one message to an image process: enough photos to make its cost small, few enough bytes to hold several
# messages in memory.
CHUNK_PHOTOS = 8
CHUNK_BYTES = 32 * 2**20
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
    """

    sources: ListOptions = ListOptions()
    max_pixels: int = to_pixels.MAX_PIXELS


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
        """Starts to read and convert a chunk each time the consumer asks for one."""
        for container, run in reading.by_container(refs):
            # Standalone files are read in parallel; a container is read in order, by one thread.
            contents = reading.read_members(run, options.sources) if container else None
            for chunk in chunks(run):
                read = reader.submit(_next, contents, len(chunk)) if contents else None
                yield self._threads.submit(self._photos, chunk, read, size, options.max_pixels)

    def _photos(
        self,
        refs: Sequence[PhotoRef],
        read: concurrent.futures.Future[list[reading.Content]] | None,
        size: int,
        max_pixels: int,
    ) -> list[Photo]:
        contents = read.result() if read else [reading.read_photo(ref) for ref in refs]
        found = [data for data in contents if isinstance(data, bytes)]
        pictures = iter(self._pool.convert(found, size, max_pixels))
        return [
            Photo(ref, next(pictures) if isinstance(data, bytes) else Picture(None, failure=data))
            for ref, data in zip(refs, contents, strict=True)
        ]


@functools.cache
def shared() -> PhotoReader:
    """The reader of this process, with this process's pool."""
    return PhotoReader(process_pool.shared())


def chunks(refs: Iterable[PhotoRef]) -> Iterator[list[PhotoRef]]:
    """Groups photos into chunks; a chunk is sent to an image process as one message."""
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
