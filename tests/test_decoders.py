"""What all decoders promise, on tiny ones; what only one of them promises, below."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from beamscribe.model import decoders, recipe, search
from beamscribe.model.decoders.attention_lstm import AttentionDecoder
from beamscribe.model.decoders.bidirectional import BidirectionalMergeDecoder
from beamscribe.model.decoders.image_first import ImageFirstDecoder
from beamscribe.model.decoders.merge import MergeDecoder
from beamscribe.model.decoders.transformer import TransformerDecoder
from beamscribe.model.errors import BeamscribeError
from beamscribe.model.search import Rules
from beamscribe.model.words.vocabulary import END, PAD, START, UNKNOWN

VOCABULARY, SLOTS, GRID = 11, 6, (2, 3, 8)
BATCH, CAPTIONS = 2, 3
PHOTO = {"image": "pooled", "image_layers": [10, 12]}
KINDS = {
    "transformer": (
        TransformerDecoder,
        {"width": 16, "heads": 2, "feed_forward": 16, "encoder_layers": 1, "decoder_layers": 1},
    ),
    "merge_add": (MergeDecoder, {"word_size": 9, "units": 12, "merge": "add", "hidden": 14, **PHOTO}),
    "merge_concatenate": (
        MergeDecoder,
        {"word_size": 9, "units": 7, "merge": "concatenate", "hidden": 14, **PHOTO, "image": "flattened"},
    ),
    "bidirectional_merge": (
        BidirectionalMergeDecoder,
        {"word_size": 9, "bidirectional_units": 5, "units": 12, "merge": "add", "hidden": 14, **PHOTO},
    ),
    "image_first": (ImageFirstDecoder, {"word_size": 9, "units": 12}),
    "attention": (AttentionDecoder, {"word_size": 9, "units": 12, "attention": 10, "doubly_stochastic": 1.0}),
}
WITH_VECTORS = ("merge_add", "bidirectional_merge", "image_first", "attention")


def make(kind, dropout=0.0, **changes):
    keras.utils.set_random_seed(1)
    decoder, sizes = KINDS[kind]
    shared = {"vocabulary_size": VOCABULARY, "grid": GRID, "slots": SLOTS, "dropout": dropout}
    return decoder(**{**shared, **sizes, **changes})


def with_noise(decoder):
    """Gives it larger weights: at their first values, biases are nothing and some effects are next to it."""
    generator = np.random.default_rng(2)
    decoder.set_weights([array + generator.normal(0, 0.3, array.shape) for array in decoder.get_weights()])
    return decoder


@pytest.fixture(scope="module", params=KINDS)
def decoder(request):
    return with_noise(make(request.param))


@pytest.fixture(scope="module")
def bidirectional():
    return with_noise(make("bidirectional_merge"))


@pytest.fixture
def mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(3).uniform(0, 3, (BATCH, *GRID)).astype("float32")


@pytest.fixture(scope="module")
def tokens():
    """Random captions of all ids but padding."""
    ids = np.random.default_rng(4).integers(PAD + 1, VOCABULARY, (BATCH, CAPTIONS, SLOTS), dtype="int32")
    ids[..., 0] = START
    return ids


def padded(tokens):
    """The captions with other lengths, and the places where they have words."""
    lengths = np.array([[SLOTS, 2, 4], [3, 1, SLOTS - 1]])
    present = np.arange(SLOTS) < lengths[..., None]
    return np.where(present, tokens, PAD), present


def logits_of(decoder, features, tokens, **kwargs):
    return np.asarray(decoder((features, tokens), **kwargs))


def assert_same(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=tolerance)


def greedy(decoder, features, max_length):
    """Ids of the likeliest word each time, `[batch, slots]`, in plain Python; from `call` on ever longer prefixes."""
    ids = np.full((len(features), SLOTS), PAD)
    for photo in range(len(features)):
        words = [START]
        while words[-1] != END:
            prefix = np.array(words, "int32").reshape(1, 1, -1)
            scores = logits_of(decoder, features[photo : photo + 1], prefix)[0, 0, -1].copy()
            scores[[PAD, START, UNKNOWN]] = -np.inf
            if len(words) == 1:
                scores[END] = -np.inf
            words.append(END if len(words) > max_length else int(scores.argmax()))
        ids[photo, : len(words) - 1] = words[1:]
    return ids


def test_writing_word_by_word_predicts_what_teacher_forcing_does(decoder, features, tokens):
    expected = logits_of(decoder, features, tokens)
    assert expected.shape == (BATCH, CAPTIONS, SLOTS, VOCABULARY)
    state = decoder.initial_state(features, CAPTIONS)
    shapes = keras.tree.map_structure(lambda tensor: tensor.shape, state)
    for position in range(SLOTS):
        logits, state = decoder.step(tokens[:, :, position], position, state)
        assert ops.dtype(logits) == "float32"
        assert_same(logits, expected[:, :, position])
    assert keras.tree.map_structure(lambda tensor: tensor.shape, state) == shapes


@pytest.mark.parametrize("changed", range(1, SLOTS))
def test_later_words_change_nothing_before_them(decoder, features, tokens, changed):
    other = tokens.copy()
    other[..., changed] = other[..., changed] % (VOCABULARY - 1) + 1
    before, after = (logits_of(decoder, features, ids) for ids in (tokens, other))
    assert_same(after[:, :, :changed], before[:, :, :changed])
    # From there on, every prediction has seen another word.
    assert np.abs(after[:, :, changed:] - before[:, :, changed:]).max(axis=-1).min() > 1e-3


def test_padding_changes_nothing_before_it(decoder, features, tokens):
    ids, present = padded(tokens)
    logits = logits_of(decoder, features, ids)
    assert_same(logits[present], logits_of(decoder, features, tokens)[present])
    assert np.isfinite(logits).all()


def test_shorter_captions_may_come_without_padding(decoder, features, tokens):
    assert_same(logits_of(decoder, features, tokens[..., :3]), logits_of(decoder, features, tokens)[:, :, :3])


def test_captions_and_photos_do_not_see_each_other(decoder, features, tokens):
    together = logits_of(decoder, features, tokens)
    for photo in range(BATCH):
        for caption in range(CAPTIONS):
            alone = tokens[photo, caption].reshape(1, 1, SLOTS)
            assert_same(together[photo, caption], logits_of(decoder, features[photo : photo + 1], alone)[0, 0])
    assert np.abs(together - logits_of(decoder, features[::-1], tokens)).max(axis=-1).min() > 1e-3


def test_features_may_be_half_precision(decoder, features, tokens):
    half = features.astype("float16")
    expected = logits_of(decoder, half.astype("float32"), tokens)
    np.testing.assert_array_equal(logits_of(decoder, half, tokens), expected)
    logits, _ = decoder.step(tokens[:, :, 0], 0, decoder.initial_state(half, CAPTIONS))
    assert_same(logits, expected[:, :, 0])


def test_a_beam_of_one_takes_the_likeliest_word_each_time(decoder):
    photos = np.random.default_rng(5).uniform(0, 3, (3, *GRID)).astype("float32")
    ids, _ = search.beam_search(decoder, photos, 1, Rules(SLOTS - 1), 1.0)
    np.testing.assert_array_equal(np.asarray(ids)[:, 0], greedy(decoder, photos, SLOTS - 1))


def test_compiled_search_of_any_batch_and_beam_finds_what_the_plain_one_does(decoder):
    signature = [tf.TensorSpec((None, *GRID)), tf.TensorSpec((), tf.int32), tf.TensorSpec((), tf.int32)]

    @tf.function(input_signature=signature)
    def compiled(features, beam_width, max_length):
        return search.beam_search(decoder, features, beam_width, Rules(max_length), 1.0)

    generator = np.random.default_rng(6)
    for batch, width, length in [(1, 2, 5), (3, 4, 4)]:
        photos = generator.uniform(0, 3, (batch, *GRID)).astype("float32")
        ids, scores = compiled(photos, width, length)
        expected_ids, expected_scores = search.beam_search(decoder, photos, width, Rules(length), 1.0)
        np.testing.assert_array_equal(ids, expected_ids)
        assert_same(scores, expected_scores)
    assert compiled.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_for_training_only(kind, features, tokens):
    model = make(kind, dropout=0.5)
    once, again = (logits_of(model, features, tokens) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    once, again = (logits_of(model, features, tokens, training=True) for _ in range(2))
    assert np.abs(once - again).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_training_learns_captions_by_heart(kind, features, tokens):
    model = make(kind)
    model.compile(keras.optimizers.Adam(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    ids, present = padded(tokens)
    # A few words are soon compiled.
    inputs, targets, weights = ids[..., :3], ids[..., 1:4], present[..., 1:4].astype("float32")
    losses = [model.train_on_batch((features, inputs), targets, sample_weight=weights) for _ in range(30)]
    assert losses[-1] < 0.75 * losses[0]
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("kind", WITH_VECTORS)
def test_words_start_from_given_vectors_and_may_keep_them(kind, features, tokens):
    vectors = np.random.default_rng(7).normal(0, 1, (VOCABULARY, 13)).astype("float32")
    for frozen in (False, True):
        model = make(kind, word_size=None, vectors=vectors, freeze_vectors=frozen)
        np.testing.assert_array_equal(model.words.embeddings, vectors)
        # They are saved and averaged with all other weights, frozen or not.
        assert any(variable is model.words.embeddings for variable in model.variables)
        trained = any(variable is model.words.embeddings for variable in model.trainable_variables)
        assert trained != frozen
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    before = model.get_weights()
    model.train_on_batch((features, tokens), tokens)
    np.testing.assert_array_equal(model.words.embeddings, vectors)
    assert sum((one != other).any() for one, other in zip(before, model.get_weights(), strict=True)) > 3


@pytest.mark.parametrize("kind", KINDS)
def test_weights_can_be_saved_and_loaded(kind, features, tokens, tmp_path):
    model, other = with_noise(make(kind)), make(kind)
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(logits_of(other, features, tokens), logits_of(model, features, tokens))


@pytest.mark.parametrize("kind", WITH_VECTORS)
def test_words_have_a_size_or_vectors(kind):
    with pytest.raises(ValueError, match=r"either word_size, .*, or vectors"):
        make(kind, word_size=None)
    with pytest.raises(ValueError, match=r"either word_size, .*, or vectors"):
        make(kind, vectors=np.zeros((VOCABULARY, 13), "float32"))


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_precision_differs_by_rounding_only(kind, features, tokens, mixed_precision):
    model = with_noise(make(kind))
    logits = model((features, tokens))
    assert ops.dtype(logits) == "float32"
    state = model.initial_state(features, CAPTIONS)
    types = [ops.dtype(tensor) for tensor in keras.tree.flatten(state)]
    assert set(types) - {"int32"} == {"bfloat16"}
    for position in range(SLOTS):
        found, state = model.step(tokens[:, :, position], position, state)
        assert ops.dtype(found) == "float32"
        np.testing.assert_allclose(found, logits[:, :, position], atol=0.1)
    # A compiled loop's tensors can't change their types.
    assert [ops.dtype(tensor) for tensor in keras.tree.flatten(state)] == types
    ids, scores = search.beam_search(model, features, 2, Rules(SLOTS - 1), 1.0)
    assert ids.shape == (BATCH, 2, SLOTS)
    assert np.isfinite(scores).all()

    keras.config.set_dtype_policy("float32")
    exact = make(kind)
    exact.set_weights(model.get_weights())
    exact = logits_of(exact, features, tokens)
    np.testing.assert_allclose(logits, exact, atol=0.1)
    assert np.abs(logits - exact).max() > 0


@pytest.mark.parametrize("name", recipe.names())
def test_recipes_of_the_package_make_decoders(name):
    packaged = recipe.load(name)
    pretrained = packaged.words.embedding != "learned"
    vectors = np.ones((VOCABULARY, 50), "float32") if pretrained else None
    model = decoders.build(packaged, VOCABULARY, GRID, packaged.cross_entropy.dropout, vectors)
    # The end token comes after the last word.
    assert (model.vocabulary_size, model.slots) == (VOCABULARY, packaged.words.max_words + 1)
    sizes = packaged.decoder.model_dump(exclude={"name"})
    for size in ("units", "width"):
        shapes = {axis for variable in model.trainable_variables for axis in variable.shape}
        assert sizes.get(size) is None or sizes[size] in shapes
    trained = any(variable is model.words.embeddings for variable in model.trainable_variables)
    assert trained != (pretrained and packaged.words.frozen)


@pytest.mark.parametrize("kind", ["merge_add", "bidirectional_merge"])
def test_only_vectors_of_one_size_can_be_added(kind):
    with pytest.raises(BeamscribeError, match="image_layers and units to be equal, found 12 and 8"):
        make(kind, units=8)
    make(kind, units=8, merge="concatenate")


@pytest.mark.parametrize("kind", ["merge_add", "image_first"])
def test_pooled_photos_have_no_places(kind, features, tokens):
    model = with_noise(make(kind))
    assert_same(logits_of(model, features[:, :, ::-1], tokens), logits_of(model, features, tokens))


@pytest.mark.parametrize("kind", ["merge_concatenate", "transformer"])
def test_other_photos_have_places(kind, features, tokens):
    model = with_noise(make(kind))
    assert np.abs(logits_of(model, features[:, :, ::-1], tokens) - logits_of(model, features, tokens)).max() > 0.01


@pytest.mark.parametrize("pad", [False, True])
def test_bidirectional_words_are_read_prefix_by_prefix(bidirectional, features, tokens, pad):
    """Against Keras's own bidirectional layer, which sees nothing but one prefix."""
    _, sizes = KINDS["bidirectional_merge"]
    both = keras.layers.Bidirectional(keras.layers.LSTM(sizes["bidirectional_units"], return_sequences=True))
    both.build((None, None, sizes["word_size"]))
    both.set_weights([*bidirectional.forward_lstm.get_weights(), *bidirectional.backward_lstm.get_weights()])
    after = keras.layers.LSTM(sizes["units"])
    after.build((None, None, 2 * sizes["bidirectional_units"]))
    after.set_weights(bidirectional.lstm.get_weights())

    ids, present = padded(tokens) if pad else (tokens, np.ones_like(tokens, bool))
    logits = logits_of(bidirectional, features, ids)
    photo = np.repeat(bidirectional.photo(features), CAPTIONS, axis=0)
    for position in range(SLOTS):
        prefixes = ids[..., : position + 1].reshape(BATCH * CAPTIONS, position + 1)
        expected = bidirectional.merged_output(photo, after(both(bidirectional.words(prefixes))))
        expected = np.reshape(expected, (BATCH, CAPTIONS, VOCABULARY))
        there = present[..., position]
        assert_same(logits[:, :, position][there], expected[there])


def test_bidirectional_training_takes_captions_without_words(bidirectional, features, tokens):
    empty = np.full_like(tokens, PAD)
    assert np.isfinite(logits_of(bidirectional, features, empty)).all()
    some = np.where(np.arange(CAPTIONS)[:, None] == 1, tokens, PAD)
    assert_same(logits_of(bidirectional, features, some)[:, 1], logits_of(bidirectional, features, tokens)[:, 1])


def test_attention_sees_the_cells_by_their_weights(features, tokens):
    """Equations 4, 5 and 13, and the gate, in NumPy."""
    model = with_noise(make("attention"))
    cells, keys = model.initial_state(features, CAPTIONS).photo
    h = np.random.default_rng(8).normal(0, 1, (BATCH, CAPTIONS, 12)).astype("float32")
    seen, weights = (np.asarray(output) for output in model.attention(h, cells, keys))
    key, key_bias, query, score = (np.asarray(weight) for weight in model.attention.get_weights())
    grid = features.reshape(BATCH, 1, -1, GRID[2])
    energies = (np.tanh(grid @ key + key_bias + (h @ query)[:, :, None]) @ score)[..., 0]
    expected = np.exp(energies) / np.exp(energies).sum(axis=-1, keepdims=True)
    assert_same(weights, expected)
    assert_same(seen, (expected[..., None] * grid).sum(axis=2))
    assert np.abs(expected - expected.mean()).max() > 0.05


def test_attention_is_regularised_as_numpy_computes_it(features, tokens):
    model = with_noise(make("attention", doubly_stochastic=0.7))
    # What an LSTM has seen no longer matters: the weights are the same for all words of a photo.
    key, key_bias, query, score = model.attention.get_weights()
    model.attention.set_weights([key, key_bias, 0 * query, score])
    ids, present = padded(tokens)
    ids[1, 2], present[1, 2] = PAD, False

    energies = (np.tanh(features.reshape(BATCH, -1, GRID[2]) @ key + key_bias) @ score)[..., 0]
    weights = np.exp(energies) / np.exp(energies).sum(axis=-1, keepdims=True)
    counts = present.sum(axis=-1)
    missed = ((1 - counts[..., None] * weights[:, None]) ** 2).sum(axis=-1)
    expected = 0.7 * missed[counts > 0].sum() / counts.sum()

    logits_of(model, features, ids, training=True)
    assert len(model.losses) == 1
    np.testing.assert_allclose(model.losses[0], expected, rtol=1e-5)
    logits_of(model, features, ids)
    assert model.losses == []
    model.initial_state(features, CAPTIONS)
    assert model.losses == []


def test_attention_is_trained_with_its_regularisation(features, tokens):
    tokens = tokens[..., :3]
    losses, changes = {}, {}
    for weight in (0.0, 1.0):
        model = make("attention", doubly_stochastic=weight)
        model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        assert model.test_on_batch((features, tokens), tokens) == pytest.approx(np.log(VOCABULARY), rel=0.2)
        logits_of(model, features, tokens, training=True)
        regularisation = sum(map(float, model.losses))
        before = model.attention.get_weights()
        losses[weight] = float(model.train_on_batch((features, tokens), tokens))
        changes[weight] = max(
            np.abs(one - other).max() for one, other in zip(before, model.attention.get_weights(), strict=True)
        )
    assert regularisation > 0.1
    assert losses[1.0] == pytest.approx(losses[0.0] + regularisation, rel=1e-4)
    assert changes[1.0] > 1.5 * changes[0.0]
