import keras
import numpy as np
import pytest
from keras import ops

from beamscribe.model import decoders, recipe, search
from beamscribe.model.decoders.transformer import TransformerDecoder
from beamscribe.model.words.vocabulary import START

VOCABULARY, SLOTS, GRID = 11, 6, (2, 3, 16)
BATCH, CAPTIONS = 2, 3


def make(**sizes):
    return TransformerDecoder(vocabulary_size=VOCABULARY, grid=GRID, slots=SLOTS, **sizes)


@pytest.fixture(scope="module")
def decoder():
    keras.utils.set_random_seed(1)
    model = make(width=24, heads=4, feed_forward=48, encoder_layers=1, decoder_layers=2)
    # At their first values, biases are nothing and words next to nothing: mistakes with them would go unseen.
    generator = np.random.default_rng(2)
    model.set_weights([array + generator.normal(0, 0.3, array.shape) for array in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(3).uniform(0, 6, (BATCH, *GRID)).astype("float32")


@pytest.fixture(scope="module")
def tokens():
    """Random captions of all ids; random ones are enough for a decoder that knows no rules."""
    ids = np.random.default_rng(4).integers(0, VOCABULARY, (BATCH, CAPTIONS, SLOTS), dtype="int32")
    ids[..., 0] = START
    return ids


def test_writing_word_by_word_predicts_what_teacher_forcing_does(decoder, features, tokens):
    expected = np.asarray(decoder((features, tokens)))
    assert expected.shape == (BATCH, CAPTIONS, SLOTS, VOCABULARY)
    state = decoder.initial_state(features, CAPTIONS)
    for position in range(SLOTS):
        logits, state = decoder.step(tokens[:, :, position], position, state)
        np.testing.assert_allclose(logits, expected[:, :, position], rtol=1e-4, atol=1e-4)


def test_predictions_depend_on_photo_word_and_position(decoder, features, tokens):
    logits = np.asarray(decoder((features, tokens)))
    assert np.abs(logits - np.asarray(decoder((features[::-1], tokens)))).max(axis=-1).min() > 0.01
    repeated = np.full_like(tokens, 7)
    repeated = np.asarray(decoder((features, repeated)))
    assert np.abs(np.diff(repeated, axis=2)).max(axis=-1).min() > 0.01


def test_the_place_of_a_feature_matters(decoder, features, tokens):
    mirrored = features[:, :, ::-1]
    assert np.abs(np.asarray(decoder((features, tokens))) - decoder((mirrored, tokens))).max() > 0.01


@pytest.mark.parametrize("changed", range(1, SLOTS))
def test_later_words_change_nothing_before_them(decoder, features, tokens, changed):
    other = tokens.copy()
    other[..., changed] = (other[..., changed] + 1) % VOCABULARY
    before, after = (np.asarray(decoder((features, ids))) for ids in (tokens, other))
    np.testing.assert_allclose(after[:, :, :changed], before[:, :, :changed], rtol=1e-4, atol=1e-5)
    # From there on, every prediction has seen another word.
    assert np.abs(after[:, :, changed:] - before[:, :, changed:]).max(axis=-1).min() > 1e-3


def test_captions_of_a_photo_do_not_see_each_other(decoder, features, tokens):
    together = np.asarray(decoder((features, tokens)))
    for caption in range(CAPTIONS):
        alone = decoder((features, tokens[:, caption : caption + 1]))
        np.testing.assert_allclose(together[:, caption : caption + 1], alone, rtol=1e-4, atol=1e-5)


def test_photos_of_a_batch_do_not_see_each_other(decoder, features, tokens):
    together = np.asarray(decoder((features, tokens)))
    for photo in range(BATCH):
        alone = decoder((features[photo : photo + 1], tokens[photo : photo + 1]))
        np.testing.assert_allclose(together[photo : photo + 1], alone, rtol=1e-4, atol=1e-5)


def test_memory_depends_on_the_photo_only(decoder, features, tokens):
    state = decoder.initial_state(features, CAPTIONS)
    wider = decoder.initial_state(features, CAPTIONS + 2)
    _, after = decoder.step(tokens[:, :, 0], 0, state)
    for photo in (wider.photo, after.photo):
        for one, other in zip(state.photo, photo, strict=True):
            for array, same in zip(one, other, strict=True):
                np.testing.assert_array_equal(array, same)
                assert array.shape[0] == BATCH
    assert not np.allclose(state.photo[0][0][0], state.photo[0][0][1])


def test_reordered_beams_go_on_from_their_parents(decoder, features, tokens):
    parents = np.array([[2, 2, 0], [1, 0, 1]], "int32")
    state = decoder.initial_state(features, CAPTIONS)
    for position in range(3):
        _, state = decoder.step(tokens[:, :, position], position, state)
    state = state._replace(words=search._reorder(state.words, parents))
    logits, _ = decoder.step(tokens[:, :, 3], 3, state)

    spliced = np.concatenate(
        [np.take_along_axis(tokens, parents[..., None], axis=1)[..., :3], tokens[..., 3:]], axis=-1
    )
    expected = np.asarray(decoder((features, spliced)))[:, :, 3]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected - np.asarray(decoder((features, tokens)))[:, :, 3]).max(axis=-1).min() > 1e-3


def test_features_may_be_half_precision(decoder, features, tokens):
    half = features.astype("float16")
    expected = decoder((half.astype("float32"), tokens))
    np.testing.assert_array_equal(decoder((half, tokens)), expected)
    assert ops.dtype(decoder((half, tokens))) == "float32"


def test_dropout_is_for_training_only(features, tokens):
    model = make(width=8, heads=2, feed_forward=8, encoder_layers=1, decoder_layers=1, dropout=0.5)
    once, again = (np.asarray(model((features, tokens))) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    once, again = (np.asarray(model((features, tokens), training=True)) for _ in range(2))
    assert np.abs(once - again).max() > 1e-3


def test_recipes_make_decoders_of_their_sizes():
    packaged = recipe.load("transformer")
    model = decoders.build(packaged, VOCABULARY, GRID)
    sizes = packaged.decoder
    assert (model.vocabulary_size, model.grid, model.width) == (VOCABULARY, GRID, sizes.width)
    assert (len(model.encoder), len(model.decoder)) == (sizes.encoder_layers, sizes.decoder_layers)
    # The end token comes after the last word.
    assert model.slots == packaged.words.max_words + 1
    assert model.words.embeddings.shape == (VOCABULARY, sizes.width)
