"""A Transformer decoder over a feature grid (Vaswani et al. 2017, arXiv:1706.03762; pre-norm, Xiong et al. 2020)."""

import math
from typing import Any

import keras
from keras import ops

from beamscribe.model.decoders.base import PACKAGE, Decoder, State
from beamscribe.model.tensors import Tensor


@keras.saving.register_keras_serializable(PACKAGE)
class TransformerDecoder(Decoder):
    """Encodes the feature grid with self-attention layers, then predicts words with decoder layers.

    Attributes:
      width, heads, feed_forward: the arguments.
      encoder, decoder: the layers of each.

    Args:
      width: size of every hidden vector; a multiple of `heads`.
      heads: attention heads.
      feed_forward: width of the hidden layer of each feed-forward block.
      encoder_layers, decoder_layers: how many of each.
      name: of the Keras model.
      shared: the arguments of `Decoder`.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        feed_forward: int,
        encoder_layers: int,
        decoder_layers: int,
        name: str = "transformer",
        **shared: Any,
    ):
        super().__init__(name=name, **shared)
        self.width, self.heads, self.feed_forward = width, heads, feed_forward
        self.cells = self.grid[0] * self.grid[1]
        dtype = self.dtype_policy
        sizes = {"width": width, "heads": heads, "feed_forward": feed_forward, "dropout": self.dropout, "dtype": dtype}
        self.feature_dropout = keras.layers.Dropout(self.dropout, dtype=dtype)
        self.feature_projection = keras.layers.Dense(width, dtype=dtype, name="feature_projection")
        self.feature_norm = keras.layers.LayerNormalization(dtype=dtype, name="feature_norm")
        self.cell_positions = keras.layers.Embedding(self.cells, width, dtype=dtype, name="cell_positions")
        self.encoder = [_EncoderLayer(**sizes, name=f"encoder_{i}") for i in range(encoder_layers)]
        self.memory_norm = keras.layers.LayerNormalization(dtype=dtype, name="memory_norm")
        self.words = keras.layers.ReversibleEmbedding(
            self.vocabulary_size,
            width,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),
            reverse_dtype="float32",
            dtype=dtype,
            name="words",
        )
        self.word_positions = keras.layers.Embedding(self.slots, width, dtype=dtype, name="word_positions")
        self.word_dropout = keras.layers.Dropout(self.dropout, dtype=dtype)
        self.decoder = [_DecoderLayer(**sizes, name=f"decoder_{i}") for i in range(decoder_layers)]
        self.output_norm = keras.layers.LayerNormalization(dtype=dtype, name="output_norm")
        self.create_variables()

    def get_config(self) -> dict[str, Any]:
        """As the base class says."""
        layers = {"encoder_layers": len(self.encoder), "decoder_layers": len(self.decoder)}
        sizes = {"width": self.width, "heads": self.heads, "feed_forward": self.feed_forward}
        return {**super().get_config(), **sizes, **layers}

    def call(self, inputs: tuple[Tensor, Tensor], training: bool = False) -> Tensor:
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

    def initial_state(self, features: Tensor, beams: Tensor) -> State:
        """As the base class says; cross-attention keys and values are made here, for all steps and beams."""
        memory = self._encode(features, training=False)
        shape = (ops.shape(features)[0], beams, self.heads, self.slots, self.width // self.heads)
        empty = ops.zeros(shape, self.compute_dtype)
        return State(
            photo=tuple(layer.photo.project_memory(memory) for layer in self.decoder),
            # Self-attention keys, then values, one a layer, with a slot for each position.
            words=(empty,) * (2 * len(self.decoder)),
        )

    def step(self, tokens: Tensor, position: Tensor, state: State) -> tuple[Tensor, State]:
        """As the base class says."""
        here = ops.reshape(ops.arange(self.slots) == position, (self.slots, 1))
        seen = ops.arange(self.slots) <= position
        x = self._embed(tokens, position)
        layers = len(self.decoder)
        keys, values = list(state.words[:layers]), list(state.words[layers:])
        for i, layer in enumerate(self.decoder):
            x, keys[i], values[i] = layer.step(x, keys[i], values[i], here, seen, state.photo[i])
        return self._logits(x), State(state.photo, (*keys, *values))

    def _encode(self, features: Tensor, training: bool) -> Tensor:
        """The photo's memory, `[batch, cells, width]`."""
        x = ops.reshape(ops.cast(features, self.compute_dtype), (-1, self.cells, self.grid[2]))
        x = self.feature_projection(self.feature_dropout(x, training=training))
        x = self.feature_norm(x) + self.cell_positions(ops.arange(self.cells))
        for layer in self.encoder:
            x = layer(x, training=training)
        return self.memory_norm(x)

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Vectors of ids and of their positions, `[batch, captions, …, width]`."""
        return self.words(tokens) * math.sqrt(self.width) + self.word_positions(
            ops.convert_to_tensor(positions, "int32")
        )

    def _logits(self, x: Tensor) -> Tensor:
        """`[…, width]` → `[…, vocabulary]`, float32."""
        return self.words(self.output_norm(x), reverse=True)


@keras.saving.register_keras_serializable(PACKAGE)
class CachedAttention(keras.layers.Layer):
    """Multi-head attention whose keys and values can be made beforehand and kept.

    Attributes:
      width, heads: the arguments.
      size: of a head's vectors.

    Args:
      width: size of every vector; a multiple of `heads`.
      heads: attention heads.
      dropout: share of the weights dropped in training.
      layer: the arguments of `keras.layers.Layer`.
    """

    def __init__(self, width: int, heads: int, dropout: float, **layer: Any):
        super().__init__(**layer)
        self.width, self.heads, self.size = width, heads, width // heads
        dtype = self.dtype_policy
        self.query = keras.layers.Dense(width, dtype=dtype, name="query")
        self.key = keras.layers.Dense(width, dtype=dtype, name="key")
        self.value = keras.layers.Dense(width, dtype=dtype, name="value")
        self.output_projection = keras.layers.Dense(width, dtype=dtype, name="output")
        self.dropout = keras.layers.Dropout(dropout, dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make such a layer."""
        return {**super().get_config(), "width": self.width, "heads": self.heads, "dropout": self.dropout.rate}

    def split(self, x: Tensor) -> Tensor:
        """`[batch, length, width]` → `[batch, heads, length, width / heads]`."""
        batch, length, _ = ops.shape(x)
        return ops.transpose(ops.reshape(x, (batch, length, self.heads, self.size)), (0, 2, 1, 3))

    def project_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of `[batch, cells, width]`, split into heads."""
        return self.split(self.key(memory)), self.split(self.value(memory))

    def call(
        self, x: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None = None, training: bool = False
    ) -> Tensor:
        """Attends from `x` `[batch, length, width]` to keys and values `[batch, heads, cells, width / heads]`."""
        batch, length, _ = ops.shape(x)
        weights = self.weights_of(self.split(self.query(x)), keys, visible)
        x = ops.matmul(self.dropout(weights, training=training), values)
        x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (batch, length, self.width))
        return self.output_projection(x)

    def weights_of(self, queries: Tensor, keys: Tensor, visible: Tensor | None) -> Tensor:
        """Softmax of the scaled scores (equation 1), computed in float32.

        Args:
          queries: `[…, rows, width / heads]`.
          keys: `[…, cells, width / heads]`.
          visible: which keys are seen, bool, of a shape that broadcasts to `[…, rows, cells]`; None for all.

        Returns:
          `[…, rows, cells]`.
        """
        scores = ops.matmul(queries, ops.swapaxes(keys, -1, -2)) / math.sqrt(self.size)
        if visible is not None:
            scores = ops.where(visible, scores, ops.cast(-1e9, scores.dtype))
        return ops.cast(ops.softmax(ops.cast(scores, "float32")), self.compute_dtype)


@keras.saving.register_keras_serializable(PACKAGE)
class FeedForward(keras.layers.Layer):
    """Two dense layers behind a normalisation, the first with GELU.

    Args:
      width: size of what comes in and goes out.
      hidden: size of the first layer's output.
      dropout: share of that dropped in training.
      layer: the arguments of `keras.layers.Layer`.
    """

    def __init__(self, width: int, hidden: int, dropout: float, **layer: Any):
        super().__init__(**layer)
        dtype = self.dtype_policy
        self.norm = keras.layers.LayerNormalization(dtype=dtype, name="norm")
        self.expand = keras.layers.Dense(hidden, activation="gelu", dtype=dtype, name="expand")
        self.dropout = keras.layers.Dropout(dropout, dtype=dtype)
        self.contract = keras.layers.Dense(width, dtype=dtype, name="contract")

    def get_config(self) -> dict[str, Any]:
        """The arguments that make such a layer."""
        sizes = {"width": self.contract.units, "hidden": self.expand.units}
        return {**super().get_config(), **sizes, "dropout": self.dropout.rate}

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        """`[…, width]` → `[…, width]`."""
        hidden = self.dropout(self.expand(self.norm(x)), training=training)
        return self.contract(hidden)


class _TransformerLayer(keras.layers.Layer):
    """What the layers of encoder and decoder share: their arguments, and the feed-forward block that ends them.

    Checkpoints name the layers of a list by their classes: `_EncoderLayer` and `_DecoderLayer` must keep their names.

    Args:
      width: size of every hidden vector; a multiple of `heads`.
      heads: attention heads.
      feed_forward: width of the hidden layer of the feed-forward block.
      dropout: share of activations dropped in training.
      layer: the arguments of `keras.layers.Layer`.
    """

    def __init__(self, *, width: int, heads: int, feed_forward: int, dropout: float, **layer: Any):
        super().__init__(**layer)
        self._sizes: dict[str, Any] = {"width": width, "heads": heads, "feed_forward": feed_forward, "dropout": dropout}

    def get_config(self) -> dict[str, Any]:
        """The arguments that make such a layer."""
        return {**super().get_config(), **self._sizes}

    def make_norm(self, name: str) -> keras.layers.LayerNormalization:
        """Makes what is in front of an attention block."""
        return keras.layers.LayerNormalization(dtype=self.dtype_policy, name=name)

    def make_attention(self, name: str) -> CachedAttention:
        """Makes an attention block."""
        width, heads, dropout = (self._sizes[size] for size in ("width", "heads", "dropout"))
        return CachedAttention(width, heads, dropout, dtype=self.dtype_policy, name=name)

    def make_feed_forward(self) -> None:
        """Makes `feed_forward`, and the `dropout` of all blocks' outputs; for constructors to end with."""
        width, hidden, dropout = (self._sizes[size] for size in ("width", "feed_forward", "dropout"))
        self.feed_forward = FeedForward(width, hidden, dropout, dtype=self.dtype_policy, name="feed_forward")
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def add(self, x: Tensor, y: Tensor, training: bool) -> Tensor:
        """Adds a block's output to its input."""
        return x + self.dropout(y, training=training)


@keras.saving.register_keras_serializable(PACKAGE, "EncoderLayer")
class _EncoderLayer(_TransformerLayer):
    """Self-attention among the cells, then feed-forward; takes the arguments of the base class."""

    def __init__(self, **arguments: Any):
        super().__init__(**arguments)
        self.norm = self.make_norm("norm")
        self.attention = self.make_attention("attention")
        self.make_feed_forward()

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        """`[batch, cells, width]` → `[batch, cells, width]`."""
        y = self.norm(x)
        x = self.add(x, self.attention(y, *self.attention.project_memory(y), training=training), training)
        return self.add(x, self.feed_forward(x, training=training), training)


@keras.saving.register_keras_serializable(PACKAGE, "DecoderLayer")
class _DecoderLayer(_TransformerLayer):
    """Self-attention among the words, attention to the cells, then feed-forward; arguments of the base class."""

    def __init__(self, **arguments: Any):
        super().__init__(**arguments)
        self.words_norm = self.make_norm("words_norm")
        self.words = self.make_attention("words")
        self.photo_norm = self.make_norm("photo_norm")
        self.photo = self.make_attention("photo")
        self.make_feed_forward()

    def attend_to_words(self, x: Tensor, training: bool = False) -> Tensor:
        """Causal self-attention over `[rows, length, width]`."""
        y = self.words_norm(x)
        positions = ops.arange(ops.shape(x)[1])
        causal = positions[:, None] >= positions[None, :]
        y = self.words(y, *self.words.project_memory(y), visible=causal, training=training)
        return self.add(x, y, training)

    def attend_to_photo(self, x: Tensor, memory: tuple[Tensor, Tensor], training: bool = False) -> Tensor:
        """Cross-attention of `[batch, rows, width]` over the photo's keys and values, then feed-forward."""
        x = self.add(x, self.photo(self.photo_norm(x), *memory, training=training), training)
        return self.add(x, self.feed_forward(x, training=training), training)

    def step(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        here: Tensor,
        seen: Tensor,
        memory: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Passes one position on, and writes its key and value into its slot.

        Args:
          x: `[batch, beams, width]`.
          keys, values: of self-attention, `[batch, beams, heads, slots, width / heads]`.
          here: which slot is that of the position, `[slots, 1]`, bool.
          seen: which slots are up to the position, `[slots]`, bool.
          memory: the photo's keys and values for attention to it.

        Returns:
          The output, `[batch, beams, width]`, and the new keys and values.
        """
        batch, beams, _ = ops.shape(x)
        y = self.words_norm(x)
        per_head = (batch, beams, self.words.heads, 1, self.words.size)
        keys = ops.where(here, ops.reshape(self.words.key(y), per_head), keys)
        values = ops.where(here, ops.reshape(self.words.value(y), per_head), values)
        weights = self.words.weights_of(ops.reshape(self.words.query(y), per_head), keys, seen)
        y = ops.reshape(ops.matmul(weights, values), (batch, beams, self.words.width))
        x = x + self.words.output_projection(y)
        return self.attend_to_photo(x, memory), keys, values
