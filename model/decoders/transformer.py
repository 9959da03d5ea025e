"""A Transformer decoder over a feature grid (Vaswani et al. 2017, arXiv:1706.03762; pre-norm, Xiong et al. 2020)."""

import math

import keras
from keras import ops

from beamscribe.model.decoders.base import Decoder, State


class TransformerDecoder(Decoder):
    """Encodes the feature grid with self-attention layers, then predicts words with decoder layers.

    Args:
      vocabulary_size: number of ids, specials included.
      grid: (height, width, channels) of the feature grid.
      slots: the largest number of positions: the words of the longest caption and the end token.
      width: size of every hidden vector; a multiple of `heads`.
      heads: attention heads.
      feed_forward: width of the hidden layer of each feed-forward block.
      encoder_layers, decoder_layers: how many of each.
      dropout: share of activations dropped in training.
    """

    def __init__(
        self,
        vocabulary_size: int,
        grid: tuple[int, int, int],
        slots: int,
        width: int,
        heads: int,
        feed_forward: int,
        encoder_layers: int,
        decoder_layers: int,
        dropout: float,
    ):
        super().__init__(name="transformer")
        self.vocabulary_size, self.grid, self.slots = vocabulary_size, grid, slots
        self.width, self.heads = width, heads
        self.cells = grid[0] * grid[1]
        self.feature_dropout = keras.layers.Dropout(dropout)
        self.feature_projection = keras.layers.Dense(width, name="feature_projection")
        self.feature_norm = keras.layers.LayerNormalization(name="feature_norm")
        self.cell_positions = keras.layers.Embedding(self.cells, width, name="cell_positions")
        self.encoder = [
            _EncoderLayer(width, heads, feed_forward, dropout, name=f"encoder_{i}") for i in range(encoder_layers)
        ]
        self.memory_norm = keras.layers.LayerNormalization(name="memory_norm")
        self.words = keras.layers.ReversibleEmbedding(
            vocabulary_size,
            width,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),
            reverse_dtype="float32",
            name="words",
        )
        self.word_positions = keras.layers.Embedding(slots, width, name="word_positions")
        self.word_dropout = keras.layers.Dropout(dropout)
        self.decoder = [
            _DecoderLayer(width, heads, feed_forward, dropout, name=f"decoder_{i}") for i in range(decoder_layers)
        ]
        self.output_norm = keras.layers.LayerNormalization(name="output_norm")
        self.create_variables(grid)

    def call(self, inputs, training=False):
        """As the base class says."""
        features, tokens = inputs
        batch, captions, length = ops.shape(tokens)
        memory = self._encode(features, training)
        x = self._embed(tokens, ops.arange(length))
        x = self.word_dropout(x, training=training)
        for layer in self.decoder:
            # Captions are apart in self-attention and side by side, as one long row, in
            # cross-attention, which has no causal mask: the photo's memory is never repeated.
            x = ops.reshape(x, (batch * captions, length, self.width))
            x = layer.attend_to_words(x, training=training)
            x = ops.reshape(x, (batch, captions * length, self.width))
            x = layer.attend_to_photo(x, layer.photo.project_memory(memory), training=training)
        x = ops.reshape(x, (batch, captions, length, self.width))
        return self._logits(x)

    def initial_state(self, features, beams) -> State:
        """As the base class says; cross-attention keys and values are made here, for all steps and beams."""
        memory = self._encode(features, training=False)
        shape = (ops.shape(features)[0], beams, self.heads, self.slots, self.width // self.heads)
        empty = ops.zeros(shape, self.compute_dtype)
        return State(
            photo=tuple(layer.photo.project_memory(memory) for layer in self.decoder),
            # Self-attention keys, then values, one a layer, with a slot for each position.
            words=(empty,) * (2 * len(self.decoder)),
        )

    def step(self, tokens, position, state: State):
        """As the base class says."""
        here = ops.reshape(ops.arange(self.slots) == position, (self.slots, 1))
        seen = ops.arange(self.slots) <= position
        x = self._embed(tokens, position)
        layers = len(self.decoder)
        keys, values = list(state.words[:layers]), list(state.words[layers:])
        for i, layer in enumerate(self.decoder):
            x, keys[i], values[i] = layer.step(x, keys[i], values[i], here, seen, state.photo[i])
        return self._logits(x), State(state.photo, (*keys, *values))

    def _encode(self, features, training):
        x = ops.reshape(ops.cast(features, self.compute_dtype), (-1, self.cells, self.grid[2]))
        x = self.feature_projection(self.feature_dropout(x, training=training))
        x = self.feature_norm(x) + self.cell_positions(ops.arange(self.cells))
        for layer in self.encoder:
            x = layer(x, training=training)
        return self.memory_norm(x)

    def _embed(self, tokens, positions):
        return self.words(tokens) * math.sqrt(self.width) + self.word_positions(
            ops.convert_to_tensor(positions, "int32")
        )

    def _logits(self, x):
        return self.words(self.output_norm(x), reverse=True)


class _Attention(keras.layers.Layer):
    """Multi-head attention whose keys and values can be made beforehand and kept."""

    def __init__(self, width: int, heads: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.width, self.heads, self.size = width, heads, width // heads
        self.query = keras.layers.Dense(width, name="query")
        self.key = keras.layers.Dense(width, name="key")
        self.value = keras.layers.Dense(width, name="value")
        self.output_projection = keras.layers.Dense(width, name="output")
        self.dropout = keras.layers.Dropout(dropout)

    def split(self, x):
        """`[batch, length, width]` → `[batch, heads, length, width / heads]`."""
        batch, length, _ = ops.shape(x)
        return ops.transpose(ops.reshape(x, (batch, length, self.heads, self.size)), (0, 2, 1, 3))

    def project_memory(self, memory):
        """The keys and values of `[batch, cells, width]`, split into heads."""
        return self.split(self.key(memory)), self.split(self.value(memory))

    def call(self, x, keys, values, visible=None, training=False):
        """Attends from `x` `[batch, length, width]` to keys and values `[batch, heads, cells, width / heads]`."""
        batch, length, _ = ops.shape(x)
        weights = self.weights_of(self.split(self.query(x)), keys, visible)
        x = ops.matmul(self.dropout(weights, training=training), values)
        x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (batch, length, self.width))
        return self.output_projection(x)

    def weights_of(self, queries, keys, visible):
        """Softmax of the scaled scores (equation 1), computed in float32."""
        scores = ops.matmul(queries, ops.swapaxes(keys, -1, -2)) / math.sqrt(self.size)
        if visible is not None:
            scores = ops.where(visible, scores, ops.cast(-1e9, scores.dtype))
        return ops.cast(ops.softmax(ops.cast(scores, "float32")), self.compute_dtype)


class _FeedForward(keras.layers.Layer):
    def __init__(self, width: int, hidden: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.norm = keras.layers.LayerNormalization(name="norm")
        self.expand = keras.layers.Dense(hidden, activation="gelu", name="expand")
        self.dropout = keras.layers.Dropout(dropout)
        self.contract = keras.layers.Dense(width, name="contract")

    def call(self, x, training=False):
        hidden = self.dropout(self.expand(self.norm(x)), training=training)
        return self.contract(hidden)


class _EncoderLayer(keras.layers.Layer):
    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.norm = keras.layers.LayerNormalization(name="norm")
        self.attention = _Attention(width, heads, dropout, name="attention")
        self.feed_forward = _FeedForward(width, feed_forward, dropout, name="feed_forward")
        self.dropout = keras.layers.Dropout(dropout)

    def call(self, x, training=False):
        y = self.norm(x)
        y = self.attention(y, *self.attention.project_memory(y), training=training)
        x = x + self.dropout(y, training=training)
        return x + self.dropout(self.feed_forward(x, training=training), training=training)


class _DecoderLayer(keras.layers.Layer):
    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.words_norm = keras.layers.LayerNormalization(name="words_norm")
        self.words = _Attention(width, heads, dropout, name="words")
        self.photo_norm = keras.layers.LayerNormalization(name="photo_norm")
        self.photo = _Attention(width, heads, dropout, name="photo")
        self.feed_forward = _FeedForward(width, feed_forward, dropout, name="feed_forward")
        self.dropout = keras.layers.Dropout(dropout)

    def attend_to_words(self, x, training=False):
        """Causal self-attention over `[rows, length, width]`."""
        y = self.words_norm(x)
        positions = ops.arange(ops.shape(x)[1])
        causal = positions[:, None] >= positions[None, :]
        y = self.words(y, *self.words.project_memory(y), visible=causal, training=training)
        return x + self.dropout(y, training=training)

    def attend_to_photo(self, x, memory, training=False):
        """Cross-attention of `[batch, rows, width]` over the photo's keys and values, then feed-forward."""
        y = self.photo(self.photo_norm(x), *memory, training=training)
        x = x + self.dropout(y, training=training)
        return x + self.dropout(self.feed_forward(x, training=training), training=training)

    def step(self, x, keys, values, here, seen, memory):
        """One position of `[batch, beams, width]`; writes its key and value into the slot `here`."""
        batch, beams, _ = ops.shape(x)
        y = self.words_norm(x)
        per_head = (batch, beams, self.words.heads, 1, self.words.size)
        keys = ops.where(here, ops.reshape(self.words.key(y), per_head), keys)
        values = ops.where(here, ops.reshape(self.words.value(y), per_head), values)
        weights = self.words.weights_of(ops.reshape(self.words.query(y), per_head), keys, seen)
        y = ops.reshape(ops.matmul(weights, values), (batch, beams, self.words.width))
        x = x + self.words.output_projection(y)
        return self.attend_to_photo(x, memory), keys, values
