"""What recurrent decoders share: word vectors, a photo's vector, and steps of an LSTM for beams."""

import keras
import numpy as np
from keras import ops

from beamscribe.model.errors import UserError


def word_embedding(
    vocabulary_size: int, word_size: int | None, vectors: np.ndarray | None, freeze_vectors: bool
) -> keras.layers.Embedding:
    """Makes the table of word vectors, built.

    Args:
      vocabulary_size: number of ids, specials included.
      word_size: numbers of a learned vector; None where `vectors` are given.
      vectors: what the table starts from, `[vocabulary_size, size]`, float32; random numbers where it is None.
      freeze_vectors: keep `vectors` as they are.

    Raises:
      ValueError: there is neither a size nor vectors, or there are both.
    """
    if (word_size is None) == (vectors is None):
        raise ValueError("word vectors need either word_size, to be learned, or vectors to start from")
    size = word_size if vectors is None else vectors.shape[1]
    embedding = keras.layers.Embedding(vocabulary_size, size, name="words")
    embedding.build()
    if vectors is not None:
        embedding.set_weights([vectors])
        embedding.trainable = not freeze_vectors
    return embedding


class PhotoVector(keras.layers.Layer):
    """One vector for a photo: its cells' mean, or all of them in a row, through dense layers with ReLU.

    Args:
      image: `pooled`, for the mean, or `flattened`.
      image_layers: sizes of the dense layers.
      dropout: share of the inputs of each that is dropped in training.
    """

    def __init__(self, image: str, image_layers: list[int], dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.pool = keras.layers.GlobalAveragePooling2D() if image == "pooled" else keras.layers.Flatten()
        self.dropouts = [keras.layers.Dropout(dropout) for _ in image_layers]
        self.dense = [
            keras.layers.Dense(size, activation="relu", name=f"dense_{i}") for i, size in enumerate(image_layers)
        ]

    def call(self, features, training=False):
        """`[batch, height, width, channels]` → `[batch, size]`."""
        x = self.pool(features)
        for drop, dense in zip(self.dropouts, self.dense, strict=True):
            x = dense(drop(x, training=training))
        return x


class MergedOutput(keras.layers.Layer):
    """Logits of the next word, from a photo's vector and that of the words before it (Tanti et al. 2018).

    Args:
      vocabulary_size: number of ids, specials included.
      photo_size, words_size: sizes of the two vectors.
      merge: `add`, which needs equal sizes, or `concatenate`.
      hidden: size of the hidden layer, with ReLU, between what is merged and the logits.

    Raises:
      UserError: vectors of different sizes are to be added.
    """

    def __init__(self, vocabulary_size: int, photo_size: int, words_size: int, merge: str, hidden: int, **kwargs):
        super().__init__(**kwargs)
        if merge == "add" and photo_size != words_size:
            raise UserError(
                "decoder.merge: add needs the last of image_layers and units to be equal, "
                f"found {photo_size} and {words_size}"
            )
        self.merge = merge
        self.hidden = keras.layers.Dense(hidden, activation="relu", name="hidden")
        self.logits = keras.layers.Dense(vocabulary_size, dtype="float32", name="logits")

    def call(self, photo, words):
        """`[…, photo_size]`, where axes may be 1, and `[…, words_size]` → `[…, vocabulary]`, float32."""
        if self.merge == "add":
            x = photo + words
        else:
            photo = ops.broadcast_to(photo, (*ops.shape(words)[:-1], photo.shape[-1]))
            x = ops.concatenate([photo, words], axis=-1)
        return self.logits(self.hidden(x))


def lstm_step(cell: keras.layers.LSTMCell, x, h, c):
    """Runs an LSTM's cell once on `[batch, beams, size]`; returns its h and c, `[batch, beams, units]`."""
    batch, beams, size = ops.shape(x)
    rows = batch * beams
    states = [ops.reshape(state, (rows, cell.units)) for state in (h, c)]
    _, states = cell(ops.reshape(x, (rows, size)), states)
    h, c = (ops.reshape(state, (batch, beams, cell.units)) for state in states)
    return h, c
