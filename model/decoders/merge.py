"""A merge decoder: the photo joins after the LSTM, not in it (Tanti et al. 2018, arXiv:1703.09137)."""

import keras
import numpy as np
from keras import ops

from beamscribe.model.decoders import parts
from beamscribe.model.decoders.base import Decoder, State


class MergeDecoder(Decoder):
    """Encodes the words before with an LSTM, and merges its output with the photo's vector to predict the next one.

    Args:
      vocabulary_size: number of ids, specials included.
      grid: (height, width, channels) of the feature grid.
      slots: the largest number of positions: the words of the longest caption and the end token.
      image: `pooled`, for the mean of the grid's cells, or `flattened`, for all of them.
      image_layers: sizes of the dense layers that make the photo's vector.
      units: size of the LSTM's output.
      merge: `add`, which needs the last of `image_layers` and `units` to be equal, or `concatenate`.
      hidden: size of the layer between what is merged and the logits.
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
        image: str,
        image_layers: list[int],
        units: int,
        merge: str,
        hidden: int,
        dropout: float,
        word_size: int | None = None,
        vectors: np.ndarray | None = None,
        freeze_vectors: bool = False,
    ):
        super().__init__(name="merge")
        self.vocabulary_size, self.grid, self.slots = vocabulary_size, grid, slots
        self.photo = parts.PhotoVector(image, image_layers, dropout, name="photo")
        self.words = parts.word_embedding(vocabulary_size, word_size, vectors, freeze_vectors)
        self.word_dropout = keras.layers.Dropout(dropout)
        self.lstm = keras.layers.LSTM(units, return_sequences=True, unroll=True, name="lstm")
        self.merged_output = parts.MergedOutput(
            vocabulary_size, image_layers[-1], units, merge, hidden, name="merged_output"
        )
        self.create_variables(grid)

    def call(self, inputs, training=False):
        """As the base class says."""
        features, tokens = inputs
        batch, captions, length = ops.shape(tokens)
        photo = self.photo(features, training=training)
        x = self.word_dropout(self.words(tokens), training=training)
        # The LSTM has seen at each position what it would have seen of that prefix alone.
        x = self.lstm(ops.reshape(x, (batch * captions, length, self.words.output_dim)))
        x = ops.reshape(x, (batch, captions, length, self.lstm.units))
        return self.merged_output(photo[:, None, None], x)

    def initial_state(self, features, beams) -> State:
        """As the base class says; the words' state is the LSTM's."""
        empty = ops.zeros((ops.shape(features)[0], beams, self.lstm.units), self.compute_dtype)
        return State(photo=self.photo(features), words=(empty, empty))

    def step(self, tokens, position, state: State):
        """As the base class says."""
        h, c = parts.lstm_step(self.lstm.cell, self.words(tokens), *state.words)
        return self.merged_output(state.photo[:, None], h), State(state.photo, (h, c))
