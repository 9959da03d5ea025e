"""An LSTM with soft attention over the feature grid (Xu et al. 2015, arXiv:1502.03044)."""

from typing import Any

import keras
from keras import ops

from beamscribe.model.decoders.base import PACKAGE, State
from beamscribe.model.decoders.recurrent import RecurrentDecoder, lstm_step
from beamscribe.model.tensors import Tensor
from beamscribe.model.words.vocabulary import PAD


@keras.saving.register_keras_serializable(PACKAGE)
class AttentionDecoder(RecurrentDecoder):
    """Looks at the cells of the grid, the paper's annotation vectors, anew for each word.

    Attributes:
      doubly_stochastic: the argument.

    Args:
      units: size of the LSTM's output.
      attention: width of the hidden layer that scores the cells.
      doubly_stochastic: weight λ of the regularisation that makes attention visit all cells.
      name: of the Keras model.
      decoder: the arguments of `RecurrentDecoder`.
    """

    def __init__(
        self, *, units: int, attention: int, doubly_stochastic: float, name: str = "attention", **decoder: Any
    ):
        super().__init__(name=name, **decoder)
        self.cells = self.grid[0] * self.grid[1]
        self.doubly_stochastic = doubly_stochastic
        dtype = self.dtype_policy
        self.words = self.make_words()
        self.word_dropout = keras.layers.Dropout(self.dropout, dtype=dtype)
        self.initial_h = keras.layers.Dense(units, activation="tanh", dtype=dtype, name="initial_h")
        self.initial_c = keras.layers.Dense(units, activation="tanh", dtype=dtype, name="initial_c")
        self.attention = SoftAttention(attention, dtype=dtype, name="attention")
        self.gate = keras.layers.Dense(1, activation="sigmoid", dtype=dtype, name="gate")
        self.cell = keras.layers.LSTMCell(units, dtype=dtype, name="cell")
        self.state_to_words = keras.layers.Dense(self.word_size, dtype=dtype, name="state_to_words")
        self.photo_to_words = keras.layers.Dense(self.word_size, use_bias=False, dtype=dtype, name="photo_to_words")
        self.output_dropout = keras.layers.Dropout(self.dropout, dtype=dtype)
        self.logits = keras.layers.Dense(self.vocabulary_size, dtype="float32", name="logits")
        self.create_variables()

    def get_config(self) -> dict[str, Any]:
        """As the base class says."""
        attention = {"attention": self.attention.width, "doubly_stochastic": self.doubly_stochastic}
        return {**super().get_config(), "units": self.cell.units, **attention}

    def call(self, inputs: tuple[Tensor, Tensor], training: bool = False) -> Tensor:
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

    def initial_state(self, features: Tensor, beams: Tensor) -> State:
        """As the base class says; the words' state is the LSTM's."""
        cells = ops.reshape(ops.cast(features, self.compute_dtype), (-1, self.cells, self.grid[2]))
        mean = ops.mean(cells, axis=1)
        shape = (ops.shape(features)[0], beams, self.cell.units)
        start = (self.initial_h(mean), self.initial_c(mean))
        return State(
            photo=(cells, self.attention.key(cells)),
            words=tuple(ops.broadcast_to(state[:, None], shape) for state in start),
        )

    def step(self, tokens: Tensor, position: Tensor, state: State) -> tuple[Tensor, State]:
        """As the base class says."""
        words = self.words(tokens)
        h, c, glimpse, _ = self._look_and_advance(words, *state.words, *state.photo)
        return self._predict(words, h, glimpse, training=False), State(state.photo, (h, c))

    def _look_and_advance(
        self, words: Tensor, h: Tensor, c: Tensor, cells: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One word of `[batch, captions, word_size]`; returns h, c, what was seen (ẑ) and the cells' weights (α)."""
        glimpse, weights = self.attention(h, cells, keys)
        # Section 4.2.1: how much the photo matters for this word, β.
        glimpse = self.gate(h) * glimpse
        h, c = lstm_step(self.cell, ops.concatenate([words, glimpse], axis=-1), h, c)
        return h, c, glimpse, weights

    def _predict(self, words: Tensor, h: Tensor, glimpse: Tensor, training: bool) -> Tensor:
        """The deep output layer (equation 7), with the tanh of the paper's code."""
        x = ops.tanh(words + self.state_to_words(h) + self.photo_to_words(glimpse))
        return self.logits(self.output_dropout(x, training=training))

    def _regularisation(self, weights: Tensor, tokens: Tensor) -> Tensor:
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


@keras.saving.register_keras_serializable(PACKAGE)
class SoftAttention(keras.layers.Layer):
    """Soft attention (equations 4 to 6 and 13) whose projection of the cells can be made beforehand and kept.

    Args:
      width: of the hidden layer that scores the cells.
      layer: the arguments of `keras.layers.Layer`.
    """

    def __init__(self, width: int, **layer: Any):
        super().__init__(**layer)
        self.key = keras.layers.Dense(width, dtype=self.dtype_policy, name="key")
        self.query = keras.layers.Dense(width, use_bias=False, dtype=self.dtype_policy, name="query")
        self.score = keras.layers.Dense(1, use_bias=False, dtype=self.dtype_policy, name="score")

    @property
    def width(self) -> int:
        """The argument."""
        return self.key.units

    def get_config(self) -> dict[str, Any]:
        """The arguments that make such a layer."""
        return {**super().get_config(), "width": self.width}

    def call(self, h: Tensor, cells: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Looks from `[batch, rows, units]` at cells `[batch, cells, channels]` with keys `[batch, cells, width]`.

        Returns:
          What is seen, `[batch, rows, channels]`, and each cell's weight, `[batch, rows, cells]`, float32.
        """
        scores = self.score(ops.tanh(keys[:, None] + self.query(h)[:, :, None]))[..., 0]
        weights = ops.softmax(ops.cast(scores, "float32"))
        return ops.matmul(ops.cast(weights, cells.dtype), cells), weights
