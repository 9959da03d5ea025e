"""Beam search and sampling, on a decoder whose every caption can be listed."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from beamscribe.model import search
from beamscribe.model.decoders.base import State
from beamscribe.model.decoders.transformer import TransformerDecoder
from beamscribe.model.search import Rules
from beamscribe.model.words.vocabulary import END, PAD, START, UNKNOWN

VOCABULARY, LENGTH = 7, 3
WORDS = range(4, VOCABULARY)
# The captions of one word up to three.
COUNT = sum(len(WORDS) ** length for length in range(1, LENGTH + 1))


class TableDecoder:
    """Takes the next word's logits from a table, by the two words before; a photo's features name its table."""

    def __init__(self, tables, slots=LENGTH + 1):
        self.tables, self.slots, self.vocabulary_size = ops.convert_to_tensor(tables), slots, tables.shape[-1]

    def initial_state(self, features, beams):
        table = ops.take(self.tables, ops.cast(features[:, 0, 0, 0], "int32"), axis=0)
        return State(table, (ops.full((ops.shape(features)[0], beams), PAD, dtype="int32"),))

    def step(self, tokens, position, state):
        place = (state.words[0] * self.vocabulary_size + tokens)[..., None]
        rows = ops.reshape(state.photo, (-1, self.vocabulary_size**2, self.vocabulary_size))
        return ops.take_along_axis(rows, place, axis=1), State(state.photo, (tokens,))


@pytest.fixture(scope="module")
def tables():
    """Logits of each next word by photo, word before last and last word; specials are likely, too."""
    return np.random.default_rng(0).normal(0, 1.5, (4, VOCABULARY, VOCABULARY, VOCABULARY)).astype("float32")


@pytest.fixture(scope="module")
def transformer():
    keras.utils.set_random_seed(0)
    sizes = {"width": 16, "heads": 2, "feed_forward": 16, "encoder_layers": 1, "decoder_layers": 1}
    decoder = TransformerDecoder(vocabulary_size=12, grid=(1, 2, 8), slots=8, **sizes)
    decoder.set_weights([10 * array for array in decoder.get_weights()])
    return decoder


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(0).uniform(0, 6, (5, 1, 2, 8)).astype("float32")


def photos(*places):
    return np.array(places, "float32").reshape(-1, 1, 1, 1)


def uniforms(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


def log_softmax(logits):
    logits = logits - logits.max()
    return logits - np.log(np.exp(logits).sum())


def permitted(words, rules, vocabulary=VOCABULARY):
    """The ids that may follow the words of a caption."""
    if len(words) == rules.max_length:
        return [END]
    size = rules.no_repeat_ngram
    return [
        index
        for index in [END] * (len(words) >= max(rules.min_length, 1)) + [*range(4, vocabulary)]
        if index == END or not size or not repeats((*words, index), size, last_only=True)
    ]


def repeats(words, size, last_only=False):
    """Whether a sequence of `size` words occurs twice in a caption, or the last one before."""
    ngrams = [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
    return ngrams[-1] in ngrams[:-1] if last_only and ngrams else len(set(ngrams)) < len(ngrams)


def scores_after(table, words):
    before, last = (PAD, START, *words)[-2:]
    return table[before, last].astype("float64")


def penalised(caption, total, length_penalty):
    return total / ((5 + len(caption)) / 6) ** length_penalty


def all_captions(table, rules):
    """Every caption, as ids with the end, and its log-probability."""

    def go_on(words, total):
        scores = log_softmax(scores_after(table, words))
        for index in permitted(words, rules):
            if index == END:
                yield (*words, END), total + scores[END]
            else:
                yield from go_on((*words, index), total + scores[index])

    return list(go_on((), 0.0))


def plain_beam_search(table, width, rules, length_penalty):
    """The same search in plain Python: at each step the most probable ones, ended or not."""
    beams = [((), 0.0)]
    for _ in range(rules.max_length + 1):
        longer = [beam for beam in beams if beam[0][-1:] == (END,)]
        for words, total in beams:
            if words[-1:] != (END,):
                scores = log_softmax(scores_after(table, words))
                longer += [((*words, index), total + scores[index]) for index in permitted(words, rules)]
        beams = sorted(longer, key=lambda beam: -beam[1])[:width]
    return sorted(beams, key=lambda beam: -penalised(*beam, length_penalty))


def texts(ids):
    return [tuple(int(index) for index in row if index != PAD) for row in np.asarray(ids)]


def words_of(ids):
    return [caption[:-1] for caption in texts(np.reshape(ids, (-1, np.shape(ids)[-1])))]


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 3.0])
def test_a_beam_as_wide_as_all_captions_ranks_them_as_listing_them_does(tables, length_penalty):
    rules = Rules(LENGTH)
    ids, scores = search.beam_search(TableDecoder(tables), photos(0, 1, 2, 3), COUNT, rules, length_penalty)
    assert ids.shape == (4, COUNT, LENGTH + 1)
    for photo, table in enumerate(tables):
        expected = sorted(all_captions(table, rules), key=lambda beam: -penalised(*beam, length_penalty))
        assert texts(ids[photo]) == [caption for caption, _ in expected]
        np.testing.assert_allclose(scores[photo], [total / len(caption) for caption, total in expected], rtol=1e-4)


@pytest.mark.parametrize(("length_penalty", "best"), [(0.0, "short"), (0.77, "short"), (0.78, "long"), (2.0, "long")])
def test_the_length_penalty_is_that_of_the_formula(length_penalty, best):
    # "4" has the probability 0.45, "4 5" 0.55 · 0.75 = 0.4125. With their ends they have 2 and 3 tokens, so that both
    # rank alike where (8 / 7) ** length_penalty = log 0.4125 / log 0.45, which is at 0.7745.
    short, long = (4, END), (4, 5, END)
    table = np.full((1, VOCABULARY, VOCABULARY, VOCABULARY), -50, "float32")
    table[0, PAD, START, 4] = 0
    table[0, START, 4, [END, 5]] = np.log([0.45, 0.55])
    table[0, 4, 5, [END, 6]] = np.log([0.75, 0.25])
    table[0, 5, 6, END] = 0
    ids, scores = search.beam_search(TableDecoder(table), photos(0), 3, Rules(LENGTH), length_penalty)
    found = dict(zip(texts(ids[0]), np.asarray(scores[0]).tolist(), strict=True))
    assert next(iter(found)) == {"short": short, "long": long}[best]
    # What it ranks by is not what it tells.
    assert found[short] == pytest.approx(np.log(0.45) / 2, rel=1e-4)
    assert found[long] == pytest.approx(np.log(0.4125) / 3, rel=1e-4)


RULES = [
    Rules(LENGTH),
    Rules(7, 4),
    Rules(7, 7),
    Rules(3, 3, no_repeat_ngram=1),
    Rules(7, 1, no_repeat_ngram=1),
    Rules(7, 5, no_repeat_ngram=2),
    Rules(7, 7, no_repeat_ngram=3),
    Rules(7, 0, no_repeat_ngram=7),
]


@pytest.mark.parametrize("rules", RULES)
def test_a_narrower_beam_finds_the_best_that_it_keeps(tables, rules):
    # Words come back often, and ends are rare.
    tables = tables.copy()
    tables[..., END] -= 3
    found = search.beam_search(TableDecoder(tables, slots=8), photos(0, 1, 2, 3), 3, rules, 0.7)
    for table, ids, means in zip(tables, *found, strict=True):
        expected = plain_beam_search(table, 3, rules, 0.7)
        assert texts(ids) == [words for words, _ in expected]
        np.testing.assert_allclose(means, [total / len(words) for words, total in expected], rtol=1e-4)


def test_a_beam_of_one_takes_the_likeliest_word_each_time(tables):
    ids, _ = search.beam_search(TableDecoder(tables), photos(0, 1, 2, 3), 1, Rules(LENGTH), 0.0)
    for table, found in zip(tables, texts(ids[:, 0]), strict=True):
        words = ()
        while words[-1:] != (END,):
            scores = scores_after(table, words)
            words = (*words, max(permitted(words, Rules(LENGTH)), key=lambda word: scores[word]))
        assert found == words


def found_by(kind, decoder, features, rules, captions=40):
    """Ids of the captions that a beam search or as many draws find."""
    if kind == "beam search":
        return np.asarray(search.beam_search(decoder, features, captions, rules, 1.0)[0])
    given = uniforms(len(features), captions, decoder.slots)
    return np.asarray(search.sample(decoder, features, given, rules, 0.95, 1.0)[0])


@pytest.fixture(scope="module")
def wide_tables():
    """More words, of which few are likely, so that captions repeat themselves where they may."""
    return np.random.default_rng(1).normal(0, 3.0, (3, 15, 15, 15)).astype("float32")


@pytest.mark.parametrize("kind", ["beam search", "sample"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_sequence_of_so_many_words_occurs_twice(wide_tables, kind, size):
    decoder = TableDecoder(wide_tables, slots=10)
    free, bound = (
        words_of(found_by(kind, decoder, photos(0, 1, 2), Rules(9, 8, no_repeat_ngram)))
        for no_repeat_ngram in (0, size)
    )
    assert any(repeats(words, size) for words in free)
    assert not any(repeats(words, size) for words in bound)
    # What is longer is not forbidden, what is shorter follows.
    assert any(repeats(words, 1) for words in bound) == (size > 1)
    assert min(map(len, bound)) == 8 and max(map(len, bound)) == 9


@pytest.mark.parametrize("kind", ["beam search", "sample"])
@pytest.mark.parametrize(("shortest", "longest"), [(0, 1), (1, 1), (1, 3), (2, 3), (3, 3), (1, 9), (5, 9)])
def test_writes_words_then_one_end_then_padding(wide_tables, kind, shortest, longest):
    # Ends and specials are what comes first where nothing forbids it.
    tables = wide_tables.copy()
    tables[..., END] += 5
    tables[..., [PAD, START, UNKNOWN]] = 20
    captions = 8
    ids = found_by(kind, TableDecoder(tables, slots=10), photos(0, 1, 2), Rules(longest, shortest), captions)
    assert ids.shape == (3, captions, 10)
    lengths = set()
    for row in ids.reshape(-1, 10).tolist():
        words = row[: row.index(END)]
        assert not {PAD, START, UNKNOWN} & set(words)
        assert set(row[len(words) + 1 :]) <= {PAD}
        lengths.add(len(words))
    assert min(lengths) == max(shortest, 1) and max(lengths) <= longest
    # Some captions are as long as they may be: the limit is not below what was asked for.
    assert max(lengths) == longest or longest == 9


def test_settings_may_be_tensors_and_need_one_trace(tables):
    decoder, traces = TableDecoder(tables, slots=6), []
    scalars = [tf.TensorSpec((), dtype) for dtype in (tf.int32, tf.int32, tf.int32, tf.int32, tf.float32)]

    @tf.function(input_signature=[tf.TensorSpec((None, 1, 1, 1), tf.float32), *scalars])
    def searched(features, beam_width, max_length, min_length, no_repeat_ngram, length_penalty):
        traces.append("search")
        rules = Rules(max_length, min_length, no_repeat_ngram)
        return search.beam_search(decoder, features, beam_width, rules, length_penalty)

    scalars = [tf.TensorSpec((), dtype) for dtype in (tf.int32, tf.int32, tf.int32, tf.float32, tf.float32)]
    shapes = [tf.TensorSpec(shape, tf.float32) for shape in ((None, 1, 1, 1), (None, None, 6))]

    @tf.function(input_signature=[*shapes, *scalars])
    def sampled(features, given, max_length, min_length, no_repeat_ngram, top_p, temperature):
        traces.append("sample")
        return search.sample(
            decoder, features, given, Rules(max_length, min_length, no_repeat_ngram), top_p, temperature
        )

    cases = [
        ((0,), 1, Rules(2, 1, 0), 0.0),
        ((1, 2, 3), 4, Rules(5, 4, 2), 0.5),
        ((3, 0), 2, Rules(1, 0, 1), 1.0),
        ((2, 2, 1, 0, 3), 8, Rules(3, 2, 3), 2.0),
    ]
    for places, count, rules, number in cases:
        given = uniforms(len(places), count, 6)
        settings = [tf.constant(value) for value in rules]
        pairs = [
            (
                searched(photos(*places), tf.constant(count), *settings, tf.constant(number)),
                search.beam_search(decoder, photos(*places), count, rules, number),
            ),
            (
                sampled(photos(*places), given, *settings, tf.constant(0.8), tf.constant(number + 0.5)),
                search.sample(decoder, photos(*places), given, rules, 0.8, number + 0.5),
            ),
        ]
        for (ids, scores), (expected_ids, expected_scores) in pairs:
            np.testing.assert_array_equal(ids, expected_ids)
            np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)
    assert sorted(traces) == ["sample", "search"]


def test_compiled_models_of_a_transformer_find_what_plain_functions_do(transformer, features):
    rules = Rules(5, 2, no_repeat_ngram=2)
    ids, scores = search.BeamSearch(transformer, 3, rules, 0.5).predict(features, batch_size=2, verbose=0)
    expected_ids, expected_scores = search.beam_search(transformer, features, 3, rules, 0.5)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-3)
    assert len({tuple(row) for row in ids[:, 0].tolist()}) > 1
    given = uniforms(5, 20, 8)
    drawn = search.Sampler(transformer, rules).predict_on_batch((features, given))
    np.testing.assert_array_equal(drawn, search.sample(transformer, features, given, rules)[0])


@pytest.mark.parametrize("kind", ["beam search", "sample"])
def test_scores_are_what_teacher_forcing_says(transformer, features, kind):
    rules = Rules(6, 3, no_repeat_ngram=1)
    if kind == "beam search":
        ids, scores = search.beam_search(transformer, features, 3, rules, 1.0)
    else:
        # Whatever the drawing makes of the probabilities, scores are those of the model.
        ids, scores = search.sample(transformer, features, uniforms(5, 3, 8), rules, 0.7, 1.5)
    ids = np.asarray(ids)
    inputs = np.concatenate([np.full_like(ids[..., :1], START), ids[..., :-1]], axis=-1)
    logits = np.asarray(ops.log_softmax(transformer((features, inputs))))
    chosen = np.take_along_axis(logits, ids[..., None], axis=-1)[..., 0] * (ids != PAD)
    np.testing.assert_allclose(scores, chosen.sum(axis=-1) / (ids != PAD).sum(axis=-1), rtol=1e-3)


def drawing_probabilities(logits, allowed, top_p, temperature):
    """The probability of each allowed id: softmax, cut to the nucleus; written without the code under test."""
    weights = {index: np.exp(logits[index] / temperature) for index in allowed}
    total, nucleus, mass = sum(weights.values()), {}, 0.0
    for index in sorted(weights, key=lambda index: -weights[index]):
        if mass >= top_p:
            break
        nucleus[index] = weights[index] / total
        mass += nucleus[index]
    return {index: probability / mass for index, probability in nucleus.items()}


@pytest.mark.parametrize(
    ("top_p", "temperature"), [(None, 1.0), (1.0, 1.0), (0.7, 1.0), (None, 0.5), (None, 3.0), (0.8, 2.0), (0.85, 0.7)]
)
def test_captions_are_drawn_as_often_as_they_are_probable(tables, top_p, temperature):
    # The table's specials are as likely as words; what may not be written is shared among the others.
    count, rules = 20000, Rules(2)
    given = uniforms(2, count, LENGTH + 1)
    ids, _ = search.sample(TableDecoder(tables), photos(0, 2), given, rules, top_p, temperature)
    assert ids.shape == (2, count, LENGTH + 1)
    for photo, place in enumerate((0, 2)):
        expected = {}
        beams = [((), 1.0)]
        while beams:
            words, probability = beams.pop()
            allowed = permitted(words, rules)
            following = drawing_probabilities(scores_after(tables[place], words), allowed, top_p or 1.0, temperature)
            for index, share in following.items():
                longer = ((*words, index), probability * share)
                if index == END:
                    expected[longer[0]] = longer[1]
                else:
                    beams.append(longer)
        assert sum(expected.values()) == pytest.approx(1)
        found = texts(ids[photo])
        assert set(found) <= set(expected)
        # Pearson's statistic: its mean is the degrees of freedom, its variance twice as much.
        statistic = sum(
            (found.count(caption) - count * probability) ** 2 / (count * probability)
            for caption, probability in expected.items()
        )
        freedom = len(expected) - 1
        assert statistic < freedom + 4 * np.sqrt(2 * freedom)


def test_the_nucleus_is_the_smallest_set_of_words_with_its_probability():
    generator = np.random.default_rng(5)
    tables = generator.normal(0, 2, (40, 15, 15, 15)).astype("float32")
    # Evenly spread numbers meet every word whose probability is above their distance.
    given = np.zeros((40, 4000, 3), "float32")
    given[..., 0] = np.linspace(0, 1, 4000, endpoint=False)
    sizes = set()
    for top_p in (1e-6, 0.2, 0.5, 0.9, 0.99):
        ids = np.asarray(search.sample(TableDecoder(tables, slots=3), photos(*range(40)), given, Rules(2), top_p)[0])
        for table, drawn in zip(tables, ids[..., 0], strict=True):
            probabilities = np.exp(log_softmax(table[PAD, START, 4:].astype("float64")))
            smallest = next(
                size
                for size in range(1, 12)
                if max(sum(chosen) for chosen in itertools.combinations(probabilities, size)) >= top_p
            )
            nucleus = 4 + np.argsort(-probabilities)[:smallest]
            if probabilities[nucleus - 4].min() > 1 / 2000:
                assert set(drawn.tolist()) == set(nucleus.tolist())
                sizes.add(smallest)
    assert {1, 2, 3, 5, 8} <= sizes


def test_low_temperatures_and_small_nuclei_take_the_likeliest_word(transformer, features):
    greedy = np.asarray(search.beam_search(transformer, features, 1, Rules(5), 0.0)[0])
    for top_p, temperature in ((1e-6, 1.0), (None, 1e-3), (0.9, 1e-3)):
        ids = search.sample(transformer, features, uniforms(5, 4, 8), Rules(5), top_p, temperature)[0]
        np.testing.assert_array_equal(ids, np.repeat(greedy, 4, axis=1))


def test_equal_numbers_give_equal_captions_whatever_else_is_in_the_batch(transformer, features):
    given = uniforms(5, 6, 8)
    rules = Rules(6, 2, no_repeat_ngram=2)

    def drawn(photos, captions=slice(None)):
        ids = search.sample(transformer, features[photos], given[photos][:, captions], rules, 0.9, 1.5)[0]
        return np.asarray(ids)

    together = drawn(slice(None))
    assert len(set(words_of(together))) > 15
    for photo in range(5):
        np.testing.assert_array_equal(drawn([photo])[0], together[photo])
    np.testing.assert_array_equal(drawn([3, 0, 3]), together[[3, 0, 3]])
    np.testing.assert_array_equal(drawn([1, 4], slice(2, 4)), together[[1, 4], 2:4])
    # A caption's words depend on its own numbers only, each on those up to it.
    given = np.concatenate([given[..., :3], uniforms(5, 6, 5, seed=1)], axis=-1)
    changed = drawn(slice(None))
    np.testing.assert_array_equal(changed[..., :3], together[..., :3])
    assert (changed[..., 3:] != together[..., 3:]).any()


@pytest.mark.parametrize("number", [0.0, 1 - 2**-24, 1.0])
@pytest.mark.parametrize("top_p", [None, 0.5, 1.0])
def test_the_ends_of_the_range_draw_words_that_may_be_drawn(wide_tables, number, top_p):
    given = np.full((3, 2, 10), number, "float32")
    ids = search.sample(TableDecoder(wide_tables, slots=10), photos(0, 1, 2), given, Rules(9, 9, 1), top_p)[0]
    for words in words_of(ids):
        assert len(set(words)) == len(words) == 9 and min(words) > UNKNOWN


def test_compiled_drawing_takes_no_word_that_is_ruled_out():
    """Compiled, a cumulated sum may rise, by rounding, where a probability is 0."""
    generator = np.random.default_rng(0)
    weights = generator.dirichlet(np.full(2540, 0.05), 100).astype("float32")
    weights[generator.random(weights.shape) < 0.5] = 0
    cumulated = tf.function(lambda weights: ops.cumsum(weights, axis=-1), jit_compile=True)(weights).numpy()
    rises = (np.diff(cumulated) > 0) & (weights[:, 1:] == 0)
    assert rises.sum() > 100
    # A number just below each such rise; a photo with fewer of them has others, too.
    places = np.argsort(~rises, axis=-1, kind="stable")[:, : rises.sum(axis=-1).max()]
    given = np.take_along_axis(cumulated, places, axis=-1) / cumulated[:, -1:]
    drawn = tf.function(search._invert, jit_compile=True)(np.repeat(weights[:, None], given.shape[1], axis=1), given)
    assert (np.take_along_axis(weights, drawn.numpy(), axis=-1) > 0).all()
