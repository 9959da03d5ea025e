import functools
import inspect
import shutil
import subprocess
import sys
import urllib.error

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.applications import imagenet_utils
from keras.src.backend import config
from keras.src.utils import file_utils

from beamscribe.model import image_sizes
from beamscribe.model.encoders import keras_applications
from beamscribe.model.errors import BeamscribeError

NAMES = list(image_sizes.KERAS_APPLICATIONS)


@functools.cache
def random_encoder(name):
    return keras_applications.build(name, 64, "none")


@pytest.fixture(scope="module")
def encoder():
    """A cheap classifier whose weights are no file's, nor those of `none`."""
    model = keras_applications.build("MobileNetV2", 64, "none")
    noise = np.random.default_rng(0)
    model.set_weights([array * noise.uniform(0.9, 1.1, array.shape) for array in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)


def failure(name, size, weights):
    with pytest.raises(BeamscribeError) as error:
        keras_applications.build(name, size, weights)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_names_are_those_of_keras():
    classifiers = [name for name, _ in inspect.getmembers(keras.applications, inspect.isfunction)]
    assert sorted(NAMES) == sorted(classifiers)


def test_table_needs_no_keras():
    code = "import sys; from beamscribe.model import recipe; sys.exit('keras' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# Keras gives the MobileNetV3s no size of their own; their weights are for 224.
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("MobileNetV3")])
def test_sizes_are_those_of_keras(name, monkeypatch):
    class StopError(Exception):
        pass

    def stop(shape, default_size, min_size, **_):
        raise StopError(default_size, min_size)

    with monkeypatch.context() as patch, pytest.raises(StopError) as stopped:
        patch.setattr(imagenet_utils, "obtain_input_shape", stop)
        getattr(keras.applications, name)(weights=None)
    own_size, smallest = stopped.value.args
    assert image_sizes.KERAS_APPLICATIONS[name] == own_size
    message = failure(name, smallest - 1, "none")
    assert message.startswith(f"encoder.image_size: {name} takes photos of {smallest} pixels or more")
    with pytest.raises(BeamscribeError):
        keras_applications.feature_shape(name, smallest - 1)


def caffe(images):
    return images[..., ::-1] - np.array([103.939, 116.779, 123.68])


def tf_mode(images):
    return images / 127.5 - 1


def torch(images):
    return (images / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])


@pytest.mark.parametrize(
    ("name", "first", "by_hand"),
    [
        ("VGG16", "block1_conv1", caffe),
        ("MobileNetV2", "Conv1", tf_mode),
        ("DenseNet121", "zero_padding2d", torch),
        ("EfficientNetB0", "stem_conv_pad", torch),
    ],
)
def test_preprocessing_is_in_the_graph(name, first, by_hand, images, tmp_path):
    model = random_encoder(name)
    layer = next(layer for layer in model.layers if layer.name.startswith(first))
    preprocessing = keras.Model(model.input, layer.input)
    expected = by_hand(images.astype("float64"))
    np.testing.assert_allclose(preprocessing(images), expected, atol=1e-4)
    np.testing.assert_allclose(preprocessing(images.astype("float16")), expected, atol=1e-4)

    preprocessing.export(tmp_path / "saved_model", input_signature=[tf.TensorSpec((None, 64, 64, 3), tf.uint8)])
    exported = tf.saved_model.load(str(tmp_path / "saved_model"))
    np.testing.assert_allclose(exported.serve(images), expected, atol=1e-4)


def test_features_are_as_large_as_told(encoder, images):
    features = np.asarray(encoder(images))
    assert features.shape == (2, *keras_applications.feature_shape("MobileNetV2", 64)) == (2, 2, 2, 1280)
    assert features.dtype == np.float32
    assert encoder.name == "encoder"


def test_random_weights_are_always_the_same(images):
    one = random_encoder("MobileNetV2")
    keras.utils.set_random_seed(1)
    other = keras_applications.build("MobileNetV2", 64, "none")
    for weight, same in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, same)
    # Neither rounded to zero by float16, nor beyond it, nor the same whatever the photo shows.
    features = np.asarray(one(images)).astype("float16")
    assert 1e-3 < features.max() < 1e3
    assert np.abs(features[0] - features[1]).max() > 0.1 * features.max()


def test_frozen_encoders_run_without_their_variables(encoder, images):
    expected = np.asarray(encoder(images))
    frozen = keras_applications.build("MobileNetV2", 64, "none", layer_name="cnn")
    assert frozen.name == "cnn"
    frozen.trainable = False
    assert not frozen.trainable_variables
    features, _ = frozen.stateless_call([], encoder.variables, images)
    np.testing.assert_array_equal(features, expected)
    assert np.abs(frozen(images) - expected).max() > 1e-3


@pytest.fixture(scope="module")
def saved(encoder, tmp_path_factory):
    """A folder with the encoder's weights, as it and as Keras' own classifier saves them."""
    folder = tmp_path_factory.mktemp("weights")
    encoder.save_weights(folder / "encoder.weights.h5")
    classifier = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(64, 64, 3))
    classifier.set_weights(encoder.get_weights())
    classifier.save_weights(folder / "classifier.weights.h5")
    # Keras still writes the older format, that of its downloads, but only with the network's description beside them.
    classifier.save(folder / "notop.h5")
    for name in ("renamed.keras", "renamed.bin"):
        shutil.copy(folder / "encoder.weights.h5", folder / name)
    return folder


@pytest.mark.parametrize("name", ["encoder.weights.h5", "classifier.weights.h5", "notop.h5"])
def test_loads_files(name, saved, encoder, images):
    loaded = keras_applications.build("MobileNetV2", 64, str(saved / name))
    np.testing.assert_array_equal(loaded(images), encoder(images))


@pytest.mark.parametrize(
    ("network", "name"),
    [
        ("MobileNet", "notop.h5"),
        ("MobileNet", "encoder.weights.h5"),
        ("MobileNetV2", "renamed.keras"),
        ("MobileNetV2", "renamed.bin"),
    ],
)
def test_says_what_are_no_weights_of_the_network(network, name, saved, recwarn):
    path = saved / name
    message = failure(network, 64, str(path))
    assert message.startswith(f"encoder.weights: {path} does not hold the weights of {network} without its top")
    assert not [warning for warning in recwarn if warning.category is UserWarning]


def test_efficientnet_is_the_same_with_imagenet_weights_and_with_their_file(images, tmp_path, monkeypatch):
    path = tmp_path / "encoder.weights.h5"
    random_encoder("EfficientNetB0").save_weights(path)
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: str(path))
    expected = np.asarray(keras_applications.build("EfficientNetB0", 64, "imagenet")(images))
    features = np.asarray(keras_applications.build("EfficientNetB0", 64, str(path))(images))
    np.testing.assert_allclose(features, expected, atol=1e-4 * expected.max())
    assert expected.max() > 1e-5


@pytest.fixture
def offline(tmp_path, monkeypatch):
    def fail(*_):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(config, "_KERAS_DIR", str(tmp_path))
    monkeypatch.setattr(file_utils, "urlretrieve", fail)


@pytest.mark.parametrize("verbose", [True, False])
@pytest.mark.parametrize(
    ("name", "size", "url"),
    [
        ("VGG16", 64, "vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"),
        # Its weights depend on the size.
        ("MobileNetV2", 96, "mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_96_no_top.h5"),
    ],
)
def test_says_which_file_can_not_be_downloaded(name, size, url, verbose, offline, capfd, recwarn):
    if not verbose:
        keras.config.disable_interactive_logging()
    try:
        message = failure(name, size, "imagenet")
    finally:
        keras.config.enable_interactive_logging()
    assert message == (
        f"encoder.weights: the ImageNet weights of {name} can't be downloaded (no route); "
        f"get https://storage.googleapis.com/tensorflow/keras-applications/{url} yourself and give the file's path "
        "as encoder.weights, or give none for random weights"
    )
    assert capfd.readouterr() == ("", "")
    assert not [warning for warning in recwarn if warning.category is UserWarning]


def test_says_that_there_is_no_file(tmp_path):
    path = tmp_path / "absent.h5"
    message = f"encoder.weights: no file {path}; give imagenet, none or the path of a weights file"
    assert failure("MobileNetV2", 64, str(path)) == message
    with pytest.raises(BeamscribeError, match=r"no file .*absent.h5"):
        keras_applications.weights_digest(str(path))


@pytest.mark.parametrize("name", ["page.h5", "page.weights.h5"])
def test_says_what_is_no_hdf5(name, tmp_path):
    path = tmp_path / name
    path.write_text("<html>")
    assert failure("MobileNetV2", 64, str(path)).startswith(f"encoder.weights: {path} can't be read as an HDF5 file: ")


def test_digest_is_that_of_the_weights(tmp_path):
    one, same, other = (tmp_path / name for name in ("one.h5", "same.h5", "other.h5"))
    for path, content in ((one, b"1"), (same, b"1"), (other, b"2")):
        path.write_bytes(content)
    digests = {path: keras_applications.weights_digest(str(path)) for path in (one, same, other)}
    assert digests[one] == digests[same] != digests[other]
    assert (
        len(
            {
                *digests.values(),
                keras_applications.weights_digest("none"),
                keras_applications.weights_digest("imagenet"),
            }
        )
        == 4
    )
