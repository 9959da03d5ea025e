"""The ImageNet classifiers of `keras.applications` as encoders: from a photo to the grid before the pooling."""

import contextlib
import functools
import hashlib
import io
import math
import re
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beamscribe.model.errors import PROGRAMMING_ERRORS, BeamscribeError, InputError, one_line
from beamscribe.model.image_sizes import KERAS_APPLICATIONS
from beamscribe.model.tensors import Tensor

if TYPE_CHECKING:
    import keras

# The smallest photos that Keras builds each for, pixels.
_SMALLEST = dict.fromkeys(KERAS_APPLICATIONS, 32) | {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}

# Means and standard deviations of ImageNet's red, green and blue, from 0 to 1: keras.applications.efficientnet.
_MEANS = (0.485, 0.456, 0.406)
_DEVIATIONS = (0.229, 0.224, 0.225)


def build(name: str, image_size: int, weights: str, layer_name: str = "encoder") -> "keras.Model":
    """Builds a classifier without its top.

    Args:
      name: a key of `KERAS_APPLICATIONS`.
      image_size: height and width of the square input, pixels.
      weights: `imagenet`, which Keras downloads or has in its cache; `none`, for random ones, the same for a name every
        time; or the path of a file: the one without the top (`notop`, `no_top`) that Keras would download, or a
        `.weights.h5` that was saved from this model or from the classifier.
      layer_name: name of the Keras model.

    Returns:
      A model from RGB images `[batch, image_size, image_size, 3]`, any dtype, 0 to 255, to a feature grid
      `[batch, height, width, channels]`, float32. The classifier's own preprocessing is part of it, and its layers are
      the model's own, by their names in Keras.

    Raises:
      InputError: the photos are too small for the classifier, or there is no file with its weights.
      BeamscribeError: its weights can't be read or downloaded.
    """
    import keras

    if weights == "imagenet":
        network = _download(name, image_size)
    else:
        network = _construct(name, image_size)
        if weights == "none":
            draw_weights(network, name)
        else:
            _load_weights(network, name, weights)
    return keras.Model(network.inputs[0], network.outputs[0], name=layer_name)


@functools.cache
def feature_shape(name: str, image_size: int) -> tuple[int, int, int]:
    """(height, width, channels) of one photo's features.

    Raises:
      InputError: the photos are too small for the classifier.
    """
    _, height, width, channels = _construct(name, image_size).outputs[0].shape
    return height, width, channels


def weights_digest(weights: str) -> str:
    """A text that tells the weights of one classifier apart, whatever the path of their file.

    Raises:
      InputError: there is no such file.
    """
    # These two depend on the classifier and the size of its photos alone: Keras names one file for them, and the
    # random ones are drawn from the name.
    if weights in ("imagenet", "none"):
        return weights
    with _weights_file(weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _construct(name: str, image_size: int, weights: str | None = None) -> "keras.Model":
    """The classifier without its top, behind its preprocessing; Keras' random weights by default."""
    import keras

    from beamscribe.model import keras_internals

    if image_size < _SMALLEST[name]:
        raise InputError(
            f"encoder.image_size: {name} takes photos of {_SMALLEST[name]} pixels or more, found {image_size}; "
            f"it was trained at {KERAS_APPLICATIONS[name]}"
        )
    classifier = getattr(keras.applications, name)
    preprocess = keras_internals.preprocessing_of(classifier)
    shape = (image_size, image_size, 3)
    with warnings.catch_warnings():
        # The MobileNets warn of photos of another size than their weights'; every other classifier takes them silently.
        warnings.simplefilter("ignore")
        network = classifier(
            include_top=False,
            weights=weights,
            input_tensor=preprocess(keras.Input(shape, name="images")),
            input_shape=shape,
        )
    return _standardize(network) if name.startswith("EfficientNetB") and weights != "imagenet" else network


def _standardize(network: "keras.Model") -> "keras.Model":
    """Makes the preprocessing of an EfficientNet-B what it is with Keras' ImageNet weights.

    Those hold the standard deviations of the colours where the layer takes their squares, so Keras divides by the roots
    once more (https://github.com/tensorflow/tensorflow/issues/49930), but only where it loads these weights itself.
    """
    import keras

    def call(operation: keras.Operation, *args: Any, **kwargs: Any) -> Tensor:
        outputs = operation(*args, **kwargs)
        if isinstance(operation, keras.layers.Normalization):
            operation.set_weights([np.array(_MEANS), np.array(_DEVIATIONS), np.array(0)])
            operation.finalize_state()
            outputs = keras.layers.Rescaling([1 / math.sqrt(deviation) for deviation in _DEVIATIONS])(outputs)
        return outputs

    return keras.models.clone_model(network, call_function=call)


def draw_weights(network: "keras.Model", name: str) -> None:
    """Draws every kernel, so that a name has the same ones in every process.

    Keras' own draws differ from one to the next, and are often useless where nothing has been trained: features of
    1e-20 (MobileNet) and of 1e8 (EfficientNetV2L) are beyond float16. These have the variance of `gain` over the number
    of inputs: 1 keeps the signal as it is in a linear layer (LeCun et al. 1998, Efficient BackProp), 2 behind a ReLU
    (He et al. 2015, arXiv:1502.01852). What suits most is between the two, but in the deepest sums of residuals.
    """
    numbers = np.random.default_rng(zlib.crc32(name.encode()))
    gain = 1.0 if name.startswith(("ResNet", "EfficientNetV2M", "EfficientNetV2L")) else 1.5
    for variable in network.trainable_variables:
        shape = tuple(variable.shape)
        if len(shape) > 1:  # all else, biases and scales, starts from constants
            # A depthwise kernel, [height, width, channels, 1], sums over no channels.
            inputs = math.prod(shape[:2] if shape[-1] == 1 else shape[:-1])
            variable.assign(numbers.standard_normal(shape, np.float32) * math.sqrt(gain / inputs))


def _load_weights(network: "keras.Model", name: str, weights: str) -> None:
    path = _weights_file(weights)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it leaves out, before it raises an error of it
            network.load_weights(path)
    except OSError as error:
        raise BeamscribeError(f"encoder.weights: {weights} can't be read as an HDF5 file: {one_line(error)}") from None
    except Exception as error:  # noqa: BLE001 - Keras and h5py raise many kinds, also TypeError, on files of other networks
        raise BeamscribeError(
            f"encoder.weights: {weights} does not hold the weights of {name} without its top, or has the wrong ending; "
            f"give Keras' notop .h5 file of {name}, or a .weights.h5 that was saved from it ({one_line(error)})"
        ) from None


def _weights_file(weights: str) -> Path:
    path = Path(weights)
    if not path.is_file():
        raise InputError(f"encoder.weights: no file {weights}; give imagenet, none or the path of a weights file")
    return path


def _download(name: str, image_size: int) -> "keras.Model":
    """The classifier with its ImageNet weights, from Keras' cache if they are there."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):  # holds the progress bar back
            return _construct(name, image_size, "imagenet")
    except (BeamscribeError, *PROGRAMMING_ERRORS):
        raise
    except Exception as error:  # noqa: BLE001 - Keras raises nothing narrower
        # Keras says from where it downloads, then that there was a "URL fetch failure on URL: errno -- reason".
        url = re.search(r"https?://\S+\w", f"{said.getvalue()} {error}")
        reason = one_line(str(error).rpartition(" -- ")[2])
        raise BeamscribeError(
            f"encoder.weights: the ImageNet weights of {name} can't be downloaded ({reason}); "
            f"get {url.group() if url else 'them'} yourself and give the file's path as encoder.weights, "
            "or give none for random weights"
        ) from None
