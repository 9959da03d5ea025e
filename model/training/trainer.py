"""Trains a recipe from prepared data: phases of epochs, validated, checkpointed and resumable."""

import collections
import dataclasses
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from beamscribe.model import bundle, decoders, encoders
from beamscribe.model.decoders.base import Decoder
from beamscribe.model.errors import UserError
from beamscribe.model.recipe import CrossEntropy, Recipe, SelfCritical
from beamscribe.model.search import BeamSearch, Rules, Sampler
from beamscribe.model.training import optimizers, self_critical
from beamscribe.model.training.cider import CiderD
from beamscribe.model.training.dataset import Dataset, encoded, training_ids
from beamscribe.model.training.devices import Devices
from beamscribe.model.training.losses import SmoothedLoss, WrittenLoss
from beamscribe.model.training.photo_decoder import PhotoDecoder
from beamscribe.model.words import embeddings
from beamscribe.model.words.vocabulary import PAD, Vocabulary

_VALIDATION_BATCH = 50
_STATE = "state.json"


# A crash costs at most so much of an epoch.
_CHECKPOINT_SECONDS = 300


@dataclasses.dataclass
class State:
    """How far a training is; kept beside the checkpoints.

    Attributes:
      phase: name of the phase, a field of the recipe.
      epoch: epochs of it that are done.
      step: steps of the next epoch that are done.
      loss: sum of their losses.
      seconds: what they took.
      best_score: best validation CIDEr of all phases so far, × 100.
      best_epoch: the epoch of the phase that reached it; 0 where none is better than the phase before.
      weights: checkpoint file of the model and the optimizer.
      best_weights: checkpoint file of the best averaged weights of all phases.
      history: figures of each epoch of all phases.
      recipe: the fields of the recipe that is trained.
      data: digest of the photos, the captions and the words that it is trained with, and of what it started from.
    """

    phase: str
    recipe: dict[str, Any]
    data: str = ""
    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    best_score: float = float("-inf")
    best_epoch: int = 0
    weights: str | None = None
    best_weights: str | None = None
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


class Trainer:
    """Trains one recipe on one dataset, in a folder of checkpoints from which the same call goes on.

    Args:
      recipe: what to train.
      training, validation: prepared splits.
      folder: of checkpoints and TensorBoard logs; made where it is not there.
      start: bundle whose weights and words to start from, instead of random ones and the words of the captions.
      devices: what to train on; one GPU where there is one.

    Raises:
      UserError: there are no words to learn, the word vectors that the recipe names can't be had, or `start` is no
        bundle.
    """

    def __init__(
        self,
        recipe: Recipe,
        training: Dataset,
        validation: Dataset,
        folder: Path,
        start: Path | None = None,
        devices: Devices | None = None,
    ):
        self._recipe, self._training, self._validation, self._folder = recipe, training, validation, folder
        self._start, self._devices = start, devices or Devices()
        tokens = training.tokens()
        words = collections.Counter(word for captions in tokens for caption in captions for word in caption)
        began = ""
        if start:
            began = bundle.describe(start).fingerprint
            self.vocabulary = Vocabulary.load(start / bundle.VOCABULARY)
        else:
            self.vocabulary = Vocabulary.from_counts(words, recipe.words.min_count)
        if not self.vocabulary.written():
            raise UserError(
                f"no word stands {recipe.words.min_count} times in the captions of {training.folder}: "
                "give more captions, or lower words.min_count; words must be separated by spaces"
            )
        learned = [began, self.vocabulary.words, *((d.photos, d.captions) for d in (training, validation))]
        self._data = hashlib.sha256(json.dumps(learned).encode()).hexdigest()[:16]
        self._vectors = None
        if recipe.words.embedding != "learned":
            vectors = embeddings.load(recipe.words.embedding, self.vocabulary.words, recipe.seed)
            known = {word: words[word] for word in self.vocabulary.written()}
            print(embeddings.coverage(vectors, known), flush=True)
            self._vectors = vectors.matrix
        self._inputs, self._targets = training_ids(tokens, self.vocabulary, recipe.words.max_words)
        self._judge = CiderD(validation.tokens())

    def run(self) -> tuple[keras.Model, Decoder]:
        """Trains all phases, or what is left of them; returns the encoder, and the decoder with the best weights."""
        phases = self._recipe.phases
        for name, phase in phases.items():
            self._check_steps(name, phase)
        state = self._restore()
        # Before the training, since its weights may not be had.
        frozen = None if self._training.store == "images" else encoders.build(self._recipe.encoder)
        names = list(phases)
        for name in names[names.index(state.phase) if state.phase in names else 0 :]:
            if name != state.phase:
                # The best score stays: what a phase makes worse is not kept.
                state = dataclasses.replace(state, phase=name, epoch=0, best_epoch=0, weights=None)
            state = self._run_phase(state, phases[name])
        if not state.best_weights:
            raise UserError("no epoch's captions are varied enough to be kept; train longer or lower least_distinct")
        network = self._network(dropout=0.0)
        network.load_weights(self._folder / state.best_weights)
        if isinstance(network, PhotoDecoder):
            network.photo_encoder.trainable = False
            return network.photo_encoder, network.caption_decoder
        return frozen, network

    def _check_steps(self, name: str, phase: Any) -> None:
        if len(self._training.photos) < phase.photos_per_step:
            raise UserError(
                f"{self._training.folder} has {len(self._training.photos)} photos, "
                f"fewer than {name}.photos_per_step, {phase.photos_per_step}"
            )
        if phase.photos_per_step % self._devices.count:
            raise UserError(
                f"{name}.photos_per_step is {phase.photos_per_step}: "
                f"it must be a multiple of the devices, {self._devices.count}"
            )

    def _run_phase(self, state: State, phase: Any) -> State:
        steps = len(self._training.photos) // phase.photos_per_step
        with self._devices.scope():
            network = self._network(phase.dropout)
            if state.best_weights:
                network.load_weights(self._folder / state.best_weights)
            trained, training, validation = self._trained_part(network, phase)
            trained.compile(
                optimizer=optimizers.of(phase, steps, trained),
                loss=SmoothedLoss(phase.label_smoothing) if isinstance(phase, CrossEntropy) else WrittenLoss(),
            )
        self._devices.share_steps(trained)
        if state.weights:
            trained.optimizer.build(trained.trainable_variables)
            network.load_weights(self._folder / state.weights)
        batches: Callable[[int, int], Iterator[tuple]]
        if isinstance(phase, CrossEntropy):
            batches = self._cross_entropy(training, phase)
        else:
            batches = self._self_critical(training, trained, phase)
        search = BeamSearch(trained, beam_width=1, rules=self._rules)
        with _Log(self._folder / "logs" / state.phase) as log:
            while state.epoch < phase.epochs and state.epoch - state.best_epoch < phase.patience:
                state = self._run_epoch(state, phase, network, trained, batches, steps)
                current = trained.get_weights()
                trained.optimizer.finalize_variable_values(trained.trainable_variables)
                score, distinct = self._validate(search, validation)
                varied = distinct >= phase.least_distinct * len(validation.photos)
                figures = {
                    "phase": state.phase,
                    "epoch": state.epoch + 1,
                    "loss": state.loss / steps,
                    "validation_cider": score,
                    "validation_distinct": distinct,
                    "seconds": state.seconds,
                }
                history = [*state.history, figures]
                state = dataclasses.replace(
                    state, epoch=state.epoch + 1, step=0, loss=0.0, seconds=0.0, history=history
                )
                state = self._save_best(state, network, score, varied)
                trained.set_weights(current)
                state = self._checkpoint(state, network)
                log.write(state.history[-1])
                mark = " (best)" if state.best_epoch == state.epoch else ""
                print(f"  validation CIDEr {score:.1f}{mark}, {distinct} distinct captions", flush=True)
        return state

    def _trained_part(self, network: Decoder, phase: Any) -> tuple[Decoder, Dataset, Dataset]:
        """What a phase trains, and the data for it: where it leaves the encoder alone, photos are encoded only once."""
        if not isinstance(network, PhotoDecoder):
            return network, self._training, self._validation
        if phase.encoder_learning_rate:
            assert self._recipe.encoder.trained_from is not None
            encoders.train_last_layers(network.photo_encoder, self._recipe.encoder.trained_from)
            return network, self._training, self._validation
        encoder = network.photo_encoder
        training = encoded(self._training, encoder, self._folder / "features" / "training", phase.mirror)
        validation = encoded(self._validation, encoder, self._folder / "features" / "validation", mirror=False)
        return network.caption_decoder, training, validation

    def _run_epoch(
        self,
        state: State,
        phase: Any,
        network: Decoder,
        trained: Decoder,
        batches: Callable[[int, int], Iterator[tuple]],
        steps: int,
    ) -> State:
        """Trains what is left of an epoch, with a progress bar and checkpoints."""
        from tqdm import tqdm

        saved = last = time.monotonic()
        title = f"{state.phase} {state.epoch + 1}/{phase.epochs}"
        with tqdm(total=steps, initial=state.step, desc=title, unit="step", mininterval=1.0) as bar:
            _reseed(trained, self._recipe.seed, state.epoch, state.step)
            for inputs, targets, weights in batches(state.epoch, state.step):
                loss = float(trained.train_on_batch(inputs, targets, sample_weight=weights))
                now = time.monotonic()
                state = dataclasses.replace(
                    state, step=state.step + 1, loss=state.loss + loss, seconds=state.seconds + now - last
                )
                last = now
                bar.set_postfix(loss=f"{state.loss / state.step:.3f}", refresh=False)
                bar.update()
                if state.step < steps and now - saved > _CHECKPOINT_SECONDS:
                    state = self._checkpoint(state, network)
                    saved = now
                _reseed(trained, self._recipe.seed, state.epoch, state.step)
        return state

    @property
    def _rules(self) -> Rules:
        return Rules(max_length=self._recipe.words.max_words)

    def _network(self, dropout: float) -> Decoder:
        """The recipe's network with the weights that training starts from."""
        keras.utils.set_random_seed(self._recipe.seed)
        encoder = encoders.build(self._recipe.encoder) if self._training.store == "images" else None
        grid = encoder.output_shape[1:] if encoder else self._training.shape
        decoder = decoders.build(self._recipe, len(self.vocabulary), grid, dropout, self._vectors)
        if self._start:
            bundle.restore(self._start, encoder, decoder)
        return PhotoDecoder(encoder, decoder) if encoder else decoder

    def _cross_entropy(self, data: Dataset, phase: CrossEntropy) -> Callable[[int, int], Iterator[tuple]]:
        def batches(epoch: int, start: int) -> Iterator[tuple]:
            for step, (features, places) in enumerate(self._examples(data, phase, epoch, start), start):
                inputs, targets = self._inputs[places], self._targets[places]
                # Elsewhere a photo may have more captions than all of these, and the rows for them are empty here.
                most = int((targets[..., 0] != PAD).sum(axis=1).max())
                inputs, targets = inputs[:, :most], targets[:, :most]
                if phase.captions:
                    generator = np.random.default_rng((self._recipe.seed, epoch, step))
                    chosen = self_critical.choose(targets, phase.captions, generator)
                    inputs, targets = (np.take_along_axis(ids, chosen[..., None], axis=1) for ids in (inputs, targets))
                weights = self_critical.mean_weights(targets) * targets.size
                yield (np.asarray(features), inputs), targets, weights

        return batches

    def _self_critical(
        self, data: Dataset, network: Decoder, phase: SelfCritical
    ) -> Callable[[int, int], Iterator[tuple]]:
        reward = CiderD(self_critical.References(self._targets))
        with self._devices.scope():
            sampler = Sampler(network, self._rules)
        self._devices.share_steps(sampler)

        def batches(epoch: int, start: int) -> Iterator[tuple]:
            examples = self._examples(data, phase, epoch, start)
            generators = (np.random.default_rng((self._recipe.seed, epoch, step)) for step in itertools.count(start))
            return self_critical.batches(examples, sampler, self._targets, reward, phase, generators)

        return batches

    def _examples(self, data: Dataset, phase: Any, epoch: int, start: int) -> Iterable[tuple]:
        """Batches of an epoch, from the step `start` on."""
        seed = self._recipe.seed * 1000 + epoch
        return data.examples(phase.photos_per_step, phase.mirror, seed).skip(start).as_numpy_iterator()

    def _validate(self, search: BeamSearch, data: Dataset) -> tuple[float, int]:
        """Greedy captions' CIDEr-D × 100, and how many of them are distinct."""
        ids, _ = search.predict(data.features(_VALIDATION_BATCH), verbose=0)
        captions = [tuple(self.vocabulary.decode(rows[0])) for rows in ids]
        return 100 * self._judge.mean(captions), len(set(captions))

    def _save_best(self, state: State, network: Decoder, score: float, varied: bool) -> State:
        if score <= state.best_score or not varied:
            return state
        name = f"best-{state.phase}-{state.epoch:03d}.weights.h5"
        network.save_weights(self._folder / name)
        return dataclasses.replace(state, best_score=score, best_epoch=state.epoch, best_weights=name)

    def _checkpoint(self, state: State, network: Decoder) -> State:
        name = f"{state.phase}-{state.epoch:03d}-{state.step:05d}.weights.h5"
        network.save_weights(self._folder / name)
        state = dataclasses.replace(state, weights=name)
        temporary = self._folder / f".{_STATE}"
        temporary.write_text(json.dumps(dataclasses.asdict(state), indent=2), encoding="utf-8")
        # The state is what counts: files that it does not name are of no use any more.
        temporary.replace(self._folder / _STATE)
        for path in self._folder.glob("*.weights.h5"):
            if path.name not in (state.weights, state.best_weights):
                path.unlink()
        return state

    def _restore(self) -> State:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"can't write checkpoints to {self._folder}: {error.strerror}") from None
        recipe = self._recipe.model_dump()
        try:
            state = State(**json.loads((self._folder / _STATE).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return State(phase="cross_entropy", recipe=recipe, data=self._data)
        except OSError as error:
            raise UserError(f"the checkpoints in {self._folder} can't be read: {error.strerror}") from None
        if state.recipe != recipe:
            raise UserError(f"{self._folder} holds a training of another recipe; delete it or choose another folder")
        if state.data != self._data:
            raise UserError(
                f"{self._folder} holds a training on other data, or from other weights; "
                "delete it or choose another folder"
            )
        print(f"going on after epoch {state.epoch} of {state.phase}", flush=True)
        return state


def _reseed(network: Decoder, seed: int, epoch: int, step: int) -> None:
    """Makes a step's dropout depend on nothing but its place, as checkpoints do not keep the generators' states."""
    states = [v for v in network.non_trainable_variables if "seed_generator" in v.path]
    for place, state in enumerate(states):
        state.assign(np.random.default_rng((seed, epoch, step, place)).integers(2**31, size=2).astype(state.dtype))


class _Log:
    """TensorBoard logs of one phase."""

    def __init__(self, folder: Path):
        import tensorflow as tf

        self._summary = tf.summary
        self._writer = tf.summary.create_file_writer(str(folder))

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, figures: Mapping[str, Any]) -> None:
        """Writes the figures of an epoch, as they are in the history."""
        with self._writer.as_default(figures["epoch"]):
            for name, figure in figures.items():
                if isinstance(figure, float | int) and name != "epoch":
                    self._summary.scalar(name, figure)
