"""Trains a recipe from prepared data: phases of epochs, validated, checkpointed and resumable."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from model import decoders, self_critical
from model.cider import CiderD
from model.dataset import Dataset, training_ids
from model.errors import UserError
from model.recipe import CrossEntropy, Recipe, SelfCritical
from model.search import BeamSearch, Sampler
from model.vocabulary import Vocabulary

_VALIDATION_BATCH = 50
_STATE = "state.json"


@dataclasses.dataclass
class State:
    """How far a training is; kept beside the checkpoints.

    Attributes:
      phase: name of the phase, a field of the recipe.
      epoch: epochs of it that are done.
      best_score: best validation CIDEr of all phases so far, × 100.
      best_epoch: the epoch of the phase that reached it; 0 where none is better than the phase before.
      weights: checkpoint file of the model and the optimizer.
      best_weights: checkpoint file of the best averaged weights of all phases.
      recipe: the fields of the recipe that is trained.
    """

    phase: str
    recipe: dict[str, Any]
    epoch: int = 0
    best_score: float = float("-inf")
    best_epoch: int = 0
    weights: str | None = None
    best_weights: str | None = None


class Trainer:
    """Trains one recipe on one dataset, in a folder of checkpoints from which the same call goes on.

    Args:
      recipe: what to train.
      training, validation: prepared splits.
      folder: of checkpoints and TensorBoard logs; made where it is not there.
    """

    def __init__(self, recipe: Recipe, training: Dataset, validation: Dataset, folder: Path):
        self._recipe, self._training, self._validation, self._folder = recipe, training, validation, folder
        tokens = training.tokens()
        self.vocabulary = Vocabulary.from_captions(
            (caption for captions in tokens for caption in captions), recipe.words.min_count
        )
        self._inputs, self._targets = training_ids(tokens, self.vocabulary, recipe.words.max_words)
        self._judge = CiderD(validation.tokens())

    def run(self) -> keras.Model:
        """Trains all phases, or what is left of them, and returns the decoder with the best weights."""
        state = self._restore()
        phases: dict[str, CrossEntropy | SelfCritical | None] = {
            "cross_entropy": self._recipe.cross_entropy,
            "self_critical": self._recipe.self_critical,
        }
        names = [name for name, phase in phases.items() if phase is not None and phase.epochs]
        for name in names[names.index(state.phase) if state.phase in names else 0 :]:
            if name != state.phase:
                # The best score stays: what a phase makes worse is not kept.
                state = dataclasses.replace(state, phase=name, epoch=0, best_epoch=0, weights=None)
            state = self._run_phase(state, phases[name])
        if not state.best_weights:
            raise UserError("no epoch's captions are varied enough to be kept; train longer or lower least_distinct")
        decoder = self._decoder(dropout=0.0)
        decoder.load_weights(self._folder / state.best_weights)
        return decoder

    def _run_phase(self, state: State, phase: Any) -> State:
        steps = len(self._training.photos) // phase.photos_per_step
        if not steps:
            raise UserError(
                f"{self._training.folder} has {len(self._training.photos)} photos, "
                f"fewer than {state.phase}.photos_per_step, {phase.photos_per_step}"
            )
        decoder = self._decoder(phase.dropout)
        if state.best_weights:
            decoder.load_weights(self._folder / state.best_weights)
        decoder.compile(
            optimizer=_optimizer(phase, steps, decoder),
            loss=_Loss(phase.label_smoothing if isinstance(phase, CrossEntropy) else 0.0),
        )
        if state.weights:
            decoder.optimizer.build(decoder.trainable_variables)
            decoder.load_weights(self._folder / state.weights)
        batches = self._cross_entropy(phase) if isinstance(phase, CrossEntropy) else self._self_critical(decoder, phase)
        search = BeamSearch(decoder, beam_width=1, max_length=self._recipe.words.max_words)
        with _Log(self._folder / "logs" / state.phase) as log:
            while state.epoch < phase.epochs and state.epoch - state.best_epoch < phase.patience:
                _reseed(decoder, self._recipe.seed, state.epoch)
                loss = _run_epoch(
                    decoder, batches(state.epoch), steps, f"{state.phase} {state.epoch + 1}/{phase.epochs}"
                )
                current = decoder.get_weights()
                decoder.optimizer.finalize_variable_values(decoder.trainable_variables)
                score, distinct = self._validate(search)
                varied = distinct >= phase.least_distinct * len(self._validation.photos)
                state = self._save_best(state, decoder, score, varied)
                decoder.set_weights(current)
                state = self._checkpoint(state, decoder)
                log.write(state.epoch, loss=loss, validation_cider=score, validation_distinct=distinct)
                mark = " (best)" if state.best_epoch == state.epoch else ""
                print(f"  validation CIDEr {score:.1f}{mark}, {distinct} distinct captions", flush=True)
        return state

    def _decoder(self, dropout: float) -> keras.Model:
        keras.utils.set_random_seed(self._recipe.seed)
        return decoders.build(self._recipe, len(self.vocabulary), self._training.shape, dropout)

    def _cross_entropy(self, phase: CrossEntropy) -> Callable[[int], Iterator[tuple]]:
        def batches(epoch: int) -> Iterator[tuple]:
            for features, places in self._examples(phase, epoch):
                targets = self._targets[places]
                weights = self_critical.mean_weights(targets) * targets.size
                yield (np.asarray(features), self._inputs[places]), targets, weights

        return batches

    def _self_critical(self, decoder: keras.Model, phase: SelfCritical) -> Callable[[int], Iterator[tuple]]:
        reward = CiderD([self_critical.sentences(references) for references in self._targets])

        def batches(epoch: int) -> Iterator[tuple]:
            seed = self._recipe.seed + epoch
            sampler = Sampler(decoder, phase.samples, self._recipe.words.max_words, seed)
            examples = self._examples(phase, epoch)
            generator = np.random.default_rng(seed)
            return self_critical.batches(examples, sampler, self._targets, reward, phase, generator)

        return batches

    def _examples(self, phase: Any, epoch: int) -> Iterable[tuple]:
        seed = self._recipe.seed * 1000 + epoch
        return self._training.examples(phase.photos_per_step, phase.mirror, seed).as_numpy_iterator()

    def _validate(self, search: BeamSearch) -> tuple[float, int]:
        """Greedy captions' CIDEr-D × 100, and how many of them are distinct."""
        ids, _ = search.predict(self._validation.features(_VALIDATION_BATCH), verbose=0)
        captions = [tuple(self.vocabulary.decode(rows[0])) for rows in ids]
        return 100 * self._judge.mean(captions), len(set(captions))

    def _save_best(self, state: State, decoder: keras.Model, score: float, varied: bool) -> State:
        state = dataclasses.replace(state, epoch=state.epoch + 1)
        if score <= state.best_score or not varied:
            return state
        name = f"best-{state.phase}-{state.epoch:03d}.weights.h5"
        decoder.save_weights(self._folder / name)
        return dataclasses.replace(state, best_score=score, best_epoch=state.epoch, best_weights=name)

    def _checkpoint(self, state: State, decoder: keras.Model) -> State:
        name = f"{state.phase}-{state.epoch:03d}.weights.h5"
        decoder.save_weights(self._folder / name)
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
        self._folder.mkdir(parents=True, exist_ok=True)
        recipe = self._recipe.model_dump()
        try:
            state = State(**json.loads((self._folder / _STATE).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return State(phase="cross_entropy", recipe=recipe)
        if state.recipe != recipe:
            raise UserError(f"{self._folder} holds a training of another recipe; delete it or choose another folder")
        print(f"going on after epoch {state.epoch} of {state.phase}", flush=True)
        return state


class _Loss(keras.losses.Loss):
    """Cross-entropy of each id, with label smoothing (Szegedy et al. 2016, section 7)."""

    def __init__(self, label_smoothing: float):
        super().__init__(name="cross_entropy")
        self._smoothing = label_smoothing

    def call(self, y_true, y_pred):
        if not self._smoothing:
            return ops.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        # Dense targets, for TensorFlow's fused loss: a sum of separate terms takes a third of the step's time.
        size = y_pred.shape[-1]
        targets = (1 - self._smoothing) * ops.one_hot(y_true, size, dtype=y_pred.dtype) + self._smoothing / size
        return ops.categorical_crossentropy(targets, y_pred, from_logits=True)


def _optimizer(phase: Any, steps: int, decoder: keras.Model) -> keras.optimizers.Optimizer:
    warm = phase.warmup_steps > 0
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warm else phase.learning_rate,
        decay_steps=max(phase.epochs * steps - phase.warmup_steps, 1),
        alpha=phase.final_learning_rate,
        warmup_target=phase.learning_rate if warm else None,
        warmup_steps=phase.warmup_steps,
    )
    optimizer = keras.optimizers.AdamW(
        schedule,
        beta_2=0.98,
        weight_decay=phase.weight_decay,
        global_clipnorm=phase.clip_norm,
        use_ema=phase.weight_average > 0,
        ema_momentum=phase.weight_average,
    )
    # Biases and normalisations are few and have no reason to be small.
    optimizer.exclude_from_weight_decay(var_list=[v for v in decoder.trainable_variables if len(v.shape) < 2])
    return optimizer


def _reseed(decoder: keras.Model, seed: int, epoch: int) -> None:
    """Makes an epoch's dropout depend on nothing but the epoch, as checkpoints do not keep the generators' states."""
    states = [v for v in decoder.non_trainable_variables if "seed_generator" in v.path]
    for place, state in enumerate(states):
        state.assign(np.random.default_rng((seed, epoch, place)).integers(2**31, size=2).astype(state.dtype))


def _run_epoch(decoder: keras.Model, batches: Iterable[tuple], steps: int, title: str) -> float:
    """Trains one epoch, with a progress bar; returns the mean loss."""
    from tqdm import tqdm

    total = 0.0
    with tqdm(total=steps, desc=title, unit="step", mininterval=1.0) as bar:
        for done, (inputs, targets, weights) in enumerate(batches, start=1):
            total += float(decoder.train_on_batch(inputs, targets, sample_weight=weights))
            bar.set_postfix(loss=f"{total / done:.3f}", refresh=False)
            bar.update()
    return total / max(steps, 1)


class _Log:
    """TensorBoard logs of one phase."""

    def __init__(self, folder: Path):
        import tensorflow as tf

        self._summary = tf.summary
        self._writer = tf.summary.create_file_writer(str(folder))
        self._started = time.monotonic()

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, epoch: int, **figures: float) -> None:
        """Writes the figures of an epoch, and its seconds."""
        now = time.monotonic()
        with self._writer.as_default(epoch):
            for name, figure in {**figures, "seconds": now - self._started}.items():
                self._summary.scalar(name, figure)
        self._started = now
