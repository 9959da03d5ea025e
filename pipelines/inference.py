"""Runs a model on whole shards in Beam's `RunInference`."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from apache_beam.ml.inference.base import ModelHandler

from beamscribe.pipelines import inference_internals
from beamscribe.pipelines.photos import Shard
from beamscribe.pipelines.sources import photo_reader
from beamscribe.pipelines.sources.photo_reader import Expectations, Photo, ReadOptions

# What a shard gives, and the model that it is given to.
Result = TypeVar("Result")
Loaded = TypeVar("Loaded")


@dataclasses.dataclass(frozen=True)
class PhotoStream:
    """The photos of a shard, which are read and decoded when `pictures` is iterated.

    Only the references pass from step to step, never the pixels.
    """

    shard: Shard

    def __len__(self) -> int:
        return len(self.shard)

    def pictures(
        self, size: int, options: ReadOptions = ReadOptions(), expected: Expectations = MappingProxyType({})
    ) -> Iterator[Photo]:
        """Reads the photos of the shard, except its duplicates, and converts them to pixels.

        Args:
          size: height and width of the results, pixels.
          options: how photos are read and converted.
          expected: digests that make a photo known; one that has them is read, but not decoded.

        Yields:
          Each photo, in the shard's order, with pixels `[size, size, 3]`, uint8, with its failure, or known.
        """
        refs = [ref for ref in self.shard.photos if not ref.same_as]
        return photo_reader.shared().stream(refs, size, options, expected)


inference_internals.let_beam_measure_memory()


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
