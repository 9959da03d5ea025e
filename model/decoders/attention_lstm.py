"""An LSTM with soft attention over the feature grid (Xu et al. 2015, arXiv:1502.03044)."""

import keras
import numpy as np
from keras import ops

from beamscribe.model.decoders import parts
from beamscribe.model.decoders.base import Decoder, State
from beamscribe.model.words.vocabulary import PAD


class AttentionDecoder(Decoder):
    """Looks at the cells of the grid, the paper's annotation vectors, anew for each word.

    Args:
      vocabulary_size: number of ids, specials included.
      grid: (height, width, channels) of the feature grid.
      slots: the largest number of positions: the words of the longest caption and the end token.
      units: size of the LSTM's output.
      attention: width of the hidden layer that scores the cells.
      doubly_stochastic: weight λ of the regularisation that makes attention visit all cells.
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
        attention: int,
        doubly_stochastic: float,
        dropout: float,
        word_size: int | None = None,
        vectors: np.ndarray | None = None,
        freeze_vectors: bool = False,
    ):
        super().__init__(name="attention")
        self.vocabulary_size, self.grid, self.slots = vocabulary_size, grid, slots
        self.cells = grid[0] * grid[1]
        self.doubly_stochastic = doubly_stochastic
        self.words = parts.word_embedding(vocabulary_size, word_size, vectors, freeze_vectors)
        self.word_dropout = keras.layers.Dropout(dropout)
        self.initial_h = keras.layers.Dense(units, activation="tanh", name="initial_h")
        self.initial_c = keras.layers.Dense(units, activation="tanh", name="initial_c")
        self.attention = _Attention(attention, name="attention")
        self.gate = keras.layers.Dense(1, activation="sigmoid", name="gate")
        self.cell = keras.layers.LSTMCell(units, name="cell")
        self.state_to_words = keras.layers.Dense(self.words.output_dim, name="state_to_words")
        self.photo_to_words = keras.layers.Dense(self.words.output_dim, use_bias=False, name="photo_to_words")
        self.output_dropout = keras.layers.Dropout(dropout)
        self.logits = keras.layers.Dense(vocabulary_size, dtype="float32", name="logits")
        self.create_variables(grid)

    def call(self, inputs, training=False):
        """As the base class says; in training, adds the regularisation to the losses."""
        features, tokens = inputs
        _, captions, length = ops.shape(tokens)
        (cells, keys), (h, c) = self.initial_state(features, captions)
        words = self.word_dropout(self.words(tokens), training=training)
        states, glimpses, weights = [], [], []
        for i in range(length):
            h, c, glimpse, weight = self._look_and_advance(words[:, :, i], h, c, cells, keys)
            states.append(h)
            glimpses.append(glimpse)
            weights.append(weight)
        if training and self.doubly_stochastic:
            self.add_loss(self._regularisation(ops.stack(weights, axis=2), tokens))
        return self._predict(words, ops.stack(states, axis=2), ops.stack(glimpses, axis=2), training)

    def initial_state(self, features, beams) -> State:
        """As the base class says; the words' state is the LSTM's."""
        cells = ops.reshape(ops.cast(features, self.compute_dtype), (-1, self.cells, self.grid[2]))
        mean = ops.mean(cells, axis=1)
        shape = (ops.shape(features)[0], beams, self.cell.units)
        start = (self.initial_h(mean), self.initial_c(mean))
        return State(
            photo=(cells, self.attention.key(cells)),
            words=tuple(ops.broadcast_to(state[:, None], shape) for state in start),
        )

    def step(self, tokens, position, state: State):
        """As the base class says."""
        words = self.words(tokens)
        h, c, glimpse, _ = self._look_and_advance(words, *state.words, *state.photo)
        return self._predict(words, h, glimpse, training=False), State(state.photo, (h, c))

    def _look_and_advance(self, words, h, c, cells, keys):
        """One word of `[batch, captions, word_size]`; returns h, c, what was seen (ẑ) and the cells' weights (α)."""
        glimpse, weights = self.attention(h, cells, keys)
        # Section 4.2.1: how much the photo matters for this word, β.
        glimpse = self.gate(h) * glimpse
        h, c = parts.lstm_step(self.cell, ops.concatenate([words, glimpse], axis=-1), h, c)
        return h, c, glimpse, weights

    def _predict(self, words, h, glimpse, training):
        """The deep output layer (equation 7), with the tanh of the paper's code."""
        x = ops.tanh(words + self.state_to_words(h) + self.photo_to_words(glimpse))
        return self.logits(self.output_dropout(x, training=training))

    def _regularisation(self, weights, tokens):
        """Equation 14's second term, for weights `[batch, captions, length, cells]`, float32.

        The paper adds it to the sum over a caption's words, while the loss here is the mean over all words: so it is
        divided by their number, too.
        """
        present = ops.cast(tokens != PAD, "float32")
        visits = ops.sum(weights * present[..., None], axis=2)
        # Photos with fewer captions than others have empty ones.
        written = ops.max(present, axis=2)
        missed = ops.sum(ops.square(1 - visits), axis=-1) * written
        return self.doubly_stochastic * ops.sum(missed) / ops.maximum(ops.sum(present), 1.0)


class _Attention(keras.layers.Layer):
    """Soft attention (equations 4 to 6 and 13) whose projection of the cells can be made beforehand and kept."""

    def __init__(self, width: int, **kwargs):
        super().__init__(**kwargs)
        self.key = keras.layers.Dense(width, name="key")
        self.query = keras.layers.Dense(width, use_bias=False, name="query")
        self.score = keras.layers.Dense(1, use_bias=False, name="score")

    def call(self, h, cells, keys):
        """Looks from `[batch, rows, units]` at cells `[batch, cells, channels]` with keys `[batch, cells, width]`.

        Returns:
          What is seen, `[batch, rows, channels]`, and each cell's weight, `[batch, rows, cells]`, float32.
        """
        scores = self.score(ops.tanh(keys[:, None] + self.query(h)[:, :, None]))[..., 0]
        weights = ops.softmax(ops.cast(scores, "float32"))
        return ops.matmul(ops.cast(weights, cells.dtype), cells), weights
