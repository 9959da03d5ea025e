"""Beam search and sampling, on a decoder whose every caption can be listed."""

import itertools
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from model import search
from model.transformer import TransformerDecoder
from model.vocabulary import END, PAD, START, UNKNOWN

VOCABULARY, LENGTH = 7, 3
WORDS = range(4, VOCABULARY)
# The captions of one word up to three.
COUNT = sum(len(WORDS) ** length for length in range(1, LENGTH + 1))


class State(NamedTuple):
    memory: Any
    keys: Any
    values: Any


class TableDecoder:
    """Takes the next word's logits from a table, by the two words before; a photo's features name its table."""

    vocabulary_size = VOCABULARY

    def __init__(self, tables, slots=LENGTH + 1):
        self.tables, self.slots = ops.convert_to_tensor(tables), slots

    def initial_state(self, features, beams):
        table = ops.take(self.tables, ops.cast(features[:, 0, 0, 0], "int32"), axis=0)
        before = ops.full((ops.shape(features)[0], beams), PAD, dtype="int32")
        return State(table, (before,), (before,))

    def step(self, tokens, position, state):
        place = (state.keys[0] * VOCABULARY + tokens)[..., None]
        rows = ops.reshape(state.memory, (-1, VOCABULARY * VOCABULARY, VOCABULARY))
        return ops.take_along_axis(rows, place, axis=1), State(state.memory, (tokens,), state.values)

    @staticmethod
    def reorder(state, parents):
        return state._replace(keys=(ops.take_along_axis(state.keys[0], parents, axis=1),))


@pytest.fixture(scope="module")
def tables():
    """Logits of each next word by photo, word before last and last word; specials are likely, too."""
    return np.random.default_rng(0).normal(0, 1.5, (4, VOCABULARY, VOCABULARY, VOCABULARY)).astype("float32")


def photos(*places):
    return np.array(places, "float32").reshape(-1, 1, 1, 1)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def allowed_at(position):
    """A caption has at least one word, and at most `LENGTH`."""
    return {0: [*WORDS], LENGTH: [END]}.get(position, [END, *WORDS])


def all_captions(table, length=LENGTH):
    """Every caption, as ids with the end, and its log-probability: the best by the search's rank first."""
    scored = []
    for count in range(1, length + 1):
        for words in itertools.product(WORDS, repeat=count):
            total, before, last = 0.0, PAD, START
            for word in (*words, END):
                total += log_softmax(table[before, last].astype("float64"))[word]
                before, last = last, word
            scored.append(((*words, END), total))
    return sorted(scored, key=lambda caption: -caption[1] / len(caption[0]) ** search.LENGTH_POWER)


def texts(ids):
    return [tuple(int(index) for index in row if index != PAD) for row in ids]


def test_a_beam_as_wide_as_all_captions_ranks_them_as_listing_them_does(tables):
    ids, scores = map(np.asarray, search.beam_search(TableDecoder(tables), photos(0, 1, 2, 3), COUNT, LENGTH))
    assert ids.shape == (4, COUNT, LENGTH + 1)
    for photo, table in enumerate(tables):
        expected = all_captions(table)
        assert texts(ids[photo]) == [caption for caption, _ in expected]
        means = [total / len(caption) for caption, total in expected]
        np.testing.assert_allclose(scores[photo], means, rtol=1e-4)


def test_a_narrower_beam_finds_the_best_that_it_keeps(tables):
    """The same search in plain Python: at each step the most probable ones, ended or not."""
    width = 3
    ids, means = map(np.asarray, search.beam_search(TableDecoder(tables), photos(0, 1, 2, 3), width, LENGTH))
    for photo, table in enumerate(tables):
        beams = [((), 0.0)]
        for position in range(LENGTH + 1):
            longer = []
            for words, total in beams:
                if words[-1:] == (END,):
                    longer.append((words, total))
                    continue
                before, last = (PAD, START, *words)[-2:]
                scores = log_softmax(table[before, last])
                allowed = allowed_at(position)
                longer += [((*words, word), total + scores[word]) for word in allowed]
            beams = sorted(longer, key=lambda beam: -beam[1])[:width]
        beams.sort(key=lambda beam: -beam[1] / len(beam[0]) ** search.LENGTH_POWER)
        assert texts(ids[photo]) == [words for words, _ in beams]
        np.testing.assert_allclose(means[photo], [total / len(words) for words, total in beams], rtol=1e-4)


def test_a_beam_of_one_takes_the_likeliest_word_each_time(tables):
    ids, _ = search.beam_search(TableDecoder(tables), photos(0, 1, 2, 3), 1, LENGTH)
    for table, found in zip(tables, texts(np.asarray(ids)[:, 0]), strict=True):
        words, before, last = [], PAD, START
        while last != END:
            before, last = last, max(allowed_at(len(words)), key=lambda word: table[before, last, word])
            words.append(last)
        assert found == tuple(words)


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_writes_words_then_one_end_then_padding(tables, length):
    decoder = TableDecoder(tables, slots=8)
    ids, scores = map(np.asarray, search.beam_search(decoder, photos(0, 1, 2, 3), 3, length))
    assert ids.shape == (4, 3, 8)
    for row in ids.reshape(-1, 8).tolist():
        words = row[: row.index(END)]
        assert 1 <= len(words) <= length
        assert not {PAD, START, UNKNOWN, END} & set(words)
        assert set(row[len(words) + 1 :]) == {PAD}
    # Some captions are as long as they may be: the limit is not below what was asked for.
    assert (ids[..., length - 1] > UNKNOWN).any()
    assert np.isfinite(scores).all() and (scores < 0).all()


def test_likely_specials_are_never_written(tables):
    tables = tables.copy()
    tables[..., [PAD, START, UNKNOWN]] = 20
    ids = np.asarray(search.beam_search(TableDecoder(tables), photos(0, 1), 4, LENGTH)[0])
    assert not np.isin(ids, (START, UNKNOWN)).any()
    assert (ids == END).sum(axis=-1).min() == 1


def test_settings_may_be_tensors_and_need_one_trace(tables):
    decoder, traces = TableDecoder(tables, slots=6), []

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, 1, 1, 1), tf.float32),
            tf.TensorSpec((), tf.int32),
            tf.TensorSpec((), tf.int32),
        ]
    )
    def compiled(features, beam_width, max_length):
        traces.append((features, beam_width, max_length))
        return search.beam_search(decoder, features, beam_width, max_length)

    for places, width, length in [((0,), 1, 2), ((1, 2, 3), 4, 5), ((3, 0), 2, 1), ((2, 2, 1, 0, 3), 8, 3)]:
        ids, scores = compiled(photos(*places), tf.constant(width), tf.constant(length))
        expected_ids, expected_scores = search.beam_search(decoder, photos(*places), width, length)
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)
    assert len(traces) == compiled.experimental_get_tracing_count() == 1


def test_compiled_search_of_a_transformer_finds_what_the_plain_one_does():
    keras.utils.set_random_seed(0)
    decoder = TransformerDecoder(
        12, (1, 2, 8), 6, width=16, heads=2, feed_forward=16, encoder_layers=1, decoder_layers=1, dropout=0.0
    )
    decoder.set_weights([10 * array for array in decoder.get_weights()])
    features = np.random.default_rng(0).uniform(0, 6, (5, 1, 2, 8)).astype("float32")
    ids, scores = search.BeamSearch(decoder, beam_width=3, max_length=5).predict(features, batch_size=2, verbose=0)
    expected_ids, expected_scores = search.beam_search(decoder, features, 3, 5)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-3)
    # What a score says is what teacher forcing says.
    inputs = np.concatenate([np.full_like(ids[..., :1], START), ids[..., :-1]], axis=-1)
    logits = np.asarray(ops.log_softmax(decoder((features, inputs))))
    chosen = np.take_along_axis(logits, ids[..., None], axis=-1)[..., 0] * (ids != PAD)
    np.testing.assert_allclose(scores, chosen.sum(axis=-1) / (ids != PAD).sum(axis=-1), rtol=1e-3)
    assert len({tuple(row) for row in ids[:, 0].tolist()}) > 1


def test_samples_are_as_frequent_as_they_are_probable(tables):
    # The table's specials are as likely as words; what may not be written is shared among the others.
    draws = 4000
    sampler = search.Sampler(TableDecoder(tables), captions=draws, max_length=2, seed=0)
    ids = np.asarray(sampler(photos(0, 2)))
    assert ids.shape == (2, draws, LENGTH + 1)
    for photo, place in enumerate((0, 2)):
        table = tables[place].astype("float64")
        table[..., [PAD, START, UNKNOWN]] = -np.inf
        expected = {}
        table[PAD, START, END] = -np.inf
        first = np.exp(log_softmax(table[PAD, START]))
        for one in WORDS:
            second = np.exp(log_softmax(table[START, one]))
            expected[(one, END)] = first[one] * second[END]
            expected |= {(one, two, END): first[one] * second[two] for two in WORDS}
        found = texts(ids[photo])
        assert set(found) <= set(expected)
        for caption, probability in expected.items():
            # Five standard deviations of a frequency.
            tolerance = 5 * np.sqrt(probability * (1 - probability) / draws)
            assert found.count(caption) / draws == pytest.approx(probability, abs=tolerance)


def test_samples_are_padded_after_the_end(tables):
    ids = np.asarray(search.Sampler(TableDecoder(tables, slots=6), 50, LENGTH, seed=0)(photos(1)))[0]
    for row in ids.tolist():
        end = row.index(END)
        assert 1 <= end <= LENGTH
        assert min(row[:end], default=UNKNOWN + 1) > UNKNOWN
        assert set(row[end + 1 :]) == {PAD}


def test_samples_differ_from_call_to_call_and_with_the_seed(tables):
    def drawn(seed):
        return search.Sampler(TableDecoder(tables), captions=50, max_length=LENGTH, seed=seed)

    first, same, other = drawn(1), drawn(1), drawn(2)
    once = np.asarray(first.predict_on_batch(photos(0, 0)))
    again = np.asarray(first.predict_on_batch(photos(0, 0)))
    assert (once != again).any()
    assert (once[0] != once[1]).any()
    np.testing.assert_array_equal(same.predict_on_batch(photos(0, 0)), once)
    assert (np.asarray(other.predict_on_batch(photos(0, 0))) != once).any()
