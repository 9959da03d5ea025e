"""A merge decoder whose words pass a bidirectional LSTM, then another: they are read anew for each prediction."""

import keras
import numpy as np
from keras import ops

from beamscribe.model.decoders import parts
from beamscribe.model.decoders.base import Decoder, State
from beamscribe.model.words.vocabulary import PAD


class BidirectionalMergeDecoder(Decoder):
    """Encodes the words before with a bidirectional LSTM and an LSTM, and merges the last output with the photo's.

    Read backwards, the words before start with the last one: every prediction has a sequence of its own, and no
    state to go on from.

    Args:
      vocabulary_size: number of ids, specials included.
      grid: (height, width, channels) of the feature grid.
      slots: the largest number of positions: the words of the longest caption and the end token.
      image: `pooled`, for the mean of the grid's cells, or `flattened`, for all of them.
      image_layers: sizes of the dense layers that make the photo's vector.
      bidirectional_units: size of the output of each of the first two LSTMs.
      units: size of the last LSTM's output.
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
        bidirectional_units: int,
        units: int,
        merge: str,
        hidden: int,
        dropout: float,
        word_size: int | None = None,
        vectors: np.ndarray | None = None,
        freeze_vectors: bool = False,
    ):
        super().__init__(name="bidirectional_merge")
        # The number of prefixes, and in a step their length, depends on the data: XLA needs to know both beforehand.
        self.supports_jit = False
        self.vocabulary_size, self.grid, self.slots = vocabulary_size, grid, slots
        self.photo = parts.PhotoVector(image, image_layers, dropout, name="photo")
        self.words = parts.word_embedding(vocabulary_size, word_size, vectors, freeze_vectors)
        self.word_dropout = keras.layers.Dropout(dropout)
        # An exported model must run without a GPU: so none of its steps may use cuDNN.
        self.forward_lstm = keras.layers.LSTM(
            bidirectional_units, return_sequences=True, use_cudnn=False, name="forward_lstm"
        )
        self.backward_lstm = keras.layers.LSTM(
            bidirectional_units, return_sequences=True, go_backwards=True, use_cudnn=False, name="backward_lstm"
        )
        self.lstm = keras.layers.LSTM(units, use_cudnn=False, name="lstm")
        self.merged_output = parts.MergedOutput(
            vocabulary_size, image_layers[-1], units, merge, hidden, name="merged_output"
        )
        self.backward_lstm.build((None, None, self.words.output_dim))
        self.lstm.build((None, None, 2 * bidirectional_units))
        self.create_variables(grid)

    def call(self, inputs, training=False):
        """As the base class says; `length` must be known beforehand. Logits at padding mean nothing."""
        features, tokens = inputs
        batch, captions, length = ops.shape(tokens)
        photo = self.photo(features, training=training)
        words = self.word_dropout(self.words(tokens), training=training)
        words = ops.reshape(words, (batch * captions, length, self.words.output_dim))
        # Read forwards, the words before are the beginning of the caption: once is enough for all prefixes.
        forward = self.forward_lstm(words)

        tokens = ops.reshape(tokens, (batch * captions, length))
        # Prefixes that end with padding weigh nothing. The others become rows, the longest first: whatever
        # the number of words, the prefixes that have as many are the first rows.
        ends = ops.transpose(tokens[:, ::-1]) != PAD
        # The longest of the first caption is always one: of no rows at all, Keras's sums fail.
        ends = ends | (ops.arange(length)[:, None] + ops.arange(batch * captions) == 0)
        ends, caption = ops.nonzero(ends)
        last, start = length - 1 - ends, caption * length
        rows = [ops.sum(ops.cast(last >= place, "int32")) for place in range(length)]
        backward = self._read_backward(_flat(words), start + last, rows)
        encoded = self._read_forward(_flat(forward), backward, start, last, rows)
        logits = self.merged_output(ops.take(photo, caption // captions, axis=0), encoded)
        logits = ops.scatter((start + last)[:, None], logits, (batch * captions * length, self.vocabulary_size))
        return ops.reshape(logits, (batch, captions, length, self.vocabulary_size))

    def initial_state(self, features, beams) -> State:
        """As the base class says; the words' state is the words themselves."""
        ids = ops.full((ops.shape(features)[0], beams, self.slots), PAD, "int32")
        return State(photo=self.photo(features), words=(ids,))

    def step(self, tokens, position, state: State):
        """As the base class says."""
        (ids,) = state.words
        batch, beams, _ = ops.shape(ids)
        ids = ops.where(ops.arange(self.slots) == position, tokens[..., None], ids)
        words = self.words(ops.reshape(ids, (batch * beams, self.slots))[:, : position + 1])
        both = [self.forward_lstm(words), self.backward_lstm(words)[:, ::-1]]
        encoded = self.lstm(ops.concatenate(both, axis=-1))
        encoded = ops.reshape(encoded, (batch, beams, self.lstm.units))
        return self.merged_output(state.photo[:, None], encoded), State(state.photo, (ids,))

    def _read_backward(self, words, last, rows):
        """Reads each prefix from its last word on.

        Args:
          words: vectors of all captions' words in one row.
          last: place of each prefix's last word in it.
          rows: how many prefixes have more than 0, 1, … words.

        Returns:
          The outputs for the last word of each prefix, then for the last but one of those that have it, and so on.
        """
        h, c = self.backward_lstm.get_initial_state(rows[0])
        outputs = []
        for back, count in enumerate(rows):
            _, (h, c) = self.backward_lstm.cell(ops.take(words, last[:count] - back, axis=0), [h[:count], c[:count]])
            outputs.append(h)
        return ops.concatenate(outputs, axis=0)

    def _read_forward(self, forward, backward, start, last, rows):
        """Reads the outputs of both LSTMs for each prefix; returns the last output."""
        first_of = ops.cumsum(ops.stack(rows)) - ops.stack(rows)
        h, c = self.lstm.get_initial_state(rows[0])
        outputs = []
        for place, (count, going_on) in enumerate(zip(rows, [*rows[1:], 0], strict=True)):
            from_backward = ops.take(first_of, last[:count] - place) + ops.arange(count)
            x = [ops.take(forward, start[:count] + place, axis=0), ops.take(backward, from_backward, axis=0)]
            _, (h, c) = self.lstm.cell(ops.concatenate(x, axis=-1), [h[:count], c[:count]])
            outputs.append(h[going_on:])
        return ops.concatenate(outputs[::-1], axis=0)


def _flat(x):
    """`[captions, length, size]` → `[captions · length, size]`."""
    return ops.reshape(x, (-1, x.shape[-1]))
