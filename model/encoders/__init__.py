"""Encoders by name, with their weights: from a square photo to a grid of features."""

import hashlib
import math
import zipfile
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import keras
import numpy as np

from beamscribe.model import bundle
from beamscribe.model.encoders import efficientnet_lite, keras_applications
from beamscribe.model.errors import BeamscribeError, InputError, one_line
from beamscribe.model.recipe import Encoder

WEIGHTS = resources.files("beamscribe.model.encoders") / "weights"


def build(encoder: Encoder) -> keras.Model:
    """Builds an encoder with its weights, frozen.

    Returns:
      A model from RGB images `[batch, size, size, 3]`, 0 to 255, to features `[batch, height, width, channels]`,
      float32. Preprocessing is part of it.

    Raises:
      InputError: there is no file with the weights.
      BeamscribeError: the weights can't be read or downloaded.
    """
    if bundle.is_bundle(encoder.weights):
        model = build(encoder.model_copy(update={"weights": "none"}))
        bundle.restore(Path(encoder.weights), encoder=model)
    elif encoder.name in efficientnet_lite.VARIANTS:
        model = efficientnet_lite.build(encoder.name, encoder.image_size, name="encoder")
        if encoder.weights == "none":
            keras_applications.draw_weights(model, encoder.name)
        else:
            _load_lite(model, encoder)
    else:
        model = keras_applications.build(encoder.name, encoder.image_size, encoder.weights, layer_name="encoder")
    model.trainable = False
    return model


def train_last_layers(model: keras.Model, first: str) -> None:
    """Lets training change an encoder from the layer `first` on, but for batch normalisation.

    Its statistics are those of millions of photos; a small set's would be worse, and in inference mode its scale is
    one more factor of the convolution before it.

    Raises:
      InputError: there is no such layer.
    """
    names = [layer.name for layer in model.layers]
    if first not in names:
        raise InputError(f"encoder.trained_from: {model.name} has no layer {first!r}; the last ones are {names[-12:]}")
    model.trainable = True
    for place, layer in enumerate(model.layers):
        layer.trainable = place >= names.index(first) and not isinstance(layer, keras.layers.BatchNormalization)


def fingerprint(encoder: Encoder) -> str:
    """Tells one encoder's features from another's: a digest of its name, its input size and its weights."""
    digest = hashlib.sha256(f"{encoder.name} {encoder.image_size} ".encode())
    if bundle.is_bundle(encoder.weights):
        digest.update(bundle.describe(Path(encoder.weights)).fingerprint.encode())
    elif encoder.name in efficientnet_lite.VARIANTS:
        digest.update(b"none" if encoder.weights == "none" else _lite_file(encoder).read_bytes())
    else:
        digest.update(keras_applications.weights_digest(encoder.weights).encode())
    return digest.hexdigest()[:16]


def feature_shape(encoder: Encoder) -> tuple[int, int, int]:
    """(height, width, channels) of one photo's features."""
    if encoder.name not in efficientnet_lite.VARIANTS:
        return keras_applications.feature_shape(encoder.name, encoder.image_size)
    cells = math.ceil(encoder.image_size / efficientnet_lite.STRIDE)
    return cells, cells, efficientnet_lite.HEAD_FILTERS


def _lite_file(encoder: Encoder) -> Traversable:
    """The file of an EfficientNet-Lite's weights; raises `InputError` where there is none."""
    if encoder.weights == "imagenet":
        return WEIGHTS / f"{encoder.name}.npz"
    path = Path(encoder.weights)
    if not path.is_file():
        raise InputError(
            f"encoder.weights: no file {encoder.weights}; {encoder.name} takes imagenet, none or an .npz file"
        )
    return path


def _load_lite(model: keras.Model, encoder: Encoder) -> None:
    path = _lite_file(encoder)
    try:
        with path.open("rb") as file, np.load(file) as weights:
            efficientnet_lite.load_weights(model, weights)
    except (ValueError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise BeamscribeError(
            f"encoder.weights: {path} is no .npz file with the weights of {encoder.name}: {one_line(error)}"
        ) from None


class FeatureExtractor:
    """An encoder ready to run on batches of photos.

    Attributes:
      image_size: height and width of the photos that it takes, pixels.
    """

    def __init__(self, encoder: Encoder):
        self.image_size = encoder.image_size
        self._model = build(encoder)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """`[batch, size, size, 3]`, uint8 → `[batch, height, width, channels]`, float16."""
        return np.asarray(self._model.predict_on_batch(images)).astype(np.float16)
