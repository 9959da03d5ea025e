"""What a model does on a GPU, as far as a CPU can tell."""

import concurrent.futures
import json
import logging
import shutil
import time
import types

import numpy as np
import pytest

from beamscribe.model import bundle
from beamscribe.model.caption_settings import draws
from beamscribe.model.captioners import gpu
from beamscribe.model.captioners.exported_model import CaptionModel
from beamscribe.model.errors import BeamscribeError


@pytest.fixture(scope="module")
def models(tiny_bundle):
    return CaptionModel(tiny_bundle, on_gpu=False), CaptionModel(tiny_bundle, on_gpu=True)


def photos(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (number, 64, 64, 3), np.uint8)


@pytest.mark.parametrize("number", [1, 8, 11])
@pytest.mark.parametrize("top_p", [0.0, 0.9])
def test_a_gpu_gives_the_captions_that_a_cpu_gives(models, tiny_bundle, number, top_p):
    # XLA is for GPUs alone.
    assert models[0]._compiled_encoder is None and models[1]._compiled_encoder is not None
    settings = bundle.describe(tiny_bundle).settings._replace(top_p=top_p)
    uniforms = draws([str(index) for index in range(number)], settings, 2, models[0].longest)
    (captions, scores), (on_gpu, scores_on_gpu) = (
        model.caption(photos(number), settings, uniforms) for model in models
    )
    assert on_gpu.shape == captions.shape == (number, 2)
    # The encoder computes in float16 there.
    same = captions == on_gpu
    assert np.mean(same) > 0.9
    np.testing.assert_allclose(scores[same], scores_on_gpu[same], atol=5e-3)


def test_batches_have_few_sizes():
    sizes = {number: len(gpu.padded(photos(number))) for number in (1, 8, 9, 31, 32, 33)}
    assert sizes == {1: 8, 8: 8, 9: 16, 31: 32, 32: 32, 33: 64}
    padded = gpu.padded(photos(5))
    np.testing.assert_array_equal(padded[:5], photos(5))
    assert padded.dtype == np.uint8 and not padded[5:].any()


@pytest.mark.parametrize("top_p", [0.0, 0.9])
def test_only_a_gpu_has_its_batches_padded(models, tiny_bundle, monkeypatch, top_p):
    settings = bundle.describe(tiny_bundle).settings._replace(top_p=top_p)
    uniforms = draws("abc", settings, 2, models[0].longest)
    sizes = []

    def call(suffix, settings, uniforms, **inputs):
        sizes.append({len(array) for array in (uniforms, *inputs.values()) if array is not None})
        return np.zeros((8, 2)), np.zeros((8, 2))

    for model in models:
        monkeypatch.setattr(model, "_call", call)
        model.caption(photos(3), settings, uniforms)
    assert sizes == [{3}, {8}]


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

    loaded = CaptionModel(tiny_bundle, on_gpu=False)
    signature = loaded._loaded.signatures["features_half"]
    monkeypatch.setattr(tf, "function", lambda function, **options: lambda *inputs: broken(*inputs, **options))
    with caplog.at_level(logging.WARNING):
        assert gpu.compiled_encoder(signature, loaded.image_size) is None
    assert "XLA can't compile the encoder, which now runs without it: libdevice is missing" in caplog.text


def test_memory_grows_as_it_is_needed(tiny_bundle, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(gpu, "compiled_encoder", lambda signature, image_size: None)
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
        model = CaptionModel(tiny_bundle)
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
    real = tf.saved_model.load(str(tiny_bundle / "saved_model")).signatures
    others = {name: real[name] for name in ("caption", "sample")}
    monkeypatch.setattr(
        tf.saved_model, "load", lambda folder: types.SimpleNamespace(signatures={s: s for s in signatures} | others)
    )
    monkeypatch.setattr(gpu, "compiled_encoder", lambda signature, image_size: compiled.append(signature))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0"])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, enable: None)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    CaptionModel(tiny_bundle)
    assert compiled == [expected]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"image_size": 96},
            r"its signature caption takes images of the shape \(None, 64, 64, 3\), not \[None, 96, 96, 3\]",
        ),
        ({"longest": 99}, "its signature sample takes uniforms of the shape"),
    ],
)
def test_a_model_that_does_not_fit_its_bundle_is_refused(tiny_bundle, tmp_path, changes, problem):
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    path = tmp_path / "bundle" / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(BeamscribeError, match=f"bundle can't caption: {problem}"):
        CaptionModel(tmp_path / "bundle")


def test_a_model_without_a_signature_and_one_that_can_not_be_loaded_are_one_line(tiny_bundle, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf.saved_model, "load", lambda folder: types.SimpleNamespace(signatures={}))
    with pytest.raises(BeamscribeError, match="can't caption: it has no signature caption"):
        CaptionModel(tiny_bundle)

    def fail(folder):
        raise IndexError("Read less bytes than requested")

    monkeypatch.setattr(tf.saved_model, "load", fail)
    with pytest.raises(BeamscribeError, match="can't be loaded: Read less bytes than requested; get the bundle again"):
        CaptionModel(tiny_bundle)
