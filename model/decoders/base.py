"""What every decoder is: the interface that search, training and export use."""

from typing import Any, NamedTuple

import keras


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

    Attributes:
      vocabulary_size: number of ids, specials included.
      slots: the largest number of positions: the words of the longest caption and the end token.
    """

    vocabulary_size: int
    slots: int

    def call(self, inputs, training=False):
        """Predicts each next word of given captions (teacher forcing).

        Args:
          inputs: features `[batch, height, width, channels]`, float, and input ids `[batch, captions, length]`,
            int32, `length` at most `slots`; each row of ids starts with `START`.

        Returns:
          Logits `[batch, captions, length, vocabulary]`, float32. The ones at position i depend on no later id.
        """
        raise NotImplementedError

    def initial_state(self, features, beams) -> State:
        """The state before the first word: `beams` rows a photo.

        Args:
          features: `[batch, height, width, channels]`, float.
          beams: how many captions to write at once for each photo, a number or an int32 scalar.
        """
        raise NotImplementedError

    def step(self, tokens, position, state: State) -> tuple[Any, State]:
        """Predicts one word for each beam.

        Args:
          tokens: the previous ids `[batch, beams]`, int32.
          position: index of the word to predict, int32 scalar, from 0.
          state: what `initial_state` or the step before returned.

        Returns:
          Logits `[batch, beams, vocabulary]`, float32, the same as `call` gives at `position`, and the new state.
        """
        raise NotImplementedError

    def create_variables(self, feature_shape: tuple[int, ...]) -> None:
        """Creates every variable, by calling the decoder once; for constructors to end with."""
        self((keras.ops.zeros((1, *feature_shape)), keras.ops.zeros((1, 1, self.slots), "int32")))

    def build(self, input_shape):
        """Nothing is left to build: the call in the constructor did."""
        self.built = True
