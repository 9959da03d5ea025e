"""EfficientNet-Lite in Keras 3 (Tan and Le 2019, arXiv:1905.11946; the Lite variants of 2020).

Lite drops squeeze-and-excite, uses ReLU6 for swish, and keeps the stem and the head at a fixed width.
"""

import dataclasses
import math
from collections.abc import Mapping

import keras
import numpy as np

from beamscribe.model.tensors import Tensor

STEM_FILTERS = 32
HEAD_FILTERS = 1280
STRIDE = 32  # pixels of the input for each cell of the feature grid
BATCH_NORM_EPSILON = 1e-3


@dataclasses.dataclass(frozen=True)
class Variant:
    """How one variant scales EfficientNet-B0."""

    width: float
    depth: float


VARIANTS = {
    "efficientnet_lite0": Variant(width=1.0, depth=1.0),
    "efficientnet_lite2": Variant(width=1.1, depth=1.2),
}


@dataclasses.dataclass(frozen=True)
class _Stage:
    repeats: int
    kernel: int
    strides: int
    expansion: int
    filters: int


# EfficientNet-B0, table 1 of the paper.
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


def build(variant: str, image_size: int, name: str | None = None) -> keras.Model:
    """Builds the convolutional part of an EfficientNet-Lite, with random weights.

    Args:
      variant: a key of `VARIANTS`.
      image_size: height and width of the square input, pixels.
      name: name of the Keras model; the variant's by default.

    Returns:
      A model from RGB images `[batch, image_size, image_size, 3]`, any dtype, 0 to 255, to a feature
      grid `[batch, image_size / 32, image_size / 32, 1280]` (rounded up), float32, at least 0, at most 6.
    """
    scale = VARIANTS[variant]
    images = keras.Input((image_size, image_size, 3), name="images")
    x = keras.layers.Rescaling(1 / 128, offset=-127 / 128, name="preprocessing")(images)
    x = _convolution(x, "conv_stem", "bn0", STEM_FILTERS, kernel=3, strides=2)
    block = 0
    for index, stage in enumerate(_STAGES):
        filters = _round_filters(stage.filters * scale.width)
        # Lite repeats the first and the last stage once, whatever the depth.
        fixed = index in (0, len(_STAGES) - 1)
        repeats = stage.repeats if fixed else math.ceil(stage.repeats * scale.depth)
        for repeat in range(repeats):
            strides = stage.strides if repeat == 0 else 1
            x = _inverted_residual(x, f"blocks.{block}.", stage, filters, strides)
            block += 1
    x = _convolution(x, "conv_head", "bn1", HEAD_FILTERS, kernel=1, strides=1)
    return keras.Model(images, x, name=name or variant)


def load_weights(model: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    """Copies weights under their PyTorch names (`_blocks.0._bn1.running_mean`, …) into a built model.

    Raises:
      ValueError: a weight is missing or has another shape; names the weight.
    """
    kinds: tuple[str, ...]
    axes: tuple[int, ...]
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            kinds, axes = ("weight", "bias", "running_mean", "running_var"), (0,)
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            # PyTorch keeps [channels, 1, height, width], Keras [height, width, channels, 1].
            kinds, axes = ("weight",), (2, 3, 0, 1)
        elif isinstance(layer, keras.layers.Conv2D):
            # PyTorch keeps [out, in, height, width], Keras [height, width, in, out].
            kinds, axes = ("weight",), (2, 3, 1, 0)
        else:
            continue
        for variable, kind in zip(layer.weights, kinds, strict=True):
            name = f"{_pytorch_name(layer)}.{kind}"
            if name not in weights:
                raise ValueError(f"the weights have no array named {name}")
            array = weights[name]
            shape = tuple(variable.shape[axes.index(axis)] for axis in range(len(axes)))
            if array.shape != shape:
                raise ValueError(f"{name}: expected the shape {shape}, found {array.shape}")
            variable.assign(array.transpose(axes).astype("float32"))


def _pytorch_name(layer: keras.Layer) -> str:
    """`blocks.0.bn1` → `_blocks.0._bn1`; TensorFlow allows no name scope that starts with an underscore."""
    return ".".join(part if part.isdigit() else f"_{part}" for part in layer.name.split("."))


def _round_filters(filters: float, divisor: int = 8) -> int:
    rounded = max(divisor, int(filters + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * filters else rounded


def _inverted_residual(x: Tensor, prefix: str, stage: _Stage, filters: int, strides: int) -> Tensor:
    inputs = x
    in_filters = x.shape[-1]
    if stage.expansion != 1:
        x = _convolution(x, f"{prefix}expand_conv", f"{prefix}bn0", in_filters * stage.expansion, 1, 1)
    x = keras.layers.DepthwiseConv2D(
        stage.kernel, strides, padding="same", use_bias=False, name=f"{prefix}depthwise_conv"
    )(x)
    x = keras.layers.BatchNormalization(epsilon=BATCH_NORM_EPSILON, name=f"{prefix}bn1")(x)
    x = keras.layers.ReLU(6.0, name=f"{prefix}relu1")(x)
    x = keras.layers.Conv2D(filters, 1, use_bias=False, name=f"{prefix}project_conv")(x)
    x = keras.layers.BatchNormalization(epsilon=BATCH_NORM_EPSILON, name=f"{prefix}bn2")(x)
    if strides == 1 and in_filters == filters:
        x = keras.layers.Add(name=f"{prefix}add")([x, inputs])
    return x


def _convolution(x: Tensor, name: str, norm_name: str, filters: int, kernel: int, strides: int) -> Tensor:
    x = keras.layers.Conv2D(filters, kernel, strides, padding="same", use_bias=False, name=name)(x)
    x = keras.layers.BatchNormalization(epsilon=BATCH_NORM_EPSILON, name=norm_name)(x)
    return keras.layers.ReLU(6.0, name=f"{norm_name}_relu")(x)
