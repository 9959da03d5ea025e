import dataclasses
import itertools
import json
import logging
import re
import shutil
import warnings

import h5py
import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import yaml
from keras import ops

from beamscribe.model import bundle, encoders, recipe
from beamscribe.model.errors import BeamscribeError
from beamscribe.model.training import dataset, losses, optimizers, phase, tensorboard, trainer
from beamscribe.model.training.checkpoints import Checkpoints
from beamscribe.model.training.cider import CiderD
from beamscribe.model.training.dataset_description import examples_file
from beamscribe.model.training.phase import PhaseTraining
from beamscribe.model.training.trainer import Trainer
from beamscribe.model.training.validation import Validation
from beamscribe.model.words.vocabulary import END, PAD, START, UNKNOWN
from beamscribe.pipelines import tf_examples
from tests.conftest import TINY_RECIPE
from tests.test_dataset import ENCODER, FILES, PHOTOS, SHAPE, TRAINED, write_split

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


def finetuned(cross_entropy=None, self_critical=None):
    """A recipe that trains the encoder in its first phase."""
    fields = tiny(None, self_critical).model_dump()
    fields["encoder"]["trained_from"] = TRAINED.trained_from
    fields["cross_entropy"] |= {"encoder_learning_rate": 0.001, **(cross_entropy or {})}
    return recipe.parse(yaml.safe_dump(fields), "finetuned")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Photos of one colour each, and captions that name it."""
    folder = tmp_path_factory.mktemp("data") / "images"
    write_split(folder, learnable_features(), LEARNABLE, changes={"store": "images", "features": None, "flip": False})
    colours = np.random.default_rng(0).integers(0, 256, (PHOTOS, 1, 1, 3))
    photos = np.broadcast_to(colours, (PHOTOS, 64, 64, 3)).astype(np.uint8)
    records = [
        {"photo": f"{index:02d}.jpg", "captions": LEARNABLE[index], "image": photo.tobytes()}
        for index, photo in enumerate(photos)
    ]
    for index in range(FILES):
        path = folder / examples_file(index)
        path.write_bytes(tf_examples.tfrecord(pa.Table.from_pylist(records[index::FILES])))
    return dataset.load(folder, TRAINED, mirror=False)


def state_of(folder):
    """What `state.json` says, but for the recipe."""
    state = json.loads((folder / "state.json").read_text())
    del state["recipe"]
    for figures in state["history"]:
        del figures["seconds"]
    return state


class Trained:
    """A whole training, and what was seen of it."""

    def __init__(self, folder, data, patch):
        self.recipe = tiny(
            {"epochs": 6, "learning_rate": 0.01, "patience": 6},
            {"epochs": 3, "patience": 3, "photos_per_step": 5, "samples": 12, "learning_rate": 0.006},
        )
        self.folder, self.figures, self.rewards = folder, [], []
        sampled, score, write = [], CiderD.score, tensorboard.Log.write

        def recording_score(judge, photo, caption):
            reward = score(judge, photo, caption)
            # The judge of the validation has words, the reward of the samples has ids.
            if caption and not isinstance(caption[0], str):
                sampled.append(reward)
            return reward

        def recording_write(log, figures):
            self.figures.append((figures["epoch"], figures))
            self.rewards.append(np.mean(sampled) if sampled else None)
            sampled.clear()
            write(log, figures)

        patch.setattr(CiderD, "score", recording_score)
        patch.setattr(tensorboard.Log, "write", recording_write)
        self.trainer = Trainer(self.recipe, data, data, folder)
        _, self.decoder = self.trainer.run()


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
    """Leaves training and validation out: every score is 5."""
    monkeypatch.setattr(PhaseTraining, "run_epoch", lambda _, state: state)
    monkeypatch.setattr(Validation, "measure", lambda _: (5.0, 1))


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

    monkeypatch.setattr(PhaseTraining, "run_epoch", unexpected)
    again = Trainer(trained.recipe, data, data, trained.folder)
    assert again.vocabulary.words == trained.trainer.vocabulary.words
    for one, other in zip(again.run()[1].get_weights(), trained.decoder.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_refuses_to_go_on_with_another_recipe(trained, data):
    other = tiny({"epochs": 5, "learning_rate": 0.01, "patience": 4})
    before = state_of(trained.folder)
    with pytest.raises(BeamscribeError, match="another recipe") as error:
        Trainer(other, data, data, trained.folder).run()
    assert str(trained.folder) in str(error.value)
    assert state_of(trained.folder) == before


def test_refuses_to_go_on_with_other_data(trained, data):
    other = dataclasses.replace(data, captions=(("something else",), *data.captions[1:]))
    before = state_of(trained.folder)
    for training_data, validation in ((other, data), (data, other)):
        with pytest.raises(BeamscribeError, match="other data"):
            Trainer(trained.recipe, training_data, validation, trained.folder).run()
    assert state_of(trained.folder) == before


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", r"state\.json is damaged: .*; delete its folder to train anew"),
        ('{"phase": "cross_entropy"}', r"state\.json is damaged: recipe: Field required; delete its folder"),
        ('{"format_version": 2}', r"state\.json was written by a newer version of Beamscribe"),
    ],
)
def test_a_state_that_can_not_be_used_is_one_clear_line(tmp_path, data, content, complaint):
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(BeamscribeError, match=complaint) as error:
        Trainer(tiny(), data, data, tmp_path).run()
    assert "\n" not in str(error.value)


def test_a_training_of_version_0_1_0_goes_on(tmp_path, data, eager, caplog):
    """Its state names no version, and its best score is -∞ where no epoch is kept."""
    chosen = tiny({"epochs": 2, "least_distinct": 0.0}, {"epochs": 0})
    with pytest.MonkeyPatch.context() as patch:
        # Ends after one epoch, of which nothing is kept.
        patch.setattr(Validation, "measure", lambda _: (float("-inf"), 1))
        patch.setattr(PhaseTraining, "validate", ended_after(1))
        with pytest.raises(KeyboardInterrupt):
            Trainer(chosen, data, data, tmp_path).run()
    state = json.loads((tmp_path / "state.json").read_text())
    assert state.pop("format_version") == 1
    assert list(state) == [
        *["phase", "recipe", "data", "epoch", "step", "loss", "seconds", "best_score", "best_epoch", "weights"],
        *["best_weights", "history"],
    ]
    (tmp_path / "state.json").write_text(json.dumps(state | {"best_score": float("-inf")}))
    caplog.set_level(logging.INFO, logger="beamscribe")
    Trainer(chosen, data, data, tmp_path).run()
    assert [figures["epoch"] for figures in state_of(tmp_path)["history"]] == [1, 2]
    going_on, steps, validated = (record.getMessage() for record in caplog.records)
    assert going_on == "going on after epoch 1 of cross_entropy"
    assert re.fullmatch(r"cross_entropy, epoch 2 of 2: 5 of 5 steps, loss \d\.\d{3}, \d+\.\d steps/(s|min)", steps)
    assert re.fullmatch(
        r"cross_entropy, epoch 2 of 2: validation CIDEr \d+\.\d \(best\), \d+ distinct captions", validated
    )


def ended_after(epochs):
    """A `PhaseTraining.validate` that is interrupted once so many epochs are checkpointed."""
    validate = PhaseTraining.validate

    def validating(self, state):
        state = validate(self, state)
        if state.epoch == epochs:
            raise KeyboardInterrupt
        return state

    return validating


def test_dropout_has_random_states_and_nothing_else_does(tmp_path, data):
    network = Trainer(tiny(), data, data, tmp_path)._network(dropout=0.5)
    network.compile("adam", "mse")
    states = phase.random_states(network)
    # For the features and the words, and in the decoder layer: both attentions, feed-forward, and what all three add.
    assert len(states) == 6
    assert all(state.path.startswith("seed_generator") and state.shape == (2,) for state in states)
    before = [np.asarray(state) for state in states]
    network((np.zeros((1, *SHAPE), "float32"), np.zeros((1, 1, 9), "int32")), training=True)
    assert all((np.asarray(state) != old).any() for state, old in zip(states, before, strict=True))


def test_weights_that_can_not_be_had_are_told_before_the_training(tmp_path, data, monkeypatch):
    def missing(_):
        raise BeamscribeError("no weights")

    monkeypatch.setattr(trainer.encoders, "build", missing)
    monkeypatch.setattr(PhaseTraining, "run", lambda *_: pytest.fail("it trains"))
    with pytest.raises(BeamscribeError, match="no weights"):
        Trainer(tiny({"epochs": 1}), data, data, tmp_path).run()


def test_captions_without_words_to_learn(tmp_path, data):
    silent = dataclasses.replace(data, captions=tuple((f"caption{n}",) for n, _ in enumerate(data.captions)))
    recipe = tiny({"epochs": 1})
    recipe = recipe.model_copy(update={"words": recipe.words.model_copy(update={"min_count": 2})})
    with pytest.raises(BeamscribeError, match="no word occurs 2 times"):
        Trainer(recipe, silent, data, tmp_path)


def test_the_phases_are_checked_before_the_first(tmp_path, data, monkeypatch):
    monkeypatch.setattr(PhaseTraining, "run", lambda *_: pytest.fail("it trains"))
    with pytest.raises(BeamscribeError, match=r"self_critical\.photos_per_step"):
        Trainer(tiny({"epochs": 1}, {"epochs": 1, "photos_per_step": 1000}), data, data, tmp_path).run()


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
    ("killed_in", "epochs", "killed_at"),
    [
        # Before the last epoch's validation, and in the middle of an epoch.
        ("cross_entropy", {"cross_entropy": 2, "self_critical": 0}, "validation"),
        ("cross_entropy", {"cross_entropy": 2, "self_critical": 0}, 7),
        ("self_critical", {"cross_entropy": 1, "self_critical": 2}, "validation"),
        ("self_critical", {"cross_entropy": 1, "self_critical": 1}, 7),
    ],
)
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
    tmp_path, data, monkeypatch, eager, killed_in, epochs, killed_at
):
    changes = {
        "patience": 9,
        "photos_per_step": 4,
        "learning_rate": 0.01,
        "warmup_steps": 1,
        "weight_average": 0.8,
        "mirror": True,
        "dropout": 0.3,
    }
    chosen = tiny(**{name: {**changes, "epochs": count} for name, count in epochs.items()})
    monkeypatch.setattr(phase, "_CHECKPOINT_SECONDS", 0)
    measure, train = Validation.measure, keras.Model.train_on_batch
    validated, steps = [], []

    def leave_behind():
        """What a training that is killed now leaves behind."""
        if not (tmp_path / "killed").exists():
            shutil.copytree(tmp_path / "whole", tmp_path / "killed")

    def measuring(validation):
        validated.append(validation)
        if killed_at == "validation" and len(validated) == sum(epochs.values()):
            leave_behind()
        return measure(validation)

    def training_step(*args, **kwargs):
        if len(steps) == killed_at:
            leave_behind()
        steps.append(None)
        return train(*args, **kwargs)

    monkeypatch.setattr(Validation, "measure", measuring)
    monkeypatch.setattr(keras.Model, "train_on_batch", training_step)
    _, whole = Trainer(chosen, data, data, tmp_path / "whole").run()
    assert len(steps) == 5 * sum(epochs.values())
    killed = state_of(tmp_path / "killed")
    # The last checkpoint of an epoch is written when it is validated.
    done = {"validation": 1, 7: 1 if killed_in == "cross_entropy" else 0}[killed_at]
    assert (killed["phase"], killed["epoch"]) == (killed_in, done)
    assert killed["step"] == (4 if killed_at == "validation" else 2)
    assert killed["loss"]

    steps.clear()
    _, resumed = Trainer(chosen, data, data, tmp_path / "killed").run()
    assert len(steps) == (1 if killed_at == "validation" else 3)
    found, expected = state_of(tmp_path / "killed"), state_of(tmp_path / "whole")
    assert found == expected
    for one, other in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    # The last checkpoint has the optimizer's state, too.
    found, expected = (arrays_in(tmp_path / run / expected["weights"]) for run in ("killed", "whole"))
    assert found.keys() == expected.keys()
    assert any(name.startswith("optimizer/") for name in found)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_checkpoint_is_written_every_few_minutes_of_an_epoch(tmp_path, data, monkeypatch, eager):
    clock = itertools.count(0, 200)
    monkeypatch.setattr(phase.time, "monotonic", lambda: next(clock))
    states = []
    save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda *args: states.append(args[1].step) or save(*args))
    Trainer(tiny({"epochs": 1}, {"epochs": 0}), data, data, tmp_path).run()
    # 200 seconds a step: every second one, and the whole epoch.
    assert states == [2, 4, 0]


def test_a_seed_makes_trainings_equal(tmp_path, data, eager):
    changes = {"epochs": 1, "dropout": 0.3, "mirror": True}
    found = []
    for seed in (5, 5, 6):
        chosen = tiny(changes, changes).model_copy(update={"seed": seed})
        _, decoder = Trainer(chosen, data, data, tmp_path / str(len(found))).run()
        found.append(np.concatenate([array.ravel() for array in decoder.get_weights()]))
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 1e-3


def test_some_captions_of_each_photo_are_trained_on(tmp_path, data, monkeypatch, no_steps):
    seen = []

    def collected(training, state):
        seen.extend(training.batches(state.epoch, 0))
        return state

    monkeypatch.setattr(PhaseTraining, "run_epoch", collected)
    trainer = Trainer(tiny({"epochs": 3, "captions": 1}, {"epochs": 0}), data, data, tmp_path)
    trainer.run()
    drawn = set()
    for (features, inputs), targets, weights in seen:
        assert targets.shape == inputs.shape == weights.shape == (4, 1, 9)
        assert weights.mean() == pytest.approx(1)
        for photo, ids, shifted in zip(features, targets[:, 0], inputs[:, 0], strict=True):
            who, what = np.flatnonzero(photo[0, 0])
            caption = " ".join(trainer.vocabulary.decode(ids))
            assert caption.removesuffix(" there") == f"{WHO[who]} {WHAT[what - 5]}"
            assert shifted[0] == START and " ".join(trainer.vocabulary.decode(shifted[1:])) == caption
            drawn.add(caption)
    # Both captions of a photo have their turn.
    assert any(f"{caption} there" in drawn for caption in drawn)


def test_averaged_weights_are_validated_and_kept(tmp_path, data, monkeypatch, eager):
    chosen = tiny({"epochs": 1, "photos_per_step": 5, "learning_rate": 0.01, "weight_average": 0.9}, {"epochs": 0})
    validated, steps = [], []
    monkeypatch.setattr(Validation, "measure", lambda self: (validated.append(self.search.get_weights()), (1.0, 1))[1])
    train = keras.Model.train_on_batch

    def recorded(model, *args, **kwargs):
        loss = train(model, *args, **kwargs)
        steps.append(model.get_weights())
        return loss

    monkeypatch.setattr(keras.Model, "train_on_batch", recorded)
    trainer = Trainer(chosen, data, data, tmp_path)
    best = trainer.run()[1].get_weights()
    assert len(steps) == 4
    for place, average in enumerate(steps[0]):
        for step in steps[1:]:
            average = 0.9 * average + 0.1 * step[place]
        np.testing.assert_allclose(best[place], average, atol=1e-6)
        np.testing.assert_array_equal(validated[0][place], best[place])
    # Training itself goes on from the weights that are not averaged.
    current = trainer._network(dropout=0.0)
    current.load_weights(tmp_path / state_of(tmp_path)["weights"])
    for place, array in enumerate(current.get_weights()):
        np.testing.assert_array_equal(array, steps[-1][place])
    assert not np.allclose(steps[-1][0], best[0], atol=1e-4)


def test_patience_ends_a_phase(tmp_path, data, no_steps, monkeypatch):
    scores = iter([5.0] * 4 + [6.0] * 3)
    monkeypatch.setattr(Validation, "measure", lambda _: (next(scores), 1))
    chosen = tiny({"epochs": 9, "patience": 3}, {"epochs": 9, "patience": 2})
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorboard.Log, "write", lambda _, figures: seen.append(figures["epoch"]))
        Trainer(chosen, data, data, tmp_path).run()
    # The first epoch is the best, and those after it are no better.
    assert seen == [1, 2, 3, 4, 1, 2, 3]


def test_a_better_epoch_renews_the_patience(tmp_path, data, no_steps, monkeypatch):
    scores = iter([1.0, 1.0, 2.0, 2.0, 1.0, 9.0])
    monkeypatch.setattr(Validation, "measure", lambda _: (next(scores), 1))
    Trainer(tiny({"epochs": 9, "patience": 2}, {"epochs": 0}), data, data, tmp_path).run()
    state = state_of(tmp_path)
    assert (state["epoch"], state["best_epoch"], state["best_score"]) == (5, 3, 2.0)
    assert state["best_weights"] == "best-cross_entropy-003.weights.h5"


def test_a_phase_that_makes_captions_worse_is_not_kept(tmp_path, data, no_steps, monkeypatch):
    scores = iter([5.0, 7.0, 6.0, 6.5])
    monkeypatch.setattr(Validation, "measure", lambda _: (next(scores), 1))
    Trainer(tiny({"epochs": 2}, {"epochs": 2, "patience": 2}), data, data, tmp_path).run()
    state = state_of(tmp_path)
    assert (state["phase"], state["epoch"], state["best_epoch"], state["best_score"]) == ("self_critical", 2, 0, 7.0)
    assert state["best_weights"] == "best-cross_entropy-002.weights.h5"
    assert (tmp_path / state["best_weights"]).exists()


def test_says_that_no_epoch_can_be_kept(tmp_path, data, no_steps):
    with pytest.raises(BeamscribeError, match="varied enough"):
        Trainer(tiny({"least_distinct": 0.5}, {"epochs": 0}), data, data, tmp_path).run()


def test_refuses_fewer_photos_than_a_step_takes(tmp_path, data):
    with pytest.raises(BeamscribeError, match=r"has 20 photos, fewer than cross_entropy\.photos_per_step, 21"):
        Trainer(tiny({"photos_per_step": PHOTOS + 1}), data, data, tmp_path).run()


def test_an_epoch_with_captions_all_alike_is_no_better(tmp_path, data, no_steps, monkeypatch):
    found = iter([(1.0, PHOTOS // 2), (9.0, PHOTOS // 2 - 1), (2.0, PHOTOS // 2)])
    monkeypatch.setattr(Validation, "measure", lambda _: next(found))
    Trainer(tiny({"epochs": 3, "patience": 3, "least_distinct": 0.5}, {"epochs": 0}), data, data, tmp_path).run()
    assert (state_of(tmp_path)["best_epoch"], state_of(tmp_path)["best_score"]) == (3, 2.0)


@pytest.mark.parametrize("mirror", [False, True])
def test_photos_are_trained_with_their_own_captions(tmp_path, data, monkeypatch, no_steps, mirror):
    epochs = []

    def collected(training, state):
        epochs.append(list(training.batches(state.epoch, 0)))
        return state

    monkeypatch.setattr(PhaseTraining, "run_epoch", collected)
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
    loss = losses.SmoothedLoss(smoothing).call(ops.convert_to_tensor(targets), ops.convert_to_tensor(logits))
    np.testing.assert_allclose(loss, -(labels * logs).sum(axis=-1), rtol=1e-5)


def test_self_critical_loss_is_among_the_words_that_can_be_written():
    logits = np.random.default_rng(0).normal(size=(2, 6)).astype("float32")
    loss = losses.WrittenLoss().call(np.array([END, 4]), ops.convert_to_tensor(logits))
    written = np.exp(logits[:, [END, 4, 5]])
    np.testing.assert_allclose(loss, -np.log(written[[0, 1], [0, 1]] / written.sum(axis=1)), rtol=1e-5)
    # What can't be written weighs nothing, however probable it is.
    logits[:, [PAD, START, UNKNOWN]] += 50
    np.testing.assert_allclose(losses.WrittenLoss().call(np.array([END, 4]), ops.convert_to_tensor(logits)), loss)


def test_only_matrices_decay(tmp_path, data):
    decoder = Trainer(tiny(), data, data, tmp_path)._network(dropout=0.0)
    for variable in decoder.trainable_variables:
        variable.assign(ops.ones_like(variable))
    chosen = tiny({"weight_decay": 0.5, "learning_rate": 0.01}).cross_entropy
    optimizer = optimizers.of(chosen, 10, decoder)
    optimizer.apply([ops.zeros_like(v) for v in decoder.trainable_variables], decoder.trainable_variables)
    for variable in decoder.trainable_variables:
        expected = 0.995 if len(variable.shape) > 1 else 1.0
        np.testing.assert_allclose(variable, expected, rtol=1e-5, err_msg=variable.path)


def test_an_encoder_is_trained_then_left_alone(tmp_path, images):
    chosen = finetuned({"epochs": 1, "dropout": 0.1}, {"epochs": 1, "mirror": True})
    start = encoders.build(chosen.encoder)
    trainer = Trainer(chosen, images, images, tmp_path / "training")
    encoder, decoder = trainer.run()
    assert not encoder.trainable_variables
    moved = {
        variable.path: float(np.abs(np.asarray(variable) - np.asarray(old)).max())
        for variable, old in zip(encoder.variables, start.variables, strict=True)
    }
    names = [layer.name for layer in encoder.layers]
    trained = names[names.index(TRAINED.trained_from) :]
    for path, distance in moved.items():
        layer = path.split("/")[-2]
        # Normalisation keeps its statistics and its scale.
        assert (distance > 0) == (layer in trained and "bn" not in layer), path
    # The second phase trained the decoder alone, on features that the trained encoder made once.
    state = state_of(tmp_path / "training")
    assert (state["phase"], state["epoch"]) == ("self_critical", 1)
    features = dataclasses.replace(
        images, folder=tmp_path / "training" / "features" / "training", store="features", shape=SHAPE, flip=True
    )
    made = np.concatenate(list(features.features(50).as_numpy_iterator()))
    photos = np.concatenate(list(images.features(50).as_numpy_iterator()))
    best = trainer._network(dropout=0.0)
    best.load_weights(tmp_path / "training" / state["best_weights"])
    np.testing.assert_allclose(made, best.photo_encoder.predict_on_batch(photos), rtol=1e-2, atol=1e-2)

    # What it makes is a bundle that another training can start from.
    with bundle.BundleWriter(tmp_path / "bundle") as writer:
        writer.add_model(chosen, encoder, decoder, trainer.vocabulary)
        writer.add_metrics({}, "")
    again = Trainer(chosen, images, images, tmp_path / "again", start=tmp_path / "bundle")
    assert again.vocabulary.words == trainer.vocabulary.words
    network = again._network(dropout=0.0)
    for restored, trained_model in ((network.photo_encoder, encoder), (network.caption_decoder, decoder)):
        for one, other in zip(restored.get_weights(), trained_model.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_the_encoder_learns_at_its_own_rate(tmp_path, images):
    chosen = finetuned({"learning_rate": 0.01, "encoder_learning_rate": 0.001, "weight_decay": 0.5})
    network = Trainer(chosen, images, images, tmp_path)._network(dropout=0.0)
    encoders.train_last_layers(network.photo_encoder, chosen.encoder.trained_from)
    encoder = {id(variable) for variable in network.photo_encoder.trainable_variables}
    before = [np.asarray(variable) for variable in network.trainable_variables]
    optimizer = optimizers.of(chosen.cross_entropy, 10, network)

    @tf.function
    def step():
        optimizer.apply([ops.ones_like(v) for v in network.trainable_variables], network.trainable_variables)

    step()
    assert 0 < len(encoder) < len(before)
    for variable, old in zip(network.trainable_variables, before, strict=True):
        # Adam's first step is the learning rate, whatever the gradient; an encoder's weights do not decay.
        decay = 0.005 * old if len(old.shape) > 1 and id(variable) not in encoder else 0.0
        rate = 0.001 if id(variable) in encoder else 0.01
        np.testing.assert_allclose(np.asarray(variable), old - decay - rate, atol=2e-5, err_msg=variable.path)


def test_learning_rate_warms_up_and_falls_to_its_last_share(tmp_path, data):
    decoder = Trainer(tiny(), data, data, tmp_path)._network(dropout=0.0)
    chosen = tiny({"epochs": 3, "warmup_steps": 5, "learning_rate": 0.01, "final_learning_rate": 0.1}).cross_entropy
    optimizer = optimizers.of(chosen, 10, decoder)
    rates = []
    for step in range(31):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    assert rates[0] == 0
    assert rates[5] == pytest.approx(0.01) == max(rates)
    assert rates[:6] == sorted(rates[:6]) and rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[30] == pytest.approx(0.001)
