import itertools

import numpy as np
import pytest

from beamscribe.model import recipe
from beamscribe.model.training.cider import CiderD
from beamscribe.model.training.self_critical import batches, sentences
from beamscribe.model.training.targets import choose, mean_weights
from beamscribe.model.words.vocabulary import END, PAD, START
from tests.conftest import TINY_RECIPE

DOG, RUNS, FAST, CAT, SITS = range(4, 9)
SLOTS = 4
SAMPLES = 3
PHASE = recipe.parse(TINY_RECIPE, "tiny").self_critical.model_copy(update={"samples": SAMPLES, "references": 2})

REFERENCES = np.array(
    [
        [[DOG, RUNS, END, PAD], [DOG, RUNS, FAST, END]],
        [[CAT, SITS, END, PAD], [PAD, PAD, PAD, PAD]],
        [[SITS, FAST, END, PAD], [SITS, END, PAD, PAD]],
    ],
    "int32",
)
# Photos 1 and 0: for each a caption of its own, one of another photo and an empty one.
PLACES = np.array([1, 0])
SAMPLED = np.array(
    [
        [[CAT, SITS, END, PAD], [DOG, RUNS, FAST, END], [END, PAD, PAD, PAD]],
        [[CAT, SITS, END, PAD], [DOG, RUNS, FAST, END], [END, PAD, PAD, PAD]],
    ],
    "int32",
)


class FixedSampler:
    def __init__(self, ids):
        self.ids, self.asked = ids, []

    def predict_on_batch(self, inputs):
        self.asked.append(inputs)
        return self.ids


@pytest.fixture
def reward():
    return CiderD([sentences(captions) for captions in REFERENCES])


def one_batch(reward, sampled=SAMPLED, places=PLACES, seed=0, **changes):
    phase = PHASE.model_copy(update={"samples": sampled.shape[1], **changes})
    features = np.arange(len(places), dtype="float16").reshape(-1, 1, 1, 1)
    generators = [np.random.default_rng(seed)]
    [batch] = batches([(features, places)], FixedSampler(sampled), REFERENCES, reward, phase, generators)
    return batch


def test_sentences_end_with_the_end_token():
    rows = np.array([[DOG, RUNS, END, PAD], [END, PAD, PAD, PAD], [PAD] * 4, [DOG, RUNS, FAST, CAT]], "int32")
    assert sentences(rows) == [(DOG, RUNS, END), (END,), (DOG, RUNS, FAST, CAT)]


def test_mean_weights_are_equal_and_sum_to_one():
    weights = mean_weights(REFERENCES)
    assert weights.sum() == pytest.approx(1)
    assert set(weights[REFERENCES != PAD].tolist()) == {weights.max()}
    assert not weights[REFERENCES == PAD].any()
    assert not mean_weights(np.zeros((2, 3), "int32")).any()


def test_samples_better_than_the_others_gain_and_worse_ones_lose(reward):
    _, targets, weights = one_batch(reward)
    np.testing.assert_array_equal(targets[:, :SAMPLES], SAMPLED)
    assert (weights[0, 0, :3] > 0).all() and (weights[1, 1] > 0).all()
    for photo, sample in [(0, 1), (0, 2), (1, 0), (1, 2)]:
        assert weights[photo, sample, 0] < 0
    assert not weights[targets == PAD].any()


def test_weights_are_the_advantage_over_the_other_samples(reward):
    _, targets, weights = one_batch(reward, references=0, reference_share=0.0)
    assert targets.shape == SAMPLED.shape
    tokens = (SAMPLED != PAD).sum()
    for photo, place in enumerate(PLACES):
        rewards = [reward.score(place, caption) for caption in sentences(SAMPLED[photo])]
        for sample, own in enumerate(rewards):
            others = (sum(rewards) - own) / (SAMPLES - 1)
            present = weights[photo, sample][targets[photo, sample] != PAD]
            # The loss is a mean over all slots, padding too, which this makes a mean over tokens.
            np.testing.assert_allclose(present, (own - others) / tokens * targets.size, rtol=1e-5)
    assert np.abs(weights).max() > 0.1


def test_equal_samples_weigh_nothing(reward):
    _, _, weights = one_batch(reward, np.repeat(SAMPLED[:, :1], SAMPLES, axis=1), references=0, reference_share=0.0)
    np.testing.assert_allclose(weights, 0, atol=1e-6)


def test_references_have_their_share_of_the_weight(reward):
    _, targets, weights = one_batch(reward, reference_share=0.2)
    assert targets.shape == weights.shape == (2, SAMPLES + 2, SLOTS)
    assert weights.dtype == np.float32
    assert weights[:, SAMPLES:].sum() == pytest.approx(0.2 * targets.size, rel=1e-5)
    present = weights[:, SAMPLES:][targets[:, SAMPLES:] != PAD]
    np.testing.assert_allclose(present, present[0])
    # The samples have the rest.
    _, plain_targets, plain = one_batch(reward, references=0, reference_share=0.0)
    np.testing.assert_allclose(
        weights[:, :SAMPLES] / targets.size, 0.8 * plain / plain_targets.size, rtol=1e-5, atol=1e-9
    )


def test_references_are_the_photos_own(reward):
    _, targets, _ = one_batch(reward)
    for photo, place in enumerate(PLACES):
        found = sorted(targets[photo, SAMPLES:].tolist())
        assert found == sorted(REFERENCES[place].tolist())


def test_empty_references_weigh_nothing(reward):
    _, targets, weights = one_batch(reward)
    empty = (targets[0] == PAD).all(axis=-1)
    assert empty.sum() == 1
    assert not weights[0][empty].any()
    # A batch with none but empty ones is no division by zero.
    _, _, weights = one_batch(reward, places=np.array([1, 1]), references=1, reference_share=0.5)
    assert np.isfinite(weights).all()


def test_references_are_drawn_anew(reward):
    drawn = {
        tuple(one_batch(reward, places=np.array([0, 2]), references=1, seed=seed)[1][0, SAMPLES]) for seed in range(20)
    }
    assert drawn == {tuple(row) for row in REFERENCES[0]}


def test_inputs_are_the_targets_one_later(reward):
    (features, inputs), targets, _ = one_batch(reward)
    assert features.dtype == np.float16 and features[:, 0, 0, 0].tolist() == [0, 1]
    assert (inputs[..., 0] == START).all()
    after = np.where(targets[..., :-1] == END, PAD, targets[..., :-1])
    np.testing.assert_array_equal(inputs[..., 1:], after)


def steps(reward, count, first=0):
    """What a sampler is asked for, and what comes of it, in some steps, each with a generator of its own."""
    sampler = FixedSampler(SAMPLED)
    photos = [(np.full((2, 1, 1, 1), number, "float16"), PLACES) for number in range(first, count)]
    generators = (np.random.default_rng((7, step)) for step in itertools.count(first))
    made = list(batches(photos, sampler, REFERENCES, reward, PHASE, generators))
    return sampler.asked, [targets for _, targets, _ in made]


def test_every_batch_is_sampled_for_its_own_photos(reward):
    asked, made = steps(reward, 3)
    assert len(made) == 3
    assert [features.max() for features, _ in asked] == [0, 1, 2]
    for _, uniforms in asked:
        assert uniforms.shape == (2, SAMPLES, SLOTS) and uniforms.dtype == np.float32
        assert uniforms.min() >= 0 and uniforms.max() < 1
    # Every number is another one: no photo, caption, word or step has those of another.
    assert len(np.unique([uniforms for _, uniforms in asked])) == 3 * 2 * SAMPLES * SLOTS


def test_a_step_depends_on_its_own_generator_alone(reward):
    asked, made = steps(reward, 6)
    later, made_later = steps(reward, 6, first=2)
    np.testing.assert_array_equal([uniforms for _, uniforms in later], [uniforms for _, uniforms in asked[2:]])
    np.testing.assert_array_equal(made_later, made[2:])
    assert any((targets != made[0]).any() for targets in made[1:])


def test_captions_are_chosen_without_repetition_and_all_alike():
    targets = np.ones((3000, 5, 1), "int32")
    chosen = choose(targets, 2, np.random.default_rng(0))
    assert chosen.shape == (3000, 2)
    assert (chosen[:, 0] != chosen[:, 1]).all()
    for place in range(2):
        counts = np.bincount(chosen[:, place], minlength=5)
        # Five standard deviations of a count.
        np.testing.assert_allclose(counts, 600, atol=5 * np.sqrt(3000 * 0.2 * 0.8))
    np.testing.assert_array_equal(choose(targets, 2, np.random.default_rng(0)), chosen)
    assert (choose(targets, 2, np.random.default_rng(1)) != chosen).any()
    np.testing.assert_array_equal(np.sort(choose(targets, 9, np.random.default_rng(0))), [[0, 1, 2, 3, 4]] * 3000)
    # Empty ones, of photos with fewer captions, come last.
    targets[:, 2:] = PAD
    chosen = choose(targets, 3, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(chosen[:, :2]), [[0, 1]] * 3000)
    assert (chosen[:, 2] >= 2).all()
