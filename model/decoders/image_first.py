"""An LSTM that sees the photo once, as the first word (Vinyals et al. 2015, arXiv:1411.4555)."""

import keras
import numpy as np
from keras import ops

from beamscribe.model.decoders import parts
from beamscribe.model.decoders.base import Decoder, State


class ImageFirstDecoder(Decoder):
    """Feeds an LSTM the photo's vector, then the words (equations 10 to 12).

    Args:
      vocabulary_size: number of ids, specials included.
      grid: (height, width, channels) of the feature grid.
      slots: the largest number of positions: the words of the longest caption and the end token.
      units: size of the LSTM's output.
      dropout: share of activations dropped in training.
      word_size: numbers of a learned word vector; None where `vectors` are given.
      vectors: pretrained word vectors to start from, `[vocabulary_size, size]`, float32.
      freeze_vectors: keep `vectors` as they are.
    """

    def __init__(
        self,
        vocabulary_size: int,
        grid: tuple[int, int, int],
        slots: int,
        units: int,
        dropout: float,
        word_size: int | None = None,
        vectors: np.ndarray | None = None,
        freeze_vectors: bool = False,
    ):
        super().__init__(name="image_first")
        self.vocabulary_size, self.grid, self.slots = vocabulary_size, grid, slots
        self.words = parts.word_embedding(vocabulary_size, word_size, vectors, freeze_vectors)
        self.pool = keras.layers.GlobalAveragePooling2D()
        self.photo = keras.layers.Dense(self.words.output_dim, name="photo")
        self.input_dropout = keras.layers.Dropout(dropout)
        self.lstm = keras.layers.LSTM(units, return_sequences=True, unroll=True, name="lstm")
        self.lstm.build((None, None, self.words.output_dim))
        self.output_dropout = keras.layers.Dropout(dropout)
        self.logits = keras.layers.Dense(vocabulary_size, dtype="float32", name="logits")
        self.create_variables(grid)

    def call(self, inputs, training=False):
        """As the base class says."""
        features, tokens = inputs
        batch, captions, length = ops.shape(tokens)
        x = self.input_dropout(self.words(tokens), training=training)
        x = ops.reshape(x, (batch * captions, length, self.words.output_dim))
        # All captions of a photo start from the same state.
        start = [ops.repeat(state, captions, axis=0) for state in self._start(features, training)]
        x = self.output_dropout(self.lstm(x, initial_state=start), training=training)
        return self.logits(ops.reshape(x, (batch, captions, length, self.lstm.units)))

    def initial_state(self, features, beams) -> State:
        """As the base class says; the words' state is the LSTM's, which remembers the photo."""
        shape = (ops.shape(features)[0], beams, self.lstm.units)
        start = self._start(features, training=False)
        return State(photo=(), words=tuple(ops.broadcast_to(state[:, None], shape) for state in start))

    def step(self, tokens, position, state: State):
        """As the base class says."""
        h, c = parts.lstm_step(self.lstm.cell, self.words(tokens), *state.words)
        return self.logits(h), State(state.photo, (h, c))

    def _start(self, features, training):
        """The LSTM's h and c after the photo, `[batch, units]`."""
        x = self.input_dropout(self.photo(self.pool(features)), training=training)
        _, states = self.lstm.cell(x, self.lstm.get_initial_state(ops.shape(x)[0]))
        return states
