"""Runs a model over a shard of photos: reading and decoding ahead, in batches, failures apart."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.images import process_pool
from beamscribe.pipelines.images.process_pool import Photo, ReadOptions
from beamscribe.pipelines.photos import PhotoRef, Shard

_LOGGER = logging.getLogger(__name__)

# Batches of so many photos have failed for no photo's sake.
_blamed: set[int] = set()


@dataclasses.dataclass(frozen=True)
class PhotoStream:
    """A shard's photos, read and decoded only when they are asked for.

    It crosses steps as references; pixels exist only where it is iterated.
    """

    shard: Shard

    def __len__(self) -> int:
        return len(self.shard)

    def pictures(self, size: int, options: ReadOptions = ReadOptions()) -> Iterator[Photo]:
        """Every photo that is to be read, in the shard's order, resized to `[size, size, 3]`, or its failure."""
        return process_pool.shared().stream([ref for ref in self.shard.photos if not ref.same_as], size, options)


# From images `[batch, size, size, 3]`, uint8, and their photos' URIs or paths, to one result for each.
Model = Callable[[np.ndarray, list[str]], Any]


def infer(photos: Iterable[Photo], model: Model, batch_size: int) -> Iterator[tuple[Photo, Any]]:
    """Runs a model on the photos that decoded.

    Args:
      photos: decoded photos and failures.
      model: what makes the results.
      batch_size: most photos in one call.

    Yields:
      Each photo, in order, with its result or its `Failure`.
    """
    for batch in _batched(photos, batch_size):
        good = [photo for photo in batch if photo.picture.failure is None]
        results = iter(_run(model, good))
        for photo in batch:
            yield photo, photo.picture.failure or next(results)


def _batched(photos: Iterable[Photo], size: int) -> Iterator[list[Photo]]:
    """Groups photos until `size` of them have pixels; failures ride along."""
    batch: list[Photo] = []
    good = 0
    for photo in photos:
        batch.append(photo)
        good += photo.picture.failure is None
        if good == size:
            yield batch
            batch, good = [], 0
    if batch:
        yield batch


def _run(model: Model, photos: list[Photo]) -> list[Any]:
    """Results of photos at once or, where that fails, of each half: whatever the error is, it costs no other photo."""
    if not photos:
        return []
    try:
        images: Any = [photo.picture.pixels for photo in photos]
        return list(model(np.stack(images), [photo.ref.photo for photo in photos]))
    except Exception as error:  # noqa: BLE001 - whatever it is
        message = " ".join(str(error).split())[:500] or type(error).__name__
    if len(photos) == 1:
        return [Failure(Stage.CAPTION, ErrorCode.MODEL_ERROR, message)]
    middle = len(photos) // 2
    results = _run(model, photos[:middle]) + _run(model, photos[middle:])
    if not any(isinstance(result, Failure) for result in results):
        _blame_size(len(photos), message)
    return results


def _blame_size(photos: int, message: str) -> None:
    """Says, once a process, that so many photos at once fail, and the same photos in smaller batches don't."""
    if photos not in _blamed:
        _blamed.add(photos)
        _LOGGER.error("%d photos at once fail, fewer don't; choose a smaller --batch-size: %s", photos, message)


def shards_of(photos: Sequence[PhotoRef], size: int) -> Iterator[Shard]:
    """Cuts a list of photos into shards of `size`."""
    for index, start in enumerate(range(0, len(photos), size)):
        yield Shard(index, tuple(photos[start : start + size]))
