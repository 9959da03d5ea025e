"""A merge decoder: the photo joins after the LSTM, not in it (Tanti et al. 2018, arXiv:1703.09137)."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from beamscribe.model.decoders.base import PACKAGE, State
from beamscribe.model.decoders.recurrent import RecurrentDecoder, lstm_step
from beamscribe.model.errors import InputError
from beamscribe.model.tensors import Tensor


@keras.saving.register_keras_serializable(PACKAGE)
class PhotoVector(keras.layers.Layer):
    """One vector for a photo: its cells' mean, or all of them in a row, through dense layers with ReLU.

    Attributes:
      image, dropout: the arguments.

    Args:
      image: `pooled`, for the mean, or `flattened`.
      image_layers: sizes of the dense layers.
      dropout: share of the inputs of each that is dropped in training.
      layer: the arguments of `keras.layers.Layer`.
    """

    def __init__(self, image: str, image_layers: Sequence[int], dropout: float, **layer: Any):
        super().__init__(**layer)
        self.image, self.dropout = image, dropout
        dtype = self.dtype_policy
        pool = keras.layers.GlobalAveragePooling2D if image == "pooled" else keras.layers.Flatten
        self.pool = pool(dtype=dtype)
        self.dropouts = [keras.layers.Dropout(dropout, dtype=dtype) for _ in image_layers]
        self.dense = [
            keras.layers.Dense(size, activation="relu", dtype=dtype, name=f"dense_{i}")
            for i, size in enumerate(image_layers)
        ]

    @property
    def sizes(self) -> list[int]:
        """Sizes of the dense layers; the last one is that of the vector."""
        return [dense.units for dense in self.dense]

    def get_config(self) -> dict[str, Any]:
        """The arguments that make such a layer."""
        return {**super().get_config(), "image": self.image, "image_layers": self.sizes, "dropout": self.dropout}

    def call(self, features: Tensor, training: bool = False) -> Tensor:
        """`[batch, height, width, channels]` → `[batch, size]`."""
        x = self.pool(features)
        for drop, dense in zip(self.dropouts, self.dense, strict=True):
            x = dense(drop(x, training=training))
        return x


@keras.saving.register_keras_serializable(PACKAGE)
class MergedOutput(keras.layers.Layer):
    """Logits of the next word, from a photo's vector and that of the words before it.

    Attributes:
      photo_size, words_size, merge: the arguments.

    Args:
      vocabulary_size: number of ids, specials included.
      photo_size, words_size: sizes of the two vectors.
      merge: `add`, which needs equal sizes, or `concatenate`.
      hidden: size of the hidden layer, with ReLU, between what is merged and the logits.
      layer: the arguments of `keras.layers.Layer`.

    Raises:
      InputError: vectors of different sizes are to be added.
    """

    def __init__(self, vocabulary_size: int, photo_size: int, words_size: int, merge: str, hidden: int, **layer: Any):
        super().__init__(**layer)
        if merge == "add" and photo_size != words_size:
            raise InputError(
                "decoder.merge: add needs the last of image_layers and units to be equal, "
                f"found {photo_size} and {words_size}"
            )
        self.photo_size, self.words_size, self.merge = photo_size, words_size, merge
        self.hidden = keras.layers.Dense(hidden, activation="relu", dtype=self.dtype_policy, name="hidden")
        self.logits = keras.layers.Dense(vocabulary_size, dtype="float32", name="logits")

    def get_config(self) -> dict[str, Any]:
        """The arguments that make such a layer."""
        sizes = {"photo_size": self.photo_size, "words_size": self.words_size, "hidden": self.hidden.units}
        return {**super().get_config(), "vocabulary_size": self.logits.units, "merge": self.merge, **sizes}

    def call(self, photo: Tensor, words: Tensor) -> Tensor:
        """`[…, photo_size]`, where axes may be 1, and `[…, words_size]` → `[…, vocabulary]`, float32."""
        if self.merge == "add":
            x = photo + words
        else:
            photo = ops.broadcast_to(photo, (*ops.shape(words)[:-1], photo.shape[-1]))
            x = ops.concatenate([photo, words], axis=-1)
        return self.logits(self.hidden(x))


class MergingDecoder(RecurrentDecoder):
    """What merge decoders share: everything but the layers that encode the words before.

    Args:
      image: `pooled`, for the mean of the grid's cells, or `flattened`, for all of them.
      image_layers: sizes of the dense layers that make the photo's vector.
      units: size of the output of the LSTM whose output is merged with the photo's vector.
      merge: `add`, which needs the last of `image_layers` and `units` to be equal, or `concatenate`.
      hidden: size of the layer between what is merged and the logits.
      decoder: the arguments of `RecurrentDecoder`.
    """

    def __init__(self, *, image: str, image_layers: list[int], units: int, merge: str, hidden: int, **decoder: Any):
        super().__init__(**decoder)
        self.units, self.merge, self.hidden = units, merge, hidden
        self.photo = PhotoVector(image, image_layers, self.dropout, dtype=self.dtype_policy, name="photo")
        self.words = self.make_words()
        self.word_dropout = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy)

    def get_config(self) -> dict[str, Any]:
        """As the base class says."""
        photo = {"image": self.photo.image, "image_layers": self.photo.sizes}
        return {**super().get_config(), **photo, "units": self.units, "merge": self.merge, "hidden": self.hidden}

    def make_output(self) -> MergedOutput:
        """Makes the layers behind the LSTM; for constructors to keep as `merged_output`.

        Raises:
          InputError: vectors of different sizes are to be added.
        """
        sizes = (self.vocabulary_size, self.photo.sizes[-1], self.units)
        return MergedOutput(*sizes, self.merge, self.hidden, dtype=self.dtype_policy, name="merged_output")


@keras.saving.register_keras_serializable(PACKAGE)
class MergeDecoder(MergingDecoder):
    """Encodes the words before with an LSTM, and merges its output with the photo's vector to predict the next one.

    Args:
      name: of the Keras model.
      decoder: the arguments of `MergingDecoder`.
    """

    def __init__(self, *, name: str = "merge", **decoder: Any):
        super().__init__(name=name, **decoder)
        self.lstm = keras.layers.LSTM(
            self.units, return_sequences=True, unroll=True, dtype=self.dtype_policy, name="lstm"
        )
        self.merged_output = self.make_output()
        self.create_variables()

    def call(self, inputs: tuple[Tensor, Tensor], training: bool = False) -> Tensor:
        """As the base class says."""
        features, tokens = inputs
        batch, captions, length = ops.shape(tokens)
        photo = self.photo(features, training=training)
        x = self.word_dropout(self.words(tokens), training=training)
        # The LSTM has seen at each position what it would have seen of that prefix alone.
        x = self.lstm(ops.reshape(x, (batch * captions, length, self.word_size)))
        x = ops.reshape(x, (batch, captions, length, self.units))
        return self.merged_output(photo[:, None, None], x)

    def initial_state(self, features: Tensor, beams: Tensor) -> State:
        """As the base class says; the words' state is the LSTM's."""
        empty = ops.zeros((ops.shape(features)[0], beams, self.units), self.compute_dtype)
        return State(photo=self.photo(features), words=(empty, empty))

    def step(self, tokens: Tensor, position: Tensor, state: State) -> tuple[Tensor, State]:
        """As the base class says."""
        h, c = lstm_step(self.lstm.cell, self.words(tokens), *state.words)
        return self.merged_output(state.photo[:, None], h), State(state.photo, (h, c))
