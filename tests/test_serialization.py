"""Decoders and their layers are saved, loaded and cloned as Keras users expect."""

import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import ops

from beamscribe.model import encoders
from beamscribe.model.decoders import transformer
from beamscribe.model.decoders.attention_lstm import SoftAttention
from beamscribe.model.decoders.merge import MergedOutput, PhotoVector
from beamscribe.model.training.photo_decoder import PhotoDecoder
from beamscribe.model.words.vocabulary import PAD, START
from tests.test_dataset import TRAINED
from tests.test_decoders import BATCH, CAPTIONS, GRID, KINDS, SLOTS, VOCABULARY, WITH_VECTORS, make, with_noise

IDS = np.random.default_rng(4).integers(PAD + 1, VOCABULARY, (BATCH, CAPTIONS, SLOTS), dtype="int32")
IDS[..., 0] = START
INPUTS = (np.random.default_rng(3).uniform(0, 3, (BATCH, *GRID)).astype("float32"), IDS)
PHOTOS = (np.random.default_rng(5).integers(0, 256, (BATCH, 64, 64, 3), np.uint8), IDS)
VECTORS = np.random.default_rng(7).normal(0, 1, (VOCABULARY, 13)).astype("float32")
PRETRAINED = {"word_size": None, "vectors": VECTORS}


def weights_of(model):
    """Path below the model, shape, type and trainability of every weight, in their order."""
    paths = [weight.path.partition("/")[2] for weight in model.weights]
    return [(path, tuple(w.shape), w.dtype, w.trainable) for path, w in zip(paths, model.weights, strict=True)]


def saved_and_loaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.saving.load_model(tmp_path / "model.keras")


def assert_equal_outputs(model, other, inputs):
    """Compares teacher forcing, and a step."""
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(other(inputs), model(inputs), **tolerance)
    photos, tokens = inputs
    (logits, state), (other_logits, other_state) = (
        one.step(tokens[:, :, 0], 0, one.initial_state(photos, CAPTIONS)) for one in (model, other)
    )
    for found, expected in zip(
        keras.tree.flatten((other_logits, other_state)), keras.tree.flatten((logits, state)), strict=True
    ):
        assert ops.dtype(found) == ops.dtype(expected)
        np.testing.assert_allclose(ops.cast(found, "float32"), ops.cast(expected, "float32"), **tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_makes_a_decoder_of_the_same_shapes(kind):
    model = make(kind, dropout=0.25)
    config = json.loads(json.dumps(model.get_config()))
    made = type(model).from_config(config)
    assert weights_of(made) == weights_of(model)
    assert made.get_config() == model.get_config()
    assert (made.name, made.grid, made.dropout) == (model.name, GRID, 0.25)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_decoder_predicts_what_it_did(kind, tmp_path):
    model = with_noise(make(kind, dropout=0.25))
    loaded = saved_and_loaded(model, tmp_path)
    assert type(loaded) is type(model) and loaded.get_config() == model.get_config()
    assert weights_of(loaded) == weights_of(model)
    assert_equal_outputs(model, loaded, INPUTS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_is_cloned_without_its_weights(kind):
    model = with_noise(make(kind))
    clone = keras.models.clone_model(model)
    assert type(clone) is type(model) and weights_of(clone) == weights_of(model)
    assert np.abs(np.asarray(clone(INPUTS)) - model(INPUTS)).max() > 1e-3
    clone.set_weights(model.get_weights())
    assert_equal_outputs(model, clone, INPUTS)


@pytest.mark.parametrize("kind", WITH_VECTORS)
@pytest.mark.parametrize("frozen", [False, True])
def test_pretrained_vectors_are_weights_and_stay_as_trainable_as_they_were(kind, frozen, tmp_path):
    model = make(kind, **PRETRAINED, freeze_vectors=frozen)
    config = model.get_config()
    assert (config["word_size"], config["freeze_vectors"]) == (13, frozen) and "vectors" not in config
    assert len(json.dumps(config)) < 1000
    made = type(model).from_config(config)
    assert weights_of(made) == weights_of(model)
    assert not np.array_equal(made.words.embeddings, VECTORS)

    loaded = saved_and_loaded(model, tmp_path)
    np.testing.assert_array_equal(loaded.words.embeddings, VECTORS)
    for other in (made, loaded, keras.models.clone_model(model)):
        assert other.words.trainable != frozen
        assert len(other.trainable_variables) == len(model.trainable_variables)
    loaded.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    loaded.train_on_batch(INPUTS, INPUTS[1])
    assert np.array_equal(loaded.words.embeddings, VECTORS) == frozen


@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_keeps_its_precision(kind, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = with_noise(make(kind))
    finally:
        keras.config.set_dtype_policy("float32")
    loaded = saved_and_loaded(model, tmp_path)
    assert loaded.compute_dtype == "bfloat16"
    assert_equal_outputs(model, loaded, INPUTS)
    # It can be asked for, too.
    asked = make(kind, dtype="mixed_bfloat16")
    asked.set_weights(model.get_weights())
    assert_equal_outputs(model, asked, INPUTS)


@pytest.mark.parametrize("trained", [False, True])
def test_an_encoder_with_its_decoder_is_one_model(trained, tmp_path):
    encoder = encoders.build(TRAINED.model_copy(update={"weights": "none"}))
    if trained:
        encoders.train_last_layers(encoder, TRAINED.trained_from)
    model = PhotoDecoder(encoder, with_noise(make("transformer", grid=(2, 2, 1280), dropout=0.25)))
    loaded = saved_and_loaded(model, tmp_path)
    assert isinstance(loaded, PhotoDecoder)
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
    assert weights_of(loaded) == weights_of(model)
    assert_equal_outputs(model, loaded, PHOTOS)
    clone = keras.models.clone_model(model)
    assert weights_of(clone) == weights_of(model)
    for other in (loaded, clone):
        assert (other.grid, other.slots, other.vocabulary_size, other.dropout) == ((64, 64, 3), SLOTS, VOCABULARY, 0.25)
        assert len(other.trainable_variables) == len(model.trainable_variables)
        assert bool(other.photo_encoder.trainable_variables) == trained


@pytest.mark.parametrize(
    "layer",
    [
        lambda: PhotoVector("flattened", [3, 4], 0.1),
        lambda: MergedOutput(VOCABULARY, 4, 5, "concatenate", 6),
        lambda: SoftAttention(3),
        lambda: transformer.CachedAttention(4, 2, 0.1),
        lambda: transformer.FeedForward(4, 8, 0.1),
        lambda: transformer._EncoderLayer(width=4, heads=2, feed_forward=8, dropout=0.1),
        lambda: transformer._DecoderLayer(width=4, heads=2, feed_forward=8, dropout=0.1),
    ],
)
def test_layers_are_made_again_from_what_keras_writes(layer):
    one = layer()
    written = json.loads(json.dumps(keras.saving.serialize_keras_object(one)))
    assert written["registered_name"].startswith("beamscribe>")
    made = keras.saving.deserialize_keras_object(written)
    assert type(made) is type(one)
    assert made.get_config() == one.get_config()


def test_every_class_has_a_registered_name_of_its_own(tmp_path):
    make("attention").save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        config = json.loads(file.read("config.json"))
    assert config["registered_name"] == "beamscribe>AttentionDecoder"
    names = {name for name in keras.saving.get_custom_objects() if name.startswith("beamscribe>")}
    assert len(names) == 13


def test_checkpoints_keep_their_names(tmp_path):
    """They have no version: what is renamed here makes every training that is under way start anew."""
    make("transformer", encoder_layers=2).save_weights(tmp_path / "model.weights.h5")
    with h5py.File(tmp_path / "model.weights.h5") as file:
        assert set(file["encoder"]) == {"__encoder_layer", "__encoder_layer_1"}
        assert set(file["decoder"]["__decoder_layer"]) >= {"words_norm", "words", "photo_norm", "photo", "feed_forward"}
        assert set(file) >= {"cell_positions", "feature_norm", "feature_projection", "layers"}
