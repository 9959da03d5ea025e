"""What every decoder is: the interface that search, training and export use, and what all constructors take."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from beamscribe.model.tensors import Tensor

PACKAGE = "beamscribe"
"""The package under which Keras knows decoders and their layers: `beamscribe>TransformerDecoder`."""


class State(NamedTuple):
    """What a step needs to know of the photo and of the words before it; both are nests of tensors.

    Attributes:
      photo: made once a photo, `[batch, …]`; the same at every step, and never repeated for each beam.
      words: what the words so far left behind, `[batch, beams, …]`; its shapes never change from step to step.
    """

    photo: Any
    words: tuple


class Decoder(keras.Model):
    """Writes captions of features, a word at a time.

    All variables are there once the constructor has ended. A bundle and a checkpoint hold weights in the order and
    under the names in which constructors make them and keep them, so neither may change.

    Attributes:
      vocabulary_size, grid, slots, dropout: the arguments.

    Args:
      vocabulary_size: number of ids, specials included.
      grid: (height, width, channels) of the feature grid.
      slots: the largest number of positions: the words of the longest caption and the end token.
      dropout: share of activations dropped in training.
      model: the arguments of `keras.Model`: `name`, `trainable` and `dtype`.
    """

    def __init__(self, *, vocabulary_size: int, grid: Sequence[int], slots: int, dropout: float = 0.0, **model: Any):
        super().__init__(**model)
        self.vocabulary_size, self.grid, self.slots, self.dropout = vocabulary_size, tuple(grid), slots, dropout

    def get_config(self) -> dict[str, Any]:
        """The arguments that make a decoder of the same shapes. Its weights are saved beside them."""
        sizes = {"vocabulary_size": self.vocabulary_size, "grid": list(self.grid), "slots": self.slots}
        return {**super().get_config(), **sizes, "dropout": self.dropout}

    def call(self, inputs: tuple[Tensor, Tensor], training: bool = False) -> Tensor:
        """Predicts each next word of given captions (teacher forcing).

        Args:
          inputs: features `[batch, height, width, channels]`, float, and input ids `[batch, captions, length]`,
            int32, `length` at most `slots`; each row of ids starts with `START`.
          training: whether to drop activations.

        Returns:
          Logits `[batch, captions, length, vocabulary]`, float32. The ones at position i depend on no later id.
        """
        raise NotImplementedError

    def initial_state(self, features: Tensor, beams: Tensor) -> State:
        """The state before the first word: `beams` rows a photo.

        Args:
          features: `[batch, height, width, channels]`, float.
          beams: how many captions to write at once for each photo, a number or an int32 scalar.
        """
        raise NotImplementedError

    def step(self, tokens: Tensor, position: Tensor, state: State) -> tuple[Tensor, State]:
        """Predicts one word for each beam.

        Args:
          tokens: the previous ids `[batch, beams]`, int32.
          position: index of the word to predict, int32 scalar, from 0.
          state: what `initial_state` or the step before returned.

        Returns:
          Logits `[batch, beams, vocabulary]`, float32, the same as `call` gives at `position`, and the new state.
        """
        raise NotImplementedError

    def create_variables(self) -> None:
        """Creates every variable, by calling the decoder once; for constructors to end with."""
        self((keras.ops.zeros((1, *self.grid)), keras.ops.zeros((1, 1, self.slots), "int32")))

    def build(self, input_shape: Any) -> None:
        """Builds nothing: the call in the constructor makes all variables."""
