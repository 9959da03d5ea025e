"""An LSTM that sees the photo once, as the first word (Vinyals et al. 2015, arXiv:1411.4555)."""

from typing import Any

import keras
from keras import ops

from beamscribe.model.decoders.base import PACKAGE, State
from beamscribe.model.decoders.recurrent import RecurrentDecoder, lstm_step
from beamscribe.model.tensors import Tensor


@keras.saving.register_keras_serializable(PACKAGE)
class ImageFirstDecoder(RecurrentDecoder):
    """Feeds an LSTM the photo's vector, then the words (equations 10 to 12).

    Args:
      units: size of the LSTM's output.
      name: of the Keras model.
      decoder: the arguments of `RecurrentDecoder`.
    """

    def __init__(self, *, units: int, name: str = "image_first", **decoder: Any):
        super().__init__(name=name, **decoder)
        dtype = self.dtype_policy
        self.words = self.make_words()
        self.pool = keras.layers.GlobalAveragePooling2D(dtype=dtype)
        self.photo = keras.layers.Dense(self.word_size, dtype=dtype, name="photo")
        self.input_dropout = keras.layers.Dropout(self.dropout, dtype=dtype)
        self.lstm = keras.layers.LSTM(units, return_sequences=True, unroll=True, dtype=dtype, name="lstm")
        self.lstm.build((None, None, self.word_size))
        self.output_dropout = keras.layers.Dropout(self.dropout, dtype=dtype)
        self.logits = keras.layers.Dense(self.vocabulary_size, dtype="float32", name="logits")
        self.create_variables()

    def get_config(self) -> dict[str, Any]:
        """As the base class says."""
        return {**super().get_config(), "units": self.lstm.units}

    def call(self, inputs: tuple[Tensor, Tensor], training: bool = False) -> Tensor:
        """As the base class says."""
        features, tokens = inputs
        batch, captions, length = ops.shape(tokens)
        x = self.input_dropout(self.words(tokens), training=training)
        x = ops.reshape(x, (batch * captions, length, self.word_size))
        # All captions of a photo start from the same state.
        start = [ops.repeat(state, captions, axis=0) for state in self._start(features, training)]
        x = self.output_dropout(self.lstm(x, initial_state=start), training=training)
        return self.logits(ops.reshape(x, (batch, captions, length, self.lstm.units)))

    def initial_state(self, features: Tensor, beams: Tensor) -> State:
        """As the base class says; the words' state is the LSTM's, which remembers the photo."""
        shape = (ops.shape(features)[0], beams, self.lstm.units)
        start = self._start(features, training=False)
        return State(photo=(), words=tuple(ops.broadcast_to(state[:, None], shape) for state in start))

    def step(self, tokens: Tensor, position: Tensor, state: State) -> tuple[Tensor, State]:
        """As the base class says."""
        h, c = lstm_step(self.lstm.cell, self.words(tokens), *state.words)
        return self.logits(h), State(state.photo, (h, c))

    def _start(self, features: Tensor, training: bool) -> list[Tensor]:
        """The LSTM's h and c after the photo, `[batch, units]`."""
        x = self.input_dropout(self.photo(self.pool(features)), training=training)
        _, states = self.lstm.cell(x, self.lstm.get_initial_state(ops.shape(x)[0]))
        return states
