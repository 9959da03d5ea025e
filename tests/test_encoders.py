import numpy as np
import pytest

from model import efficientnet_lite, encoders
from model.recipe import Encoder

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
