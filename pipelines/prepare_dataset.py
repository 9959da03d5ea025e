"""Prepares training data: writes photos and their captions to sharded TFRecord files of `tf.Example`."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.ml.inference.base import RunInference
from apache_beam.pvalue import PBegin

from beamscribe.model.quiet import quiet_imports
from beamscribe.model.recipe import Encoder
from beamscribe.model.training.dataset_description import (
    DATASET,
    EXAMPLES,
    FEATURE_DTYPE,
    DatasetDescription,
    LeftOut,
    Store,
    StoredFeatures,
    examples_file,
)
from beamscribe.pipelines import counters, stores, tf_examples
from beamscribe.pipelines.batches import Model, infer, shards_of
from beamscribe.pipelines.failures import Failure
from beamscribe.pipelines.inference import PhotoStream, ShardHandler
from beamscribe.pipelines.photos import PhotoRef

# Photos per file: small enough that the trainer's shuffle buffer mixes many files.
SHARD_PHOTOS = 64
BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
    """The options of the job that prepares a dataset.

    Attributes:
      images: folder of the photos.
      captions: maps the name of each photo, relative to `images`, to its captions.
      photos: names of the photos in the split.
      output: folder of the dataset.
      encoder: encoder that computes the features.
      store: `features`, or `images` for the pixels that are the encoder's input.
      flip: whether to store the features of the mirrored photo, too.
    """

    images: str
    captions: Mapping[str, Sequence[str]]
    photos: Sequence[str]
    output: str
    encoder: Encoder
    store: Store = "features"
    flip: bool = False


@dataclasses.dataclass(frozen=True, order=True)
class PreparedShard:
    """The content of one file of examples.

    Attributes:
      index: number of the shard.
      photos: number of photos in the file.
      failures: (name, failure) pairs of the shard's photos that are not in the file.
    """

    index: int
    photos: int
    failures: tuple[tuple[str, Failure], ...]


@dataclasses.dataclass
class PrepareDataset(beam.PTransform):
    """Writes the files of a dataset, `dataset.json` last.

    Attributes:
      options: options of the job.
    """

    options: PrepareOptions

    def expand(self, root: PBegin) -> beam.PCollection[None]:
        """Builds the job at the pipeline's root; returns one element, None, after the dataset is written."""
        refs = [PhotoRef(stores.join(self.options.images, name), etag="") for name in self.options.photos]
        return (
            root
            | "ListPhotos" >> beam.Create(list(shards_of(refs, SHARD_PHOTOS)))
            | "Reshuffle" >> beam.Reshuffle()
            | "OpenShard" >> beam.Map(PhotoStream)
            | "WriteExamples" >> RunInference(ExampleHandler(self.options).with_no_batching())
            | "CollectShards" >> beam.combiners.ToList()
            | "WriteDataset" >> beam.Map(write_dataset, self.options)
        )


class ExampleHandler(ShardHandler[PreparedShard, Any]):
    """Writes one file of examples for each shard of photos; the write is atomic.

    Args:
      options: options of the job.
    """

    def __init__(self, options: PrepareOptions):
        self._options = options

    def load_model(self) -> Any:
        """Loads the encoder; None if images are stored."""
        with quiet_imports():
            from beamscribe.model import encoders

        return encoders.FeatureExtractor(self._options.encoder) if self._options.store == "features" else None

    def run_shard(self, stream: PhotoStream, model: Any) -> Iterator[PreparedShard]:
        """Reads, encodes and writes one shard.

        Yields:
          The content of the file that was written.
        """
        records, failures = [], []
        folder = stores.join(self._options.images, "")
        for photo, result in infer(stream.pictures(self._options.encoder.image_size), self._stored(model), BATCH_SIZE):
            name = photo.ref.photo.removeprefix(folder)
            if isinstance(result, Failure):
                failures.append((name, result))
                counters.count_row(counters.FAILED, result.error)
                continue
            counters.count_row(counters.PREPARED, None)
            records.append({"photo": name, "captions": list(self._options.captions[name]), **result})
        if records:
            path = stores.join(self._options.output, examples_file(stream.shard.index))
            stores.replace(path, tf_examples.tfrecord(pa.Table.from_pylist(records)))
        yield PreparedShard(stream.shard.index, len(records), tuple(failures))

    def _stored(self, model: Any) -> Model:
        """Returns a function that maps a batch to the stored bytes of its photos: pixels or features.

        Pixels are uint8, features little-endian float16.
        """

        def stored(images: np.ndarray, _: list[str]) -> list[dict[str, bytes]]:
            if model is None:
                return [{"image": image.tobytes()} for image in images]
            views = {"features": images}
            if self._options.flip:
                views["features_flipped"] = images[:, :, ::-1]
            arrays = {name: model(view).astype(FEATURE_DTYPE) for name, view in views.items()}
            return [{name: array[i].tobytes() for name, array in arrays.items()} for i in range(len(images))]

        return stored


def photos_written(options: PrepareOptions) -> int:
    """The number of photos of the files of examples that are written so far, with those of them that failed.

    Args:
      options: options of the job.

    Raises:
      OSError: the store reported an error.
    """
    files = {path.rpartition("/")[2] for path in stores.within(options.output, EXAMPLES)}
    starts = range(0, len(options.photos), SHARD_PHOTOS)
    return sum(
        min(SHARD_PHOTOS, len(options.photos) - start)
        for index, start in enumerate(starts)
        if examples_file(index) in files
    )


def write_dataset(shards: Iterable[PreparedShard], options: PrepareOptions) -> None:
    """Writes the schema of the examples, then `dataset.json`, whose existence marks the dataset as complete.

    Args:
      shards: contents of all files of the dataset, in any order.
      options: options of the job.

    Raises:
      OSError: the store reported an error.
    """
    from beamscribe.model import encoders

    stored = ["image"] if options.store == "images" else ["features"] + ["features_flipped"] * options.flip
    schema = tf_examples.schema_text([(name, "BYTES") for name in ("photo", "captions", *stored)])
    features = StoredFeatures(
        shape=encoders.feature_shape(options.encoder),
        dtype=FEATURE_DTYPE,
        encoder=options.encoder.name,
        fingerprint=encoders.fingerprint(options.encoder),
    )
    shards = sorted(shards)
    left_out = [(name, failure) for shard in shards for name, failure in shard.failures]
    gone = {name for name, _ in left_out}
    dataset = DatasetDescription(
        photos=sum(shard.photos for shard in shards),
        captions=sum(len(options.captions[name]) for name in options.photos if name not in gone),
        store=options.store,
        flip=options.flip,
        image_size=options.encoder.image_size,
        features=features if options.store == "features" else None,
        failures=tuple(LeftOut(photo=name, error=fault.error, message=fault.message) for name, fault in left_out),
    )
    stores.replace(stores.join(options.output, "schema.pbtxt"), schema.encode())
    stores.replace(stores.join(options.output, DATASET), dataset.to_json())
