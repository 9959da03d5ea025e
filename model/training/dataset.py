"""Training data in: TFRecord of `tf.Example`, as `prepare` writes it, to batches of features and ids."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from beamscribe.model import encoders
from beamscribe.model.errors import BeamscribeError, InputError
from beamscribe.model.progress_display import Display
from beamscribe.model.recipe import Encoder
from beamscribe.model.tensors import Tensor
from beamscribe.model.training.dataset_description import (
    DATASET,
    EXAMPLES,
    FEATURE_DTYPE,
    DatasetDescription,
    StoredFeatures,
    examples_file,
)
from beamscribe.model.words.vocabulary import tokenize

# Files that are read side by side, and photos that wait to be shuffled: together they mix an epoch well
# (a photo with its mirror image takes 0.4 MB).
_OPEN_FILES = 8
_SHUFFLED_PHOTOS = 512
# Photos a file of features that training itself encodes.
_ENCODED_PHOTOS = 50


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared split.

    Attributes:
      folder: where it lies.
      store: `features`, or `images` for photos as the encoder takes them, which then stand for features everywhere.
      shape: (height, width, channels) of one photo's features.
      flip: whether the features of each photo's mirror image are there, too.
      photos: file names.
      captions: the raw captions of each photo, in the order of `photos`.
    """

    folder: Path
    store: str
    shape: tuple[int, int, int]
    flip: bool
    photos: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]

    def tokens(self) -> list[list[list[str]]]:
        """The tokenized captions of each photo."""
        return [[tokenize(caption) for caption in captions] for captions in self.captions]

    def features(self, batch_size: int) -> tf.data.Dataset:
        """Batches of features, `[batch, height, width, channels]`, float16 or uint8, in the order of `photos`."""
        records = _records(self.folder, shuffle=False)
        features = records.map(lambda record: self._decode(_parse(record, [self._names[0]])[self._names[0]]))
        batches = tf.data.experimental.assert_cardinality(math.ceil(len(self.photos) / batch_size))
        return features.batch(batch_size).apply(batches).prefetch(2)

    def examples(self, batch_size: int, mirror: bool, seed: int) -> tf.data.Dataset:
        """Shuffled batches of features and of each photo's place in `photos`, int64; one epoch.

        Args:
          batch_size: photos a batch; the last, short one is left out.
          mirror: take the photo's mirror image instead, every other time.
          seed: of the shuffling and the mirroring; another one each epoch.
        """
        index = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(list(self.photos), np.arange(len(self.photos))), -1
        )

        def example(serialized: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
            views = self._names if mirror else self._names[:1]
            parsed = _parse(serialized, ["photo", *views])
            mirrored = mirror and draw % 2 == 1
            if self.store == "images":
                photo = self._decode(parsed["image"])
                return tf.reverse(photo, [1]) if mirrored else photo, index.lookup(parsed["photo"])
            # Chosen before it is decoded, which takes more time than parsing.
            view = parsed[views[-1]] if mirrored else parsed[views[0]]
            return self._decode(view), index.lookup(parsed["photo"])

        records = _records(self.folder, shuffle=True, seed=seed).shuffle(_SHUFFLED_PHOTOS, seed=seed)
        draws = tf.data.Dataset.random(seed=seed)
        examples = tf.data.Dataset.zip(records, draws).map(example, num_parallel_calls=2)
        return examples.batch(batch_size, drop_remainder=True).prefetch(4)

    @property
    def _names(self) -> list[str]:
        """Features of `tf.Example` that hold a photo's views, the photo itself first."""
        return ["image"] if self.store == "images" else ["features", "features_flipped"]

    def _decode(self, raw: Tensor) -> Tensor:
        dtype = tf.uint8 if self.store == "images" else tf.float16
        return tf.reshape(tf.io.decode_raw(raw, dtype, little_endian=True), self.shape)


def load(folder: Path, encoder: Encoder, mirror: bool) -> Dataset:
    """Opens a prepared split, and reads its captions.

    Args:
      folder: what `prepare` wrote.
      encoder: the recipe's, which must be the one that made the features.
      mirror: whether mirror images are needed.

    Raises:
      InputError: it is no dataset, or not one for this recipe.
      BeamscribeError: photos of it are missing.
    """
    description = _described(folder)
    wanted = "images" if encoder.trained_from else "features"
    if description.store != wanted:
        kind = "trained" if encoder.trained_from else "frozen"
        raise InputError(
            f"{folder} holds {description.store}; this recipe's encoder is {kind} and needs data prepared with "
            f"`store` {wanted}"
        )
    if description.features:
        _check_features(folder, description, description.features, encoder)
        if mirror and not description.flip:
            raise InputError(f"the recipe trains on mirror images, which {folder} lacks; prepare it with `flip`")
        shape = description.features.shape
    else:
        shape = _image_shape(folder, description, encoder)
    photos, captions = [], []
    for example in _records(folder, shuffle=False).map(lambda r: _parse(r, ["photo"], ["captions"])):
        photos.append(example["photo"].numpy().decode())
        captions.append(tuple(caption.decode() for caption in example["captions"].values.numpy()))
    if len(photos) != description.photos:
        raise BeamscribeError(f"{folder} has {len(photos)} of its {description.photos} photos; prepare it again")
    if not photos:
        raise BeamscribeError(f"{folder} has no photos; prepare it again")
    return Dataset(folder, description.store, shape, description.flip, tuple(photos), tuple(captions))


def _described(folder: Path) -> DatasetDescription:
    path = folder / DATASET
    try:
        return DatasetDescription.from_json(path.read_bytes(), str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder} is not a prepared dataset: it has no {DATASET}; run `beamscribe prepare`") from None


def _image_shape(folder: Path, description: DatasetDescription, encoder: Encoder) -> tuple[int, int, int]:
    size = description.image_size
    if size != encoder.image_size:
        raise InputError(f"{folder} holds images of {size} px, the recipe has {encoder.image_size}; prepare it again")
    return size, size, 3


def _check_features(folder: Path, description: DatasetDescription, features: StoredFeatures, encoder: Encoder) -> None:
    found = f"{features.encoder} at {description.image_size} px"
    wanted = f"{encoder.name} at {encoder.image_size} px"
    if found != wanted:
        raise InputError(f"{folder} holds the features of {found}, the recipe has {wanted}; prepare it again")
    if features.fingerprint != encoders.fingerprint(encoder):
        raise InputError(f"{folder} holds the features of another {found}: its weights differ; prepare it again")


def encoded(data: Dataset, encoder: keras.Model, folder: Path, mirror: bool) -> Dataset:
    """The features of a split of images, encoded once and kept in a folder.

    Args:
      data: the split.
      encoder: from its images to features.
      folder: of the features; what is whole there already is taken as it is.
      mirror: whether mirror images are needed, too.
    """
    whole = folder / "whole"
    if not whole.exists():
        folder.mkdir(parents=True, exist_ok=True)
        names = iter(data.photos)
        writers = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)
        with Display(len(data.photos), "photo", done="encoded") as display:
            for index, images in enumerate(data.features(_ENCODED_PHOTOS)):
                views = {"features": images} | ({"features_flipped": tf.reverse(images, [2])} if mirror else {})
                arrays = {name: encoder.predict_on_batch(view).astype(FEATURE_DTYPE) for name, view in views.items()}
                with tf.io.TFRecordWriter(str(folder / examples_file(index)), writers) as writer:
                    for row in range(len(images)):
                        parts = {name: array[row].tobytes() for name, array in arrays.items()}
                        writer.write(_serialize({"photo": next(names).encode(), **parts}))
                display.show(index * _ENCODED_PHOTOS + len(images))
        whole.touch()
    shape = tuple(encoder.output_shape[1:])
    return dataclasses.replace(data, folder=folder, store="features", shape=shape, flip=mirror)


def _records(folder: Path, shuffle: bool, seed: int | None = None) -> tf.data.Dataset:
    files = sorted(str(path) for path in folder.glob(EXAMPLES))
    names = tf.data.Dataset.from_tensor_slices(tf.constant(files, tf.string))
    if not shuffle:
        return tf.data.TFRecordDataset(names, compression_type="GZIP")
    return names.shuffle(len(files), seed=seed).interleave(
        lambda name: tf.data.TFRecordDataset(name, compression_type="GZIP"), cycle_length=_OPEN_FILES
    )


def _serialize(features: Mapping[str, bytes]) -> bytes:
    lists = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=lists)).SerializeToString()


def _parse(serialized: Tensor, single: Sequence[str], several: Sequence[str] = ()) -> dict[str, Tensor]:
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in single}
    features |= {name: tf.io.VarLenFeature(tf.string) for name in several}
    return tf.io.parse_single_example(serialized, features)
