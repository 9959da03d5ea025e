"""Runs a model on the photos of a shard, in batches; photos that could not be read or decoded pass it by."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from beamscribe.model.errors import one_line
from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.photos import PhotoRef, Shard
from beamscribe.pipelines.sources import photo_reader
from beamscribe.pipelines.sources.photo_reader import Photo, ReadOptions

_LOGGER = logging.getLogger(__name__)

# What a shard gives, and the model that it is given to.
Result = TypeVar("Result")
Loaded = TypeVar("Loaded")

# Batch sizes that failed although every photo of the batch worked in a smaller batch.
_blamed: set[int] = set()


@dataclasses.dataclass(frozen=True)
class PhotoStream:
    """The photos of a shard, which are read and decoded when `pictures` is iterated.

    Only the references pass from step to step, never the pixels.
    """

    shard: Shard

    def __len__(self) -> int:
        return len(self.shard)

    def pictures(self, size: int, options: ReadOptions = ReadOptions()) -> Iterator[Photo]:
        """Reads the photos of the shard, except its duplicates, and converts them to pixels.

        Args:
          size: height and width of the results, pixels.
          options: how photos are read and converted.

        Yields:
          Each photo, in the shard's order, with pixels `[size, size, 3]`, uint8, or with its failure.
        """
        return photo_reader.shared().stream([ref for ref in self.shard.photos if not ref.same_as], size, options)


class ShardHandler(ModelHandler[PhotoStream, Result, Loaded]):
    """Runs a model on whole shards in `RunInference`, with Beam's batching switched off (`with_no_batching`)."""

    def run_shard(self, stream: PhotoStream, model: Loaded) -> Iterable[Result]:
        """Processes one shard.

        Args:
          stream: the photos of the shard.
          model: what `load_model` returned.
        """
        raise NotImplementedError

    def get_num_bytes(self, batch: Sequence[PhotoStream]) -> int:
        """Returns 0: Beam's default would pickle the shard to measure it."""
        return 0

    def run_inference(
        self, batch: Any, model: Loaded, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Result]:
        """Calls `run_shard`. What Beam calls a batch is, without batching, the one element: the photos of a shard."""
        return self.run_shard(batch, model)


# Takes images `[batch, size, size, 3]`, uint8, and the photos' URIs or paths; returns one result per photo.
Model = Callable[[np.ndarray, list[str]], Any]


def infer(photos: Iterable[Photo], model: Model, batch_size: int) -> Iterator[tuple[Photo, Any]]:
    """Runs a model on photos, in batches.

    Args:
      photos: photos with their pixels or failures.
      model: called with each batch.
      batch_size: maximum number of photos in one call of the model.

    Yields:
      Each photo, in order, with its result or its `Failure`.
    """
    for batch in _batched(photos, batch_size):
        good = [photo for photo in batch if photo.picture.failure is None]
        results = iter(_run(model, good))
        for photo in batch:
            yield photo, photo.picture.failure or next(results)


def _batched(photos: Iterable[Photo], size: int) -> Iterator[list[Photo]]:
    """Groups photos so that `size` photos of each group, except the last, have pixels; failed photos come with them."""
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
    """Runs the model on a batch; if that fails, on each half of it, so that one photo's error fails no other photo."""
    if not photos:
        return []
    try:
        images: Any = [photo.picture.pixels for photo in photos]
        return list(model(np.stack(images), [photo.ref.photo for photo in photos]))
    except Exception as error:  # noqa: BLE001 - a model may raise anything
        message = one_line(error)
    if len(photos) == 1:
        return [Failure(Stage.CAPTION, ErrorCode.MODEL_ERROR, message)]
    middle = len(photos) // 2
    results = _run(model, photos[:middle]) + _run(model, photos[middle:])
    if not any(isinstance(result, Failure) for result in results):
        _blame_size(len(photos), message)
    return results


def _blame_size(photos: int, message: str) -> None:
    """Logs, once per process and batch size, that a batch of this size failed and smaller ones did not."""
    if photos not in _blamed:
        _blamed.add(photos)
        _LOGGER.error("a batch of %d photos failed, smaller ones did not; reduce the batch size: %s", photos, message)


def shards_of(photos: Sequence[PhotoRef], size: int) -> Iterator[Shard]:
    """Cuts a list of photos into shards of `size` photos."""
    for index, start in enumerate(range(0, len(photos), size)):
        yield Shard(index, tuple(photos[start : start + size]))
