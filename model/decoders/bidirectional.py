"""A merge decoder whose words pass a bidirectional LSTM, then another: they are read anew for each prediction."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from beamscribe.model import keras_internals
from beamscribe.model.decoders.base import PACKAGE, State
from beamscribe.model.decoders.merge import MergingDecoder
from beamscribe.model.tensors import Tensor
from beamscribe.model.words.vocabulary import PAD


@keras.saving.register_keras_serializable(PACKAGE)
class BidirectionalMergeDecoder(MergingDecoder):
    """Encodes the words before with a bidirectional LSTM and an LSTM, and merges the last output with the photo's.

    Read backwards, the words before start with the last one: every prediction has a sequence of its own, and no
    state to go on from.

    Args:
      bidirectional_units: size of the output of each of the first two LSTMs.
      name: of the Keras model.
      decoder: the arguments of `MergingDecoder`.
    """

    def __init__(self, *, bidirectional_units: int, name: str = "bidirectional_merge", **decoder: Any):
        super().__init__(name=name, **decoder)
        # The number of prefixes, and in a step their length, depends on the data: XLA needs to know both beforehand.
        keras_internals.never_compile_by_xla(self)
        # An exported model must run without a GPU: so none of its steps may use cuDNN.
        options = {"use_cudnn": False, "dtype": self.dtype_policy}
        self.forward_lstm = keras.layers.LSTM(
            bidirectional_units, return_sequences=True, name="forward_lstm", **options
        )
        self.backward_lstm = keras.layers.LSTM(
            bidirectional_units, return_sequences=True, go_backwards=True, name="backward_lstm", **options
        )
        self.lstm = keras.layers.LSTM(self.units, name="lstm", **options)
        self.merged_output = self.make_output()
        self.backward_lstm.build((None, None, self.word_size))
        self.lstm.build((None, None, 2 * bidirectional_units))
        self.create_variables()

    def get_config(self) -> dict[str, Any]:
        """As the base class says."""
        return {**super().get_config(), "bidirectional_units": self.forward_lstm.units}

    def call(self, inputs: tuple[Tensor, Tensor], training: bool = False) -> Tensor:
        """As the base class says; `length` must be known beforehand. Logits at padding mean nothing."""
        features, tokens = inputs
        batch, captions, length = ops.shape(tokens)
        photo = self.photo(features, training=training)
        words = self.word_dropout(self.words(tokens), training=training)
        words = ops.reshape(words, (batch * captions, length, self.word_size))
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

    def initial_state(self, features: Tensor, beams: Tensor) -> State:
        """As the base class says; the words' state is the words themselves."""
        ids = ops.full((ops.shape(features)[0], beams, self.slots), PAD, "int32")
        return State(photo=self.photo(features), words=(ids,))

    def step(self, tokens: Tensor, position: Tensor, state: State) -> tuple[Tensor, State]:
        """As the base class says."""
        (ids,) = state.words
        batch, beams, _ = ops.shape(ids)
        ids = ops.where(ops.arange(self.slots) == position, tokens[..., None], ids)
        words = self.words(ops.reshape(ids, (batch * beams, self.slots))[:, : position + 1])
        both = [self.forward_lstm(words), self.backward_lstm(words)[:, ::-1]]
        encoded = self.lstm(ops.concatenate(both, axis=-1))
        encoded = ops.reshape(encoded, (batch, beams, self.units))
        return self.merged_output(state.photo[:, None], encoded), State(state.photo, (ids,))

    def _read_backward(self, words: Tensor, last: Tensor, rows: Sequence[Tensor]) -> Tensor:
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

    def _read_forward(
        self, forward: Tensor, backward: Tensor, start: Tensor, last: Tensor, rows: Sequence[Tensor]
    ) -> Tensor:
        """Reads the outputs of both LSTMs for each prefix.

        Args:
          forward: outputs of the forward LSTM for all captions' words in one row, `[words, bidirectional_units]`.
          backward: what `_read_backward` returned.
          start: place of each prefix's first word in `forward`.
          last: index of each prefix's last word in its caption.
          rows: as for `_read_backward`.

        Returns:
          The last output of each prefix, `[prefixes, units]`.
        """
        first_of = ops.cumsum(ops.stack(rows)) - ops.stack(rows)
        h, c = self.lstm.get_initial_state(rows[0])
        outputs = []
        for place, (count, going_on) in enumerate(zip(rows, [*rows[1:], 0], strict=True)):
            from_backward = ops.take(first_of, last[:count] - place) + ops.arange(count)
            x = [ops.take(forward, start[:count] + place, axis=0), ops.take(backward, from_backward, axis=0)]
            _, (h, c) = self.lstm.cell(ops.concatenate(x, axis=-1), [h[:count], c[:count]])
            outputs.append(h[going_on:])
        return ops.concatenate(outputs[::-1], axis=0)


def _flat(x: Tensor) -> Tensor:
    """`[captions, length, size]` → `[captions · length, size]`."""
    return ops.reshape(x, (-1, x.shape[-1]))
