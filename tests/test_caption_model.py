"""What a model does on a GPU, as far as a CPU can tell."""

import concurrent.futures
import logging
import time
import types

import numpy as np
import pytest

from beamscribe.model import bundle


@pytest.fixture(scope="module")
def models(tiny_bundle):
    return bundle.CaptionModel(tiny_bundle, on_gpu=False), bundle.CaptionModel(tiny_bundle, on_gpu=True)


def photos(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (number, 64, 64, 3), np.uint8)


@pytest.mark.parametrize("number", [1, 8, 11])
@pytest.mark.parametrize("top_p", [0.0, 0.9])
def test_a_gpu_gives_the_captions_that_a_cpu_gives(models, tiny_bundle, number, top_p):
    # XLA is for GPUs alone.
    assert models[0]._compiled_encoder is None and models[1]._compiled_encoder is not None
    settings = bundle.describe(tiny_bundle).settings._replace(top_p=top_p)
    uniforms = bundle.draws([str(index) for index in range(number)], settings, 2, models[0].longest)
    (captions, scores), (on_gpu, scores_on_gpu) = (
        model.caption(photos(number), settings, uniforms) for model in models
    )
    assert on_gpu.shape == captions.shape == (number, 2)
    # The encoder computes in float16 there.
    same = captions == on_gpu
    assert np.mean(same) > 0.9
    np.testing.assert_allclose(scores[same], scores_on_gpu[same], atol=5e-3)


def test_batches_have_few_sizes(models):
    sizes = {number: len(models[1]._filled_up(photos(number))) for number in (1, 8, 9, 31, 32, 33)}
    assert sizes == {1: 8, 8: 8, 9: 16, 31: 32, 32: 32, 33: 64}
    assert len(models[0]._filled_up(photos(5))) == 5


def test_a_gpu_has_one_batch_at_a_time(models, tiny_bundle, monkeypatch):
    inside, most = [], []

    def call(*_, **__):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return np.array([["a"]] * 8), np.zeros((8, 1))

    settings = bundle.describe(tiny_bundle).settings
    for model, together in zip(models, (True, False), strict=True):
        monkeypatch.setattr(model, "_call", call)
        most.clear()
        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda number, model=model: model.caption(photos(number), settings), [8] * 4))
        assert (max(most) > 1) == together


def test_a_compiler_that_fails_costs_only_speed(tiny_bundle, monkeypatch, caplog):
    import tensorflow as tf

    def broken(*_, **options):
        assert options == {"jit_compile": True}
        raise RuntimeError("libdevice is\nmissing")

    loaded = bundle.CaptionModel(tiny_bundle, on_gpu=False)
    monkeypatch.setattr(tf, "function", lambda function, **options: lambda *inputs: broken(*inputs, **options))
    with caplog.at_level(logging.WARNING):
        assert loaded._compile_encoder("features_half") is None
    assert "XLA can't compile the encoder, which now runs without it: libdevice is missing" in caplog.text


def test_memory_grows_as_it_is_needed(tiny_bundle, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(bundle.CaptionModel, "_compile_encoder", lambda self, name: None)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {})
    asked = []
    # Where a GPU is in use, TensorFlow refuses.
    for answer in (None, RuntimeError("Physical devices cannot be modified after being initialized")):

        def grow(device, enable, answer=answer):
            asked.append((device, enable))
            if answer:
                raise answer

        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0"])
        monkeypatch.setattr(tf.config.experimental, "set_memory_growth", grow)
        model = bundle.CaptionModel(tiny_bundle)
        assert model._on_gpu
    assert asked == [("GPU:0", True)] * 2


@pytest.mark.parametrize(
    ("details", "signatures", "expected"),
    [
        ({"device_name": "Tesla P4", "compute_capability": (6, 1)}, ["features", "features_half"], "features"),
        ({"device_name": "NVIDIA L4", "compute_capability": (8, 9)}, ["features", "features_half"], "features_half"),
        ({"device_name": "NVIDIA L4", "compute_capability": (8, 9)}, ["features"], "features"),
        ({}, ["features", "features_half"], "features"),
    ],
)
def test_half_precision_is_for_gpus_that_are_made_for_it(tiny_bundle, monkeypatch, details, signatures, expected):
    import tensorflow as tf

    compiled = []
    monkeypatch.setattr(tf.saved_model, "load", lambda folder: types.SimpleNamespace(signatures=signatures))
    monkeypatch.setattr(bundle.CaptionModel, "_compile_encoder", lambda self, name: compiled.append(name))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0"])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, enable: None)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    bundle.CaptionModel(tiny_bundle)
    assert compiled == [expected]
