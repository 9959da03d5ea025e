from pathlib import Path

import numpy as np
import pytest

from beamscribe.model import encoders
from beamscribe.model.encoders import efficientnet_lite
from beamscribe.model.recipe import Encoder

REFERENCE = Path(__file__).parent / "data" / "efficientnet_lite_reference.npz"


@pytest.fixture(scope="module")
def smallest():
    """The smallest model of all, with random weights."""
    return efficientnet_lite.build("efficientnet_lite0", 32)


@pytest.fixture
def weights():
    """What `load_weights` takes for `smallest`; may be changed."""
    with encoders.WEIGHTS.joinpath("efficientnet_lite0.npz").open("rb") as file, np.load(file) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", efficientnet_lite.VARIANTS)
def test_features_are_those_of_the_original(name):
    with np.load(REFERENCE) as reference:
        image, expected = reference["image"], reference[name]
    features = np.asarray(encoders.build(Encoder(name=name, image_size=len(image)))(image[None]))[0]
    assert features.shape == expected.shape == (7, 7, 1280)
    assert features.dtype == np.float32
    assert np.linalg.norm(features - expected) / np.linalg.norm(expected) < 1e-3
    # A reference that is nothing but zeros would agree with much.
    assert 3 < expected.max() <= 6


def test_takes_bytes_and_floats_alike(smallest):
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(smallest(image), smallest(image.astype("float32")))


def test_loads_every_weight(smallest, weights):
    efficientnet_lite.load_weights(smallest, {name: np.full_like(array, 0.5) for name, array in weights.items()})
    assert all(np.all(array == 0.5) for array in smallest.get_weights())


@pytest.mark.parametrize(
    "name", ["_conv_stem.weight", "_blocks.3._bn1.running_var", "_blocks.15._depthwise_conv.weight"]
)
def test_says_which_weight_is_missing(smallest, weights, name):
    del weights[name]
    with pytest.raises(ValueError) as error:
        efficientnet_lite.load_weights(smallest, weights)
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("_conv_stem.weight", (31, 3, 3, 3)),
        ("_conv_stem.weight", (32, 27)),
        ("_blocks.3._bn1.running_var", (143,)),
        ("_blocks.15._depthwise_conv.weight", (1152, 1, 5, 5)),
    ],
)
def test_says_which_weight_has_another_shape(smallest, weights, name, shape):
    expected = weights[name].shape
    weights[name] = np.zeros(shape, "float32")
    with pytest.raises(ValueError) as error:
        efficientnet_lite.load_weights(smallest, weights)
    assert str(error.value) == f"{name}: expected the shape {expected}, found {shape}"


def test_refuses_the_weights_of_another_variant(weights):
    with pytest.raises(ValueError, match="shape"):
        efficientnet_lite.load_weights(efficientnet_lite.build("efficientnet_lite2", 32), weights)
