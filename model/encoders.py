"""Encoders by name, with their weights: from a square photo to a grid of features."""

import hashlib
import math
from importlib import resources

import keras
import numpy as np

from model import efficientnet_lite
from model.recipe import Encoder

WEIGHTS = resources.files("model") / "weights"


def build(encoder: Encoder) -> keras.Model:
    """Builds an encoder with its ImageNet weights.

    Returns:
      A model from RGB images `[batch, size, size, 3]`, 0 to 255, to features `[batch, height, width, channels]`,
      float32. Preprocessing is part of it.
    """
    model = efficientnet_lite.build(encoder.name, encoder.image_size, name="encoder")
    with _weights_file(encoder).open("rb") as file, np.load(file) as weights:
        efficientnet_lite.load_weights(model, weights)
    model.trainable = False
    return model


def fingerprint(encoder: Encoder) -> str:
    """Tells one encoder's features from another's: a digest of its name, its input size and its weights."""
    digest = hashlib.sha256(f"{encoder.name} {encoder.image_size} ".encode())
    digest.update(_weights_file(encoder).read_bytes())
    return digest.hexdigest()[:16]


def _weights_file(encoder: Encoder):
    return WEIGHTS / f"{encoder.name}.npz"


def feature_shape(encoder: Encoder) -> tuple[int, int, int]:
    """(height, width, channels) of one photo's features."""
    cells = math.ceil(encoder.image_size / efficientnet_lite.STRIDE)
    return cells, cells, efficientnet_lite.HEAD_FILTERS


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
