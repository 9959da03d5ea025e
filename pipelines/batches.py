"""Runs a model on photos, in batches; photos that could not be read or decoded pass it by. Imports no Beam."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from beamscribe.pipelines import counters, failures
from beamscribe.pipelines.failures import Failure, Stage
from beamscribe.pipelines.photos import PhotoRef, Shard
from beamscribe.pipelines.sources.photo_reader import Photo

# Takes images `[batch, size, size, 3]`, uint8, and the photos' URIs or paths; returns one result per photo.
Model = Callable[[np.ndarray, list[str]], Any]


def infer(photos: Iterable[Photo], model: Model, batch_size: int) -> Iterator[tuple[Photo, Any]]:
    """Runs a model on photos, in batches. In a step of Beam, it measures the photos and the batches (`counters`).

    Args:
      photos: photos with their pixels or failures, or known ones.
      model: called with each batch.
      batch_size: maximum number of photos in one call of the model.

    Yields:
      Each photo, in order, with its result or its `Failure`; None for a known one, which needs no model.
    """
    for batch in _batched(photos, batch_size):
        results = iter(_run(model, [photo for photo in batch if photo.picture.pixels is not None]))
        for photo in batch:
            counters.measure_photo(photo.picture.read_ms, photo.picture.decode_ms)
            yield photo, photo.picture.failure if photo.picture.pixels is None else next(results)


def _batched(photos: Iterable[Photo], size: int) -> Iterator[list[Photo]]:
    """Groups photos so that `size` photos of each group, except the last, have pixels; others come with them."""
    batch: list[Photo] = []
    good = 0
    for photo in photos:
        batch.append(photo)
        good += photo.picture.pixels is not None
        if good == size:
            yield batch
            batch, good = [], 0
    if batch:
        yield batch


def _run(model: Model, photos: list[Photo]) -> list[Any]:
    """Runs the model on a batch; if that fails, on each half of it, so that one photo's error fails no other photo."""
    if not photos:
        return []
    try:
        pixels: Any = [photo.picture.pixels for photo in photos]
        images = np.stack(pixels)
        started = time.perf_counter()
        results = list(model(images, [photo.ref.photo for photo in photos]))
        if len(results) != len(photos):
            raise RuntimeError(f"the model gave {len(results)} results for {len(photos)} photos")
        counters.measure_call(len(photos), 1000 * (time.perf_counter() - started))
        return results
    except Exception as error:  # noqa: BLE001 - whatever a model raises, every photo gets its row
        failure = failures.of_error(Stage.CAPTION, error)
    if len(photos) == 1:
        return [failure]
    middle = len(photos) // 2
    results = _run(model, photos[:middle]) + _run(model, photos[middle:])
    if not any(isinstance(result, Failure) for result in results):
        _blame_size(len(photos), failure.message)
    return results


def _blame_size(photos: int, message: str) -> None:
    """Logs, once per process, job and batch size, that a batch of this size failed and smaller ones did not."""
    said = "a batch of %d photos failed, smaller ones did not; reduce the batch size: %s"
    failures.log_once(f"batch of {photos}", logging.ERROR, said, photos, message)


def shards_of(photos: Sequence[PhotoRef], size: int) -> Iterator[Shard]:
    """Cuts a list of photos into shards of `size` photos."""
    for index, start in enumerate(range(0, len(photos), size)):
        yield Shard(index, tuple(photos[start : start + size]))
