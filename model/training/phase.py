"""One phase of a training: epochs of steps, each epoch validated, logged and checkpointed."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import keras
import numpy as np

from beamscribe.model.decoders.base import Decoder
from beamscribe.model.progress_display import Display
from beamscribe.model.recipe import Phase
from beamscribe.model.training.checkpoints import Checkpoints, TrainingState
from beamscribe.model.training.tensorboard import Log
from beamscribe.model.training.validation import Validation

_LOGGER = logging.getLogger(__name__)

# A crash costs at most so much of an epoch.
_CHECKPOINT_SECONDS = 300

Batches: TypeAlias = Callable[[int, int], Iterator[tuple]]
"""From an epoch and a step of it to the batches of that epoch from that step on: inputs, targets and weights."""


@dataclasses.dataclass(frozen=True)
class PhaseTraining:
    """Trains one phase.

    Attributes:
      phase: the recipe's.
      seed: the recipe's.
      steps: of an epoch.
      network: what checkpoints hold.
      trained: the part of the network that is trained, or all of it; compiled.
      batches: what it is trained on.
      validation: of the captions of `trained`.
      checkpoints: where to keep the state and the weights.
    """

    phase: Phase
    seed: int
    steps: int
    network: Decoder
    trained: Decoder
    batches: Batches
    validation: Validation
    checkpoints: Checkpoints

    def run(self, state: TrainingState) -> TrainingState:
        """Trains what is left of the phase; `state` is that of `network`."""
        with Log(self.checkpoints.folder / "logs" / state.phase) as log:
            while state.epoch < self.phase.epochs and state.epoch - state.best_epoch < self.phase.patience:
                state = self.run_epoch(state)
                state = self.validate(state)
                figures = state.history[-1]
                log.write(figures)
                _LOGGER.info(
                    "%s validation CIDEr %.1f%s, %d distinct captions",
                    self._title(state.phase, state.epoch),
                    figures["validation_cider"],
                    " (best)" if state.best_epoch == state.epoch else "",
                    figures["validation_distinct"],
                )
        return state

    def run_epoch(self, state: TrainingState) -> TrainingState:
        """Trains what is left of an epoch; shows how far it is, and writes a checkpoint every few minutes."""
        saved = last = time.monotonic()
        with Display(self.steps, "step", done=self._title(state.phase, state.epoch + 1)) as display:
            _reseed(self.trained, self.seed, state)
            for inputs, targets, weights in self.batches(state.epoch, state.step):
                loss = float(self.trained.train_on_batch(inputs, targets, sample_weight=weights))
                now = time.monotonic()
                state = state.after_step(loss, now - last)
                last = now
                display.show(state.step, note=f"loss {state.loss / state.step:.3f}")
                if state.step < self.steps and now - saved > _CHECKPOINT_SECONDS:
                    state = self.checkpoints.save(state, self.network)
                    saved = now
                _reseed(self.trained, self.seed, state)
        return state

    def _title(self, name: str, epoch: int) -> str:
        return f"{name}, epoch {epoch} of {self.phase.epochs}:"

    def validate(self, state: TrainingState) -> TrainingState:
        """Ends an epoch: scores its captions, and writes a checkpoint of it.

        It is the averaged weights that are validated, and kept where they are the best. Training goes on from those
        that are not averaged.
        """
        current = self.trained.get_weights()
        self.trained.optimizer.finalize_variable_values(self.trained.trainable_variables)
        score, distinct = self.validation.measure()
        figures = {"loss": state.loss / self.steps, "validation_cider": score, "validation_distinct": distinct}
        state = state.after_epoch(figures)
        varied = distinct >= self.phase.least_distinct * self.validation.photos
        if varied and (state.best_score is None or score > state.best_score):
            state = self.checkpoints.save_best(state, self.network, score)
        self.trained.set_weights(current)
        return self.checkpoints.save(state, self.network)


def _reseed(network: Decoder, seed: int, state: TrainingState) -> None:
    """Makes a step's dropout depend on nothing but its place, as checkpoints do not keep the generators' states."""
    for place, variable in enumerate(random_states(network)):
        generator = np.random.default_rng((seed, state.epoch, state.step, place))
        variable.assign(generator.integers(2**31, size=2).astype(variable.dtype))


def random_states(network: keras.Model) -> list[keras.Variable]:
    """The states of a network's random generators, those of dropout: what it has beside its weights."""
    weights = {id(weight) for weight in network.weights}
    return [variable for variable in network.variables if id(variable) not in weights]
