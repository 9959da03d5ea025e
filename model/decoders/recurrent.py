"""What recurrent decoders share: the table of word vectors, and steps of an LSTM for beams."""

from typing import Any

import keras
import numpy as np
from keras import ops

from beamscribe.model.decoders.base import Decoder
from beamscribe.model.tensors import Tensor


class RecurrentDecoder(Decoder):
    """A decoder with a table of word vectors, which are learned or start from pretrained ones.

    Pretrained vectors are weights: a decoder's config has their size, and whether they are kept, not the vectors. A
    decoder that is made from its config has random ones until its weights are loaded.

    Attributes:
      word_size: numbers of a word vector.
      freeze_vectors: the argument.

    Args:
      word_size: numbers of a word vector; None where `vectors` are given.
      vectors: word vectors to start from, `[vocabulary_size, word_size]`, float32; random ones where it is None.
      freeze_vectors: keep word vectors as they are, those given here or loaded later.
      decoder: the arguments of `Decoder`.

    Raises:
      ValueError: there is neither a size nor vectors, or there are both.
    """

    def __init__(
        self,
        *,
        word_size: int | None = None,
        vectors: np.ndarray | None = None,
        freeze_vectors: bool = False,
        **decoder: Any,
    ):
        super().__init__(**decoder)
        if (word_size is None) == (vectors is None):
            raise ValueError("word vectors need either word_size, to be learned, or vectors to start from")
        self.word_size = word_size if vectors is None else vectors.shape[1]
        self.freeze_vectors = freeze_vectors
        self._vectors = vectors

    def get_config(self) -> dict[str, Any]:
        """As the base class says."""
        return {**super().get_config(), "word_size": self.word_size, "freeze_vectors": self.freeze_vectors}

    def make_words(self) -> keras.layers.Embedding:
        """Makes the table of word vectors, built; for constructors to keep as `words`."""
        words = keras.layers.Embedding(self.vocabulary_size, self.word_size, dtype=self.dtype_policy, name="words")
        words.build()
        if self._vectors is not None:
            words.set_weights([self._vectors])
            # They are weights now, and need not be in memory twice.
            self._vectors = None
        # Said before it is built, it would not reach the variable.
        words.trainable = not self.freeze_vectors
        return words


def lstm_step(cell: keras.layers.LSTMCell, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Runs an LSTM's cell once on `[batch, beams, size]`; returns its h and c, `[batch, beams, units]`."""
    batch, beams, size = ops.shape(x)
    rows = batch * beams
    states = [ops.reshape(state, (rows, cell.units)) for state in (h, c)]
    _, states = cell(ops.reshape(x, (rows, size)), states)
    h, c = (ops.reshape(state, (batch, beams, cell.units)) for state in states)
    return h, c
