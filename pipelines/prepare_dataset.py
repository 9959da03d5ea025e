"""Training data: photos and their captions to sharded TFRecord of `tf.Example`."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.ml.inference.base import ModelHandler, RunInference

from beamscribe.model.quiet import quiet_imports
from beamscribe.model.recipe import Encoder
from beamscribe.pipelines import stores, tf_examples
from beamscribe.pipelines.failures import Failure
from beamscribe.pipelines.inference import Model, PhotoStream, infer, shards_of
from beamscribe.pipelines.photos import PhotoRef

# Photos a file: small enough that a trainer's shuffle mixes many files.
SHARD_PHOTOS = 64
BATCH_SIZE = 32
DATASET = "dataset.json"
FEATURE_DTYPE = "<f2"  # little-endian float16


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
    """What to prepare.

    Attributes:
      images: folder of the photos.
      captions: for each photo's name below that folder, its captions.
      photos: names of the split.
      output: folder of the dataset.
      encoder: what makes the features.
      store: `features`, or `images` for the pixels that the encoder takes.
      flip: whether to add the features of the mirrored photo.
    """

    images: str
    captions: Mapping[str, Sequence[str]]
    photos: Sequence[str]
    output: str
    encoder: Encoder
    store: str = "features"
    flip: bool = False


@dataclasses.dataclass(frozen=True, order=True)
class PreparedShard:
    """What one file of examples holds: how many photos, and which of the shard are not in it."""

    index: int
    photos: int
    failures: tuple[tuple[str, Failure], ...]


@dataclasses.dataclass
class PrepareDataset(beam.PTransform):
    """From nothing to the dataset's files, `dataset.json` last."""

    options: PrepareOptions

    def expand(self, pbegin):
        """Wires the job."""
        refs = [PhotoRef(stores.join(self.options.images, name), etag="") for name in self.options.photos]
        return (
            pbegin
            | "ListPhotos" >> beam.Create(list(shards_of(refs, SHARD_PHOTOS)))
            | "Reshuffle" >> beam.Reshuffle()
            | "OpenShard" >> beam.Map(PhotoStream)
            | "WriteExamples" >> RunInference(ExampleHandler(self.options).with_no_batching())
            | "CollectShards" >> beam.combiners.ToList()
            | "WriteDataset" >> beam.Map(write_dataset, self.options)
        )


class ExampleHandler(ModelHandler[PhotoStream, PreparedShard, Any]):
    """Turns a shard of photos into one file of examples, whole or not at all."""

    def __init__(self, options: PrepareOptions):
        self._options = options

    def load_model(self) -> Any:
        """The encoder, where features are stored."""
        with quiet_imports():
            from beamscribe.model import encoders

        return encoders.FeatureExtractor(self._options.encoder) if self._options.store == "features" else None

    def get_num_bytes(self, batch: Sequence[PhotoStream]) -> int:
        """Nothing: the default would pickle the shard only to measure it."""
        return 0

    def run_inference(self, batch, model, inference_args=None) -> Iterable[PreparedShard]:
        """Reads, encodes and writes one shard."""
        records, failures = [], []
        folder = stores.join(self._options.images, "")
        for photo, result in infer(batch.pictures(self._options.encoder.image_size), self._stored(model), BATCH_SIZE):
            name = photo.ref.photo.removeprefix(folder)
            if isinstance(result, Failure):
                failures.append((name, result))
                continue
            records.append({"photo": name, "captions": list(self._options.captions[name]), **result})
        if records:
            path = stores.join(self._options.output, f"examples-{batch.shard.index:05d}.tfrecord.gz")
            stores.replace(path, tf_examples.tfrecord(pa.Table.from_pylist(records)))
        yield PreparedShard(batch.shard.index, len(records), tuple(failures))

    def _stored(self, model: Any) -> Model:
        """What is stored for each photo of a batch: its pixels, or its features as little-endian float16."""

        def stored(images: np.ndarray, _: list[str]) -> list[dict[str, bytes]]:
            if model is None:
                return [{"image": image.tobytes()} for image in images]
            views = {"features": images}
            if self._options.flip:
                views["features_flipped"] = images[:, :, ::-1]
            arrays = {name: model(view).astype(FEATURE_DTYPE) for name, view in views.items()}
            return [{name: array[i].tobytes() for name, array in arrays.items()} for i in range(len(images))]

        return stored


def write_dataset(shards: Iterable[PreparedShard], options: PrepareOptions) -> None:
    """Writes the examples' schema, and `dataset.json`, whose being there says that the dataset is whole."""
    from beamscribe.model import encoders

    stored = ["image"] if options.store == "images" else ["features"] + ["features_flipped"] * options.flip
    schema = tf_examples.schema_text([(name, "BYTES") for name in ("photo", "captions", *stored)])
    features = {
        "shape": encoders.feature_shape(options.encoder),
        "dtype": FEATURE_DTYPE,
        "encoder": options.encoder.name,
        "fingerprint": encoders.fingerprint(options.encoder),
    }
    shards = sorted(shards)
    left_out = [(name, failure) for shard in shards for name, failure in shard.failures]
    gone = {name for name, _ in left_out}
    dataset = {
        "photos": sum(shard.photos for shard in shards),
        "captions": sum(len(options.captions[name]) for name in options.photos if name not in gone),
        "store": options.store,
        "flip": options.flip,
        "image_size": options.encoder.image_size,
        "features": features if options.store == "features" else None,
        "failures": [{"photo": name, "error": failure.error, "message": failure.message} for name, failure in left_out],
    }
    stores.replace(stores.join(options.output, "schema.pbtxt"), schema.encode())
    stores.replace(stores.join(options.output, DATASET), json.dumps(dataset, indent=2).encode())
