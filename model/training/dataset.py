"""Training data in: TFRecord of `tf.Example`, as `prepare` writes it, to batches of features and ids."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from beamscribe.model import encoders
from beamscribe.model.errors import UserError
from beamscribe.model.recipe import Encoder
from beamscribe.model.words.vocabulary import END, PAD, START, Vocabulary, tokenize

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

        def example(serialized, draw):
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

    def _decode(self, raw):
        dtype = tf.uint8 if self.store == "images" else tf.float16
        return tf.reshape(tf.io.decode_raw(raw, dtype, little_endian=True), self.shape)


def load(folder: Path, encoder: Encoder, mirror: bool) -> Dataset:
    """Opens a prepared split, and reads its captions.

    Args:
      folder: what `prepare` wrote.
      encoder: the recipe's, which must be the one that made the features.
      mirror: whether mirror images are needed.

    Raises:
      UserError: it is no dataset, or not one for this recipe.
    """
    try:
        description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} is not a prepared dataset: it has no dataset.json; run `beamscribe prepare`"
        ) from None
    except ValueError:
        raise UserError(f"{folder / 'dataset.json'} is damaged; prepare the dataset again") from None
    wanted = "images" if encoder.trained_from else "features"
    if description["store"] != wanted:
        kind = "trained" if encoder.trained_from else "frozen"
        raise UserError(
            f"{folder} holds {description['store']}; this recipe's encoder is {kind} and needs --store {wanted}"
        )
    if encoder.trained_from:
        shape = _check_images(folder, description, encoder)
    else:
        shape = _check_features(folder, description, encoder, mirror)
    photos, captions = [], []
    for example in _records(folder, shuffle=False).map(lambda r: _parse(r, ["photo"], ["captions"])):
        photos.append(example["photo"].numpy().decode())
        captions.append(tuple(caption.decode() for caption in example["captions"].values.numpy()))
    if len(photos) != description["photos"]:
        raise UserError(f"{folder} has {len(photos)} of its {description['photos']} photos; prepare it again")
    if not photos:
        raise UserError(f"{folder} has no photos; prepare it again")
    return Dataset(folder, description["store"], shape, description["flip"], tuple(photos), tuple(captions))


def _check_images(folder: Path, description: Mapping[str, Any], encoder: Encoder) -> tuple[int, int, int]:
    size = description["image_size"]
    if size != encoder.image_size:
        raise UserError(f"{folder} holds images of {size} px, the recipe has {encoder.image_size}; prepare it again")
    return size, size, 3


def _check_features(
    folder: Path, description: Mapping[str, Any], encoder: Encoder, mirror: bool
) -> tuple[int, int, int]:
    features = description["features"]
    found = f"{features['encoder']} at {description['image_size']} px"
    wanted = f"{encoder.name} at {encoder.image_size} px"
    if found != wanted:
        raise UserError(f"{folder} holds the features of {found}, the recipe has {wanted}; prepare it again")
    if features["fingerprint"] != encoders.fingerprint(encoder):
        raise UserError(f"{folder} holds the features of another {found}: its weights differ; prepare it again")
    if mirror and not description["flip"]:
        raise UserError(f"the recipe trains on mirror images, which {folder} lacks; prepare it with --flip")
    height, width, channels = features["shape"]
    return height, width, channels


def encoded(data: Dataset, encoder: keras.Model, folder: Path, mirror: bool) -> Dataset:
    """The features of a split of images, encoded once and kept in a folder.

    Args:
      data: the split.
      encoder: from its images to features.
      folder: of the features; what is whole there already is taken as it is.
      mirror: whether mirror images are needed, too.
    """
    from tqdm import tqdm

    whole = folder / "whole"
    if not whole.exists():
        folder.mkdir(parents=True, exist_ok=True)
        names = iter(data.photos)
        writers = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)
        for index, images in enumerate(tqdm(data.features(_ENCODED_PHOTOS), desc="encoded", unit="batch")):
            views = {"features": images} | ({"features_flipped": tf.reverse(images, [2])} if mirror else {})
            arrays = {name: encoder.predict_on_batch(view).astype("<f2") for name, view in views.items()}
            with tf.io.TFRecordWriter(str(folder / f"examples-{index:05d}.tfrecord.gz"), writers) as writer:
                for row in range(len(images)):
                    parts = {name: array[row].tobytes() for name, array in arrays.items()}
                    writer.write(_serialize({"photo": next(names).encode(), **parts}))
        whole.touch()
    shape = tuple(encoder.output_shape[1:])
    return dataclasses.replace(data, folder=folder, store="features", shape=shape, flip=mirror)


def training_ids(
    captions: Sequence[Sequence[Sequence[str]]], vocabulary: Vocabulary, max_words: int
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of teacher forcing.

    Args:
      captions: the tokenized captions of each photo.
      vocabulary: the words that have ids.
      max_words: longer captions are cut one word after it, and then have no end.

    Returns:
      Inputs, which start with `START`, and targets, which end with `END`; both
      `[photos, captions, max_words + 1]`, int32, padded with `PAD`. Photos with fewer captions than
      the most have empty ones, all `PAD`.
    """
    most = max(len(photo) for photo in captions)
    targets = np.full((len(captions), most, max_words + 1), PAD, np.int32)
    for place, photo in enumerate(captions):
        for row, tokens in enumerate(photo):
            ids = [*vocabulary.encode(tokens), END][: max_words + 1]
            targets[place, row, : len(ids)] = ids
    return shift_right(targets), targets


def shift_right(targets: np.ndarray) -> np.ndarray:
    """The inputs that go with targets: `START`, then each target but the last."""
    inputs = np.roll(targets, 1, axis=-1)
    inputs[..., 0] = START
    # What follows the end is never trained on; padding keeps it one id.
    inputs[inputs == END] = PAD
    return inputs


def _records(folder: Path, shuffle: bool, seed: int | None = None) -> tf.data.Dataset:
    files = sorted(str(path) for path in folder.glob("examples-*.tfrecord.gz"))
    names = tf.data.Dataset.from_tensor_slices(tf.constant(files, tf.string))
    if not shuffle:
        return tf.data.TFRecordDataset(names, compression_type="GZIP")
    return names.shuffle(len(files), seed=seed).interleave(
        lambda name: tf.data.TFRecordDataset(name, compression_type="GZIP"), cycle_length=_OPEN_FILES
    )


def _serialize(features: Mapping[str, bytes]) -> bytes:
    lists = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=lists)).SerializeToString()


def _parse(serialized, single: Sequence[str], several: Sequence[str] = ()):
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in single}
    features |= {name: tf.io.VarLenFeature(tf.string) for name in several}
    return tf.io.parse_single_example(serialized, features)
