import numpy as np
import pytest

from beamscribe.model.training.cider import CiderD

PHOTOS = 30
WORDS = np.array(["a", "the", "dog", "cat", "man", "runs", "sits", "jumps", "on", "in", "grass", "snow", "red", "ball"])
# A few words are frequent, as in real captions.
PROBABILITIES = 1 / np.arange(1, len(WORDS) + 1)


def random_caption(generator, least):
    length = generator.integers(least, 13)
    return generator.choice(WORDS, length, p=PROBABILITIES / PROBABILITIES.sum()).tolist()


@pytest.fixture(scope="module")
def corpus():
    """References of each photo, one to five, and a candidate, made from one of them or at random."""
    generator = np.random.default_rng(0)
    references = [[random_caption(generator, least=1) for _ in range(generator.integers(1, 6))] for _ in range(PHOTOS)]
    candidates = []
    for photo, captions in enumerate(references):
        candidate = random_caption(generator, least=0)
        candidates.append(captions[0][: generator.integers(1, 9)] + candidate[:3] if photo % 2 else candidate)
    candidates[0] = []
    candidates[2] = ["a"] * 9
    candidates[4] = ["zebra", "quark"]
    return references, candidates


def test_scores_are_those_of_pycocoevalcap(corpus):
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    references, candidates = corpus
    truth = {photo: [" ".join(caption) for caption in captions] for photo, captions in enumerate(references)}
    expected_mean, expected = cider.Cider().compute_score(
        truth, {photo: [" ".join(caption)] for photo, caption in enumerate(candidates)}
    )
    judge = CiderD(references)
    found = [judge.score(photo, caption) for photo, caption in enumerate(candidates)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert judge.mean(candidates) == pytest.approx(expected_mean, abs=1e-9)
    # Scores of nothing but zeros would agree with much.
    assert sum(score > 0.1 for score in found) > PHOTOS / 3


def test_a_perfect_caption_scores_more_than_others(corpus):
    references, candidates = corpus
    # With a single reference, nothing is better than to repeat it.
    judge = CiderD([captions[:1] for captions in references])
    for photo, captions in enumerate(references):
        if len(captions[0]) < 4:
            continue
        perfect = judge.score(photo, captions[0])
        assert perfect == pytest.approx(10)
        for other in (candidates[photo], captions[0][:-1], captions[0][::-1], captions[0] * 2):
            assert other == captions[0] or judge.score(photo, other) < perfect


def test_ids_score_as_words_do(corpus):
    references, candidates = corpus
    ids = {word: place for place, word in enumerate([*WORDS, "zebra", "quark"])}
    numbered = CiderD([[[ids[word] for word in caption] for caption in captions] for captions in references])
    judge = CiderD(references)
    for photo, caption in enumerate(candidates):
        assert numbered.score(photo, [ids[word] for word in caption]) == judge.score(photo, caption)


def test_what_all_photos_share_is_worth_nothing():
    judge = CiderD([[["a", "dog"]], [["a", "cat"]], [["a", "bird"]]])
    assert judge.score(0, ["a"]) == 0
    assert judge.score(0, ["a", "cat"]) == 0
    assert judge.score(0, ["a", "dog"]) > judge.score(0, ["dog", "a"]) > 0


def test_repeating_a_word_earns_nothing():
    judge = CiderD([[["a", "brown", "dog"]], [["a", "cat"]], [["snow"]]])
    assert judge.score(0, ["a", "brown", "dog"]) > judge.score(0, ["a", "brown", "dog", "dog", "dog"])


def test_scores_photos_with_no_reference_or_caption():
    judge = CiderD([[["a", "dog"]], []])
    assert judge.score(1, ["a", "dog"]) == 0
    assert judge.score(0, []) == 0
    assert judge.mean([[], ["a"]]) == 0
