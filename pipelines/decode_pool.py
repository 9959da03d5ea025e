"""Reads and decodes photos ahead of the model, in spawned processes that may crash or hang.

One pool serves a worker process, however many bundles it runs at once.
"""

import atexit
import collections
import concurrent.futures
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import loky
import pebble

from pipelines import decoding, storage
from pipelines.decoding import Decoded
from pipelines.failures import ErrorCode, Failure, Stage
from pipelines.photos import PhotoRef

# One message to a process and back: enough photos to make its cost small, few enough bytes to hold several.
CHUNK_PHOTOS = 8
CHUNK_BYTES = 32 * 2**20
# Time to decode one photo, seconds: far more than any honest photo takes.
PHOTO_TIMEOUT = 60.0


class Photo(NamedTuple):
    """A listed photo, read and decoded, or its failure."""

    ref: PhotoRef
    decoded: Decoded


class DecodePool:
    """Spawned processes that decode, each replaced when it dies or overruns its time.

    Args:
      workers: number of processes.
      timeout: seconds that one photo may take.
    """

    def __init__(self, workers: int, timeout: float = PHOTO_TIMEOUT):
        self._timeout = timeout
        # loky's processes, unlike multiprocessing's, do not import the parent's main module,
        # which on a Beam worker is all of Beam.
        context = loky.backend.get_context("loky")
        self._processes = pebble.ProcessPool(max_workers=workers, context=context)
        # Threads only read files and wait: two more than processes keep every process fed.
        self._threads = concurrent.futures.ThreadPoolExecutor(workers + 2, thread_name_prefix="read")
        self._ahead = workers + 2

    def stream(self, refs: Iterable[PhotoRef], size: int) -> Iterator[Photo]:
        """Yields every photo in order, decoded to `[size, size, 3]` pixels or failed, a few chunks ahead."""
        pending: collections.deque[concurrent.futures.Future[list[Photo]]] = collections.deque()
        chunks = _chunks(refs)
        try:
            for chunk in itertools.islice(chunks, self._ahead):
                pending.append(self._threads.submit(self._read_and_decode, chunk, size))
            while pending:
                photos = pending.popleft().result()
                for chunk in itertools.islice(chunks, 1):
                    pending.append(self._threads.submit(self._read_and_decode, chunk, size))
                yield from photos
        finally:
            for future in pending:
                future.cancel()

    def close(self) -> None:
        """Ends the processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._processes.stop()
        self._processes.join()

    def _read_and_decode(self, refs: Sequence[PhotoRef], size: int) -> list[Photo]:
        contents = [_read(ref) for ref in refs]
        found = [data for data in contents if isinstance(data, bytes)]
        decoded = iter(self._decode(found, size))
        return [
            Photo(ref, next(decoded) if isinstance(data, bytes) else Decoded(None, failure=data))
            for ref, data in zip(refs, contents, strict=True)
        ]

    def _decode(self, photos: Sequence[bytes], size: int) -> list[Decoded]:
        if not photos:
            return []
        try:
            return self._processes.schedule(decoding.decode_all, (photos, size), timeout=self._timeout).result()
        except concurrent.futures.TimeoutError:
            error, message = ErrorCode.TIMEOUT, f"decoding took longer than {self._timeout:g} s"
        except pebble.ProcessExpired as expired:
            error, message = ErrorCode.DECODER_CRASH, f"the decoder's process ended with code {expired.exitcode}"
        if len(photos) > 1:
            # One of them did it: alone, each shows whether it was the one.
            return [decoded for data in photos for decoded in self._decode([data], size)]
        return [Decoded(None, failure=Failure(Stage.DECODE, error, message))]


def shared() -> DecodePool:
    """The pool of this process: as many decoders as it may use processors."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = DecodePool(loky.cpu_count())
            atexit.register(_pool.close)
        return _pool


_pool: DecodePool | None = None
_pool_lock = threading.Lock()


def _chunks(refs: Iterable[PhotoRef]) -> Iterator[list[PhotoRef]]:
    chunk: list[PhotoRef] = []
    total = 0
    for ref in refs:
        if chunk and (len(chunk) == CHUNK_PHOTOS or total + ref.size > CHUNK_BYTES):
            yield chunk
            chunk, total = [], 0
        chunk.append(ref)
        total += ref.size
    if chunk:
        yield chunk


def _read(ref: PhotoRef) -> bytes | Failure:
    try:
        return storage.read(ref.photo)
    except FileNotFoundError as error:
        return Failure(Stage.READ, ErrorCode.NOT_FOUND, _reason(error))
    except PermissionError as error:
        return Failure(Stage.READ, ErrorCode.PERMISSION, _reason(error))
    except OSError as error:
        return Failure(Stage.READ, ErrorCode.UNREADABLE, _reason(error))


def _reason(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split())
