import numpy as np
import pytest

from beamscribe.model import encoders
from beamscribe.model.captioners.exported_model import CaptionModel
from beamscribe.model.encoders import efficientnet_lite
from beamscribe.model.errors import BeamscribeError
from beamscribe.model.recipe import Encoder

LITE0 = Encoder(name="efficientnet_lite0", image_size=64)


@pytest.fixture(scope="module")
def extractor():
    return encoders.FeatureExtractor(LITE0)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


def test_features_are_half_precision_and_as_large_as_told(extractor, images):
    features = extractor(images)
    assert features.shape == (3, *encoders.feature_shape(LITE0))
    assert features.dtype == np.float16
    assert extractor.image_size == 64


def test_features_do_not_depend_on_the_rest_of_the_batch(extractor, images):
    apart = np.concatenate([extractor(image[None]) for image in images])
    np.testing.assert_allclose(extractor(images).astype("float32"), apart.astype("float32"), atol=0.01)
    assert np.abs(apart[0].astype("float32") - apart[1]).max() > 0.1


def test_encoders_are_frozen():
    encoder = encoders.build(LITE0)
    assert not encoder.trainable_variables
    assert encoder.input_shape == (None, 64, 64, 3)
    # Normalisation with the statistics of the batch would make the features depend on the batch.
    image = np.zeros((1, 64, 64, 3), np.uint8)
    np.testing.assert_array_equal(encoder(image, training=True), encoder(image))


@pytest.mark.parametrize(("size", "cells"), [(260, 9), (224, 7), (225, 8), (64, 2), (32, 1)])
def test_shape_is_that_of_the_model(size, cells):
    encoder = Encoder(name="efficientnet_lite2", image_size=size)
    assert encoders.feature_shape(encoder) == (cells, cells, 1280)
    assert efficientnet_lite.build(encoder.name, size).output_shape == (None, cells, cells, 1280)


def test_fingerprint_tells_encoders_apart(tmp_path, monkeypatch):
    other_size = Encoder(name="efficientnet_lite0", image_size=96)
    other_name = Encoder(name="efficientnet_lite2", image_size=64)
    before = encoders.fingerprint(LITE0)
    assert before == encoders.fingerprint(Encoder(**LITE0.model_dump()))
    assert len({before, encoders.fingerprint(other_size), encoders.fingerprint(other_name)}) == 3

    (tmp_path / "efficientnet_lite0.npz").write_bytes((encoders.WEIGHTS / "efficientnet_lite0.npz").read_bytes())
    monkeypatch.setattr(encoders, "WEIGHTS", tmp_path)
    assert encoders.fingerprint(LITE0) == before
    with (tmp_path / "efficientnet_lite0.npz").open("r+b") as copy:
        copy.seek(1000)
        byte = copy.read(1)
        copy.seek(1000)
        copy.write(bytes([byte[0] ^ 1]))
    assert encoders.fingerprint(LITE0) != before


def test_classifiers_of_keras_are_encoders(images):
    encoder = Encoder(name="MobileNetV2", image_size=64, weights="none")
    extractor = encoders.FeatureExtractor(encoder)
    assert extractor(images).shape == (3, *encoders.feature_shape(encoder)) == (3, 2, 2, 1280)
    assert not encoders.build(encoder).trainable_variables


@pytest.mark.parametrize("name", ["efficientnet_lite0", "MobileNetV2"])
def test_random_weights_are_the_same_every_time(images, name):
    encoder = Encoder(name=name, image_size=64, weights="none")
    one, other = (encoders.FeatureExtractor(encoder)(images) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert one.std() > 1e-3
    assert encoders.fingerprint(encoder) != encoders.fingerprint(Encoder(name=name, image_size=64))


def test_weights_of_a_file_are_those_of_the_package_where_they_are_equal(images, extractor):
    encoder = Encoder(**{**LITE0.model_dump(), "weights": str(encoders.WEIGHTS / "efficientnet_lite0.npz")})
    np.testing.assert_array_equal(encoders.FeatureExtractor(encoder)(images), extractor(images))
    assert encoders.fingerprint(encoder) == encoders.fingerprint(LITE0)


def test_a_bundle_is_an_encoder(images, tiny_bundle):
    encoder = Encoder(name="efficientnet_lite0", image_size=64, weights=str(tiny_bundle))
    expected = CaptionModel(tiny_bundle).features(images)
    np.testing.assert_allclose(encoders.FeatureExtractor(encoder)(images), expected, rtol=1e-2, atol=1e-2)
    assert encoders.fingerprint(encoder) != encoders.fingerprint(LITE0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weights": "/no/where"}, r"encoder\.weights: no file /no/where; .* takes imagenet, none or an \.npz file"),
        ({"weights": __file__}, r"encoder\.weights: .*test_encoders\.py is no \.npz file"),
        (
            {"name": "efficientnet_lite2", "weights": "lite0"},
            r"lite0\.npz is no \.npz file with the weights of efficientnet_lite2: ",
        ),
    ],
)
def test_says_what_is_wrong_with_the_weights(fields, message):
    if fields["weights"] == "lite0":
        fields = {**fields, "weights": str(encoders.WEIGHTS / "efficientnet_lite0.npz")}
    with pytest.raises(BeamscribeError, match=message) as error:
        encoders.build(LITE0.model_copy(update=fields))
    assert "\n" not in str(error.value)


def test_training_reaches_the_last_layers_alone():
    encoder = encoders.build(LITE0)
    encoders.train_last_layers(encoder, "blocks.15.expand_conv")
    trained = [layer.name for layer in encoder.layers if layer.trainable_variables]
    assert trained[0] == "blocks.15.expand_conv" and trained[-1] == "conv_head"
    assert not any("bn" in name for name in trained)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    np.testing.assert_array_equal(encoder(image, training=True), encoder(image))
    with pytest.raises(BeamscribeError, match=r"encoder\.trained_from: encoder has no layer 'blocks\.99'"):
        encoders.train_last_layers(encoder, "blocks.99")
