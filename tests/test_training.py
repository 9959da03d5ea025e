import json
import shutil
import warnings

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from keras import ops

from model import dataset, recipe, training
from model.cider import CiderD
from model.errors import UserError
from model.training import Trainer
from model.vocabulary import PAD, START
from tests.conftest import TINY_RECIPE
from tests.test_dataset import ENCODER, PHOTOS, SHAPE, write_split

WHO = ["a dog", "a brown cat", "the man", "two women", "a girl in red"]
WHAT = ["runs", "sits on grass", "jumps", "swims"]
LEARNABLE = [[f"{WHO[i % 5]} {WHAT[i % 4]}", f"{WHO[i % 5]} {WHAT[i % 4]} there"] for i in range(PHOTOS)]


def learnable_features():
    """Who and what a photo shows, as one channel each."""
    features = np.zeros((PHOTOS, *SHAPE))
    for photo in range(PHOTOS):
        features[photo, ..., [photo % 5, 5 + photo % 4]] = 6
    return features


def tiny(cross_entropy=None, self_critical=None):
    """The tiny recipe with other values for some fields of its phases."""
    fields = yaml.safe_load(TINY_RECIPE)
    fields["decoder"]["encoder_layers"] = 0
    fields["cross_entropy"] |= {"mirror": False, **(cross_entropy or {})}
    fields["self_critical"] |= {"mirror": False, **(self_critical or {})}
    return recipe.parse(yaml.safe_dump(fields), "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "train"
    write_split(folder, learnable_features(), LEARNABLE)
    return dataset.load(folder, ENCODER, mirror=True)


def state_of(folder):
    """What `state.json` says, but for the recipe."""
    state = json.loads((folder / "state.json").read_text())
    del state["recipe"]
    return state


class Trained:
    """A whole training, and what was seen of it."""

    def __init__(self, folder, data, patch):
        self.recipe = tiny(
            {"epochs": 6, "learning_rate": 0.01, "patience": 6},
            {"epochs": 3, "patience": 3, "photos_per_step": 5, "samples": 12, "learning_rate": 0.006},
        )
        self.folder, self.figures, self.rewards = folder, [], []
        sampled, score, write = [], CiderD.score, training._Log.write

        def recording_score(judge, photo, caption):
            reward = score(judge, photo, caption)
            # The judge of the validation has words, the reward of the samples has ids.
            if caption and not isinstance(caption[0], str):
                sampled.append(reward)
            return reward

        def recording_write(log, epoch, **figures):
            self.figures.append((epoch, figures))
            self.rewards.append(np.mean(sampled) if sampled else None)
            sampled.clear()
            write(log, epoch, **figures)

        patch.setattr(CiderD, "score", recording_score)
        patch.setattr(training._Log, "write", recording_write)
        self.trainer = Trainer(self.recipe, data, data, folder)
        self.decoder = self.trainer.run()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data):
    with pytest.MonkeyPatch.context() as patch:
        return Trained(tmp_path_factory.mktemp("trained") / "new" / "folder", data, patch)


@pytest.fixture
def eager():
    """Runs without compiling, which takes longer than a few steps do."""
    tf.config.run_functions_eagerly(True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not apply to tf.data functions")
        yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def no_steps(monkeypatch):
    """Leaves training and validation out: every epoch's loss is 1 and every score is 5."""
    monkeypatch.setattr(training, "_run_epoch", lambda *_: 1.0)
    monkeypatch.setattr(Trainer, "_validate", lambda *_: (5.0, 1))


def test_cross_entropy_learns_the_captions(trained):
    assert [epoch for epoch, _ in trained.figures] == [*range(1, 7), *range(1, 4)]
    losses = [figures["loss"] for _, figures in trained.figures[:6]]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.7 * losses[0]
    scores = [figures["validation_cider"] for _, figures in trained.figures[:6]]
    assert scores[-1] > 3 * scores[0]
    assert scores[-1] > 150
    assert trained.figures[5][1]["validation_distinct"] > 5


def test_self_critical_training_raises_the_reward(trained):
    assert trained.rewards[:6] == [None] * 6
    assert trained.rewards[8] > 1.15 * trained.rewards[6]


def test_only_what_is_needed_is_kept(trained):
    state = state_of(trained.folder)
    assert (state["phase"], state["epoch"]) == ("self_critical", 3)
    weights = {path.name for path in trained.folder.glob("*.h5")}
    assert weights == {state["weights"], state["best_weights"]}
    assert {path.name for path in trained.folder.iterdir()} == {*weights, "state.json", "logs"}
    assert {path.name for path in (trained.folder / "logs").iterdir()} == {"cross_entropy", "self_critical"}


def test_a_finished_training_returns_its_best_weights_again(trained, data, monkeypatch):
    def unexpected(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "_run_epoch", unexpected)
    again = Trainer(trained.recipe, data, data, trained.folder)
    assert again.vocabulary.words == trained.trainer.vocabulary.words
    for one, other in zip(again.run().get_weights(), trained.decoder.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_refuses_to_go_on_with_another_recipe(trained, data):
    other = tiny({"epochs": 5, "learning_rate": 0.01, "patience": 4})
    before = state_of(trained.folder)
    with pytest.raises(UserError, match="another recipe") as error:
        Trainer(other, data, data, trained.folder).run()
    assert str(trained.folder) in str(error.value)
    assert state_of(trained.folder) == before


def arrays_in(path):
    """All arrays of an HDF5 file by name."""
    arrays = {}

    def keep(name, item):
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(keep)
    return arrays


@pytest.mark.parametrize(
    ("phase", "epochs"),
    [
        ("cross_entropy", {"cross_entropy": 2, "self_critical": 0}),
        ("self_critical", {"cross_entropy": 1, "self_critical": 2}),
    ],
)
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path, data, monkeypatch, eager, phase, epochs):
    changes = {
        "patience": 9,
        "photos_per_step": PHOTOS,
        "learning_rate": 0.01,
        "warmup_steps": 1,
        "weight_average": 0.8,
        "mirror": True,
        "dropout": 0.3,
    }
    chosen = tiny(**{name: {**changes, "epochs": count} for name, count in epochs.items()})
    validate = Trainer._validate
    seen = []

    def copying(trainer, search):
        seen.append(trainer)
        if len(seen) == sum(epochs.values()):
            # What a training that is killed in its last epoch leaves behind.
            shutil.copytree(tmp_path / "whole", tmp_path / "killed")
        return validate(trainer, search)

    monkeypatch.setattr(Trainer, "_validate", copying)
    whole = Trainer(chosen, data, data, tmp_path / "whole").run()
    assert (state_of(tmp_path / "killed")["phase"], state_of(tmp_path / "killed")["epoch"]) == (phase, 1)
    resumed = Trainer(chosen, data, data, tmp_path / "killed").run()

    assert len(seen) == sum(epochs.values()) + 1
    assert state_of(tmp_path / "killed") == state_of(tmp_path / "whole")
    for one, other in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    # The last checkpoint has the optimizer's state, too.
    last = state_of(tmp_path / "whole")["weights"]
    expected = arrays_in(tmp_path / "whole" / last)
    found = arrays_in(tmp_path / "killed" / last)
    assert found.keys() == expected.keys()
    assert any(name.startswith("optimizer/") for name in found)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-6, err_msg=name)


def test_averaged_weights_are_validated_and_kept(tmp_path, data, monkeypatch, eager):
    chosen = tiny({"epochs": 1, "photos_per_step": 5, "learning_rate": 0.01, "weight_average": 0.9}, {"epochs": 0})
    validated, steps = [], []
    monkeypatch.setattr(Trainer, "_validate", lambda _, search: (validated.append(search.get_weights()), (1.0, 1))[1])
    train = keras.Model.train_on_batch

    def recorded(model, *args, **kwargs):
        loss = train(model, *args, **kwargs)
        steps.append(model.get_weights())
        return loss

    monkeypatch.setattr(keras.Model, "train_on_batch", recorded)
    trainer = Trainer(chosen, data, data, tmp_path)
    best = trainer.run().get_weights()
    assert len(steps) == 4
    for place, average in enumerate(steps[0]):
        for step in steps[1:]:
            average = 0.9 * average + 0.1 * step[place]
        np.testing.assert_allclose(best[place], average, atol=1e-6)
        np.testing.assert_array_equal(validated[0][place], best[place])
    # Training itself goes on from the weights that are not averaged.
    current = trainer._decoder(dropout=0.0)
    current.load_weights(tmp_path / state_of(tmp_path)["weights"])
    for place, array in enumerate(current.get_weights()):
        np.testing.assert_array_equal(array, steps[-1][place])
    assert not np.allclose(steps[-1][0], best[0], atol=1e-4)


def test_patience_ends_a_phase(tmp_path, data, no_steps, monkeypatch):
    scores = iter([5.0] * 4 + [6.0] * 3)
    monkeypatch.setattr(Trainer, "_validate", lambda *_: (next(scores), 1))
    chosen = tiny({"epochs": 9, "patience": 3}, {"epochs": 9, "patience": 2})
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training._Log, "write", lambda _, epoch, **figures: seen.append(epoch))
        Trainer(chosen, data, data, tmp_path).run()
    # The first epoch is the best, and those after it are no better.
    assert seen == [1, 2, 3, 4, 1, 2, 3]


def test_a_better_epoch_renews_the_patience(tmp_path, data, no_steps, monkeypatch):
    scores = iter([1.0, 1.0, 2.0, 2.0, 1.0, 9.0])
    monkeypatch.setattr(Trainer, "_validate", lambda *_: (next(scores), 1))
    Trainer(tiny({"epochs": 9, "patience": 2}, {"epochs": 0}), data, data, tmp_path).run()
    state = state_of(tmp_path)
    assert (state["epoch"], state["best_epoch"], state["best_score"]) == (5, 3, 2.0)
    assert state["best_weights"] == "best-cross_entropy-003.weights.h5"


def test_a_phase_that_makes_captions_worse_is_not_kept(tmp_path, data, no_steps, monkeypatch):
    scores = iter([5.0, 7.0, 6.0, 6.5])
    monkeypatch.setattr(Trainer, "_validate", lambda *_: (next(scores), 1))
    Trainer(tiny({"epochs": 2}, {"epochs": 2, "patience": 2}), data, data, tmp_path).run()
    state = state_of(tmp_path)
    assert (state["phase"], state["epoch"], state["best_epoch"], state["best_score"]) == ("self_critical", 2, 0, 7.0)
    assert state["best_weights"] == "best-cross_entropy-002.weights.h5"
    assert (tmp_path / state["best_weights"]).exists()


def test_says_that_no_epoch_can_be_kept(tmp_path, data, no_steps):
    with pytest.raises(UserError, match="varied enough"):
        Trainer(tiny({"least_distinct": 0.5}, {"epochs": 0}), data, data, tmp_path).run()


def test_refuses_fewer_photos_than_a_step_takes(tmp_path, data):
    with pytest.raises(UserError, match=r"has 20 photos, fewer than cross_entropy\.photos_per_step, 21"):
        Trainer(tiny({"photos_per_step": PHOTOS + 1}), data, data, tmp_path).run()


def test_an_epoch_with_captions_all_alike_is_no_better(tmp_path, data, no_steps, monkeypatch):
    found = iter([(1.0, PHOTOS // 2), (9.0, PHOTOS // 2 - 1), (2.0, PHOTOS // 2)])
    monkeypatch.setattr(Trainer, "_validate", lambda *_: next(found))
    Trainer(tiny({"epochs": 3, "patience": 3, "least_distinct": 0.5}, {"epochs": 0}), data, data, tmp_path).run()
    assert (state_of(tmp_path)["best_epoch"], state_of(tmp_path)["best_score"]) == (3, 2.0)


@pytest.mark.parametrize("mirror", [False, True])
def test_photos_are_trained_with_their_own_captions(tmp_path, data, monkeypatch, no_steps, mirror):
    epochs = []
    monkeypatch.setattr(training, "_run_epoch", lambda _, batches, *others: epochs.append(list(batches)) or 1.0)
    trainer = Trainer(tiny({"epochs": 2, "mirror": mirror}, {"epochs": 0}), data, data, tmp_path)
    trainer.run()
    orders = []
    for batches in epochs:
        order, mirrored = [], []
        for (features, inputs), targets, weights in batches:
            assert targets.shape == inputs.shape == weights.shape == (4, 2, 9)
            # The mean over all that is in the batch is then the mean over the tokens.
            assert weights.mean() == pytest.approx(1)
            assert set(weights[targets != PAD].tolist()) == {weights.max()}
            assert not weights[targets == PAD].any()
            assert (inputs[..., 0] == START).all()
            for photo, captions in zip(features, targets, strict=True):
                who, what = np.flatnonzero(photo[0, 0])
                expected = [f"{WHO[who]} {WHAT[what - 5]}", f"{WHO[who]} {WHAT[what - 5]} there"]
                assert [" ".join(trainer.vocabulary.decode(row)) for row in captions] == expected
                order.append((who, what))
                mirrored.append(photo.min() < 0)
        assert len(set(order)) == PHOTOS
        assert any(mirrored) == mirror
        assert not all(mirrored)
        orders.append(order)
    assert len(epochs) == 2
    assert orders[0] != orders[1]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_cross_entropy_with_smoothed_labels(smoothing):
    logits = np.random.default_rng(0).normal(size=(2, 3, 5)).astype("float32")
    targets = np.array([[0, 1, 2], [3, 4, 1]])
    logs = np.asarray(ops.log_softmax(logits))
    labels = (1 - smoothing) * np.eye(5)[targets] + smoothing / 5
    # No reduction: the weights come after it.
    loss = training._Loss(smoothing).call(ops.convert_to_tensor(targets), ops.convert_to_tensor(logits))
    np.testing.assert_allclose(loss, -(labels * logs).sum(axis=-1), rtol=1e-5)


def test_only_matrices_decay(tmp_path, data):
    decoder = Trainer(tiny(), data, data, tmp_path)._decoder(dropout=0.0)
    for variable in decoder.trainable_variables:
        variable.assign(ops.ones_like(variable))
    phase = tiny({"weight_decay": 0.5, "learning_rate": 0.01}).cross_entropy
    optimizer = training._optimizer(phase, 10, decoder)
    optimizer.apply([ops.zeros_like(v) for v in decoder.trainable_variables], decoder.trainable_variables)
    for variable in decoder.trainable_variables:
        expected = 0.995 if len(variable.shape) > 1 else 1.0
        np.testing.assert_allclose(variable, expected, rtol=1e-5, err_msg=variable.path)


def test_learning_rate_warms_up_and_falls_to_its_last_share(tmp_path, data):
    decoder = Trainer(tiny(), data, data, tmp_path)._decoder(dropout=0.0)
    phase = tiny({"epochs": 3, "warmup_steps": 5, "learning_rate": 0.01, "final_learning_rate": 0.1}).cross_entropy
    rate = training._optimizer(phase, 10, decoder)._learning_rate
    rates = [float(rate(step)) for step in range(31)]
    assert rates[0] == 0
    assert rates[5] == pytest.approx(0.01) == max(rates)
    assert rates[:6] == sorted(rates[:6]) and rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[30] == pytest.approx(0.001)
