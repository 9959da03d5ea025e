"""Checkpoints: how far a training is, and its weights, in a folder from which the training goes on."""

from pathlib import Path
from typing import Any, ClassVar, Self

from beamscribe.model.decoders.base import Decoder
from beamscribe.model.documents import Document
from beamscribe.model.errors import BeamscribeError, InputError, one_line
from beamscribe.model.recipe import Recipe

STATE = "state.json"
_WEIGHTS = ".weights.h5"


class TrainingState(Document):
    """How far a training is: the content of `state.json`, which is kept beside the checkpoints.

    Attributes:
      phase: name of the phase, a field of the recipe.
      recipe: the fields of the recipe that is trained.
      data: digest of the photos, the captions and the words that it is trained with, and of what it started from.
      epoch: epochs of the phase that are done.
      step: steps of the next epoch that are done.
      loss: sum of their losses.
      seconds: what they took.
      best_score: best validation CIDEr of all phases so far, × 100; None or -∞ where no epoch is kept yet.
      best_epoch: the epoch of the phase that reached it; 0 where none is better than the phase before.
      weights: checkpoint file of the model and the optimizer; None where the phase has none yet.
      best_weights: checkpoint file of the best averaged weights of all phases; None where none are kept yet.
      history: figures of each epoch of all phases.
    """

    REMEDY: ClassVar[str] = "delete its folder to train anew"

    phase: str
    recipe: dict[str, Any]
    data: str = ""
    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    best_score: float | None = None
    best_epoch: int = 0
    weights: str | None = None
    best_weights: str | None = None
    history: tuple[dict[str, Any], ...] = ()

    def in_phase(self, phase: str) -> Self:
        """The state before a phase's first step. The best score stays: what a phase makes worse is not kept."""
        return self.model_copy(update={"phase": phase, "epoch": 0, "best_epoch": 0, "weights": None})

    def after_step(self, loss: float, seconds: float) -> Self:
        """The state after one more step."""
        done = {"step": self.step + 1, "loss": self.loss + loss, "seconds": self.seconds + seconds}
        return self.model_copy(update=done)

    def after_epoch(self, figures: dict[str, Any]) -> Self:
        """The state after the epoch whose steps are done.

        Args:
          figures: what the validation found, for the history.
        """
        done = {"phase": self.phase, "epoch": self.epoch + 1, **figures, "seconds": self.seconds}
        new = {"epoch": self.epoch + 1, "step": 0, "loss": 0.0, "seconds": 0.0, "history": (*self.history, done)}
        return self.model_copy(update=new)


class Checkpoints:
    """A folder of checkpoints: `state.json`, and the weights that it names.

    Args:
      folder: made where it is not there.

    Raises:
      BeamscribeError: the folder can't be made.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BeamscribeError(f"can't write checkpoints to {folder}: {one_line(error)}") from None

    def restore(self, recipe: Recipe, data: str) -> TrainingState | None:
        """Reads the state of the training that the folder holds; None where there is none.

        Args:
          recipe: the recipe that is trained.
          data: digest of what it is trained with.

        Raises:
          InputError: the state is of a training of another recipe or on other data.
          BeamscribeError: the state can't be read.
        """
        path = self.folder / STATE
        try:
            state = TrainingState.from_json(path.read_bytes(), str(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BeamscribeError(f"the checkpoints in {self.folder} can't be read: {one_line(error)}") from None
        if state.recipe != recipe.model_dump():
            raise InputError(f"{self.folder} holds a training of another recipe; delete it or choose another folder")
        if state.data != data:
            raise InputError(
                f"{self.folder} holds a training on other data, or from other weights; "
                "delete it or choose another folder"
            )
        return state

    def load(self, network: Decoder, weights: str) -> None:
        """Gives a network, and its optimizer where it has one, what a file of the folder holds."""
        network.load_weights(self.folder / weights)

    def save(self, state: TrainingState, network: Decoder) -> TrainingState:
        """Writes the weights of a network and its optimizer, then the state, which is returned.

        Weights that neither the state nor the best epoch needs are deleted.
        """
        name = f"{state.phase}-{state.epoch:03d}-{state.step:05d}{_WEIGHTS}"
        network.save_weights(self.folder / name)
        state = state.model_copy(update={"weights": name})
        temporary = self.folder / f".{STATE}"
        temporary.write_bytes(state.to_json())
        # The state is what counts: no training goes on from files that it does not name.
        temporary.replace(self.folder / STATE)
        for path in self.folder.glob(f"*{_WEIGHTS}"):
            if path.name not in (state.weights, state.best_weights):
                path.unlink()
        return state

    def save_best(self, state: TrainingState, network: Decoder, score: float) -> TrainingState:
        """Writes the weights of a network as the best so far, and returns the state that names them."""
        name = f"best-{state.phase}-{state.epoch:03d}{_WEIGHTS}"
        network.save_weights(self.folder / name)
        return state.model_copy(update={"best_score": score, "best_epoch": state.epoch, "best_weights": name})
