"""Turning a decoder's predictions into captions: beam search, and sampling for self-critical training."""

import keras
import numpy as np
from keras import ops

from model.vocabulary import END, PAD, START, UNKNOWN

IMPOSSIBLE = -1e9
# Beams rank by log-probability / length ** LENGTH_POWER: the plain sum favours short captions. Above 1, it favours
# long ones, which makes up for the shortness that self-critical training teaches.
LENGTH_POWER = 1.3


def beam_search(decoder, features, beam_width, max_length):
    """Writes the most probable captions of each photo.

    Args:
      decoder: has `initial_state`, `step`, `reorder`, `slots` and `vocabulary_size` (`TransformerDecoder`).
      features: `[batch, height, width, channels]`, float.
      beam_width: captions to keep at each step, a number or an int32 scalar.
      max_length: most words in a caption, at most `decoder.slots - 1`, a number or an int32 scalar.

    Returns:
      Ids `[batch, beam_width, decoder.slots]`, int32, `PAD` after `END`, best first; and the mean
      log-probability a token, the end token counted, `[batch, beam_width]`, float32, nats.
    """
    batch = ops.shape(features)[0]
    vocabulary = ops.arange(decoder.vocabulary_size)
    # What has ended can only be padded, at no cost.
    padding = ops.where(vocabulary == PAD, 0.0, IMPOSSIBLE)

    def unfinished(position, last, ids, totals, keys, values):
        return (position <= max_length) & ops.any(~_ended(last))

    def advance(position, last, ids, totals, keys, values):
        logits, state = decoder.step(last, position, initial._replace(keys=keys, values=values))
        log_probabilities = _writable(ops.log_softmax(logits), position, max_length)
        log_probabilities = ops.where(_ended(last)[..., None], padding, log_probabilities)
        candidates = ops.reshape(totals[..., None] + log_probabilities, (batch, beam_width * decoder.vocabulary_size))
        totals, chosen = ops.top_k(candidates, beam_width)
        chosen = ops.cast(chosen, "int32")
        parents, last = chosen // decoder.vocabulary_size, chosen % decoder.vocabulary_size
        state = decoder.reorder(state, parents)
        ids = _write(ops.take_along_axis(ids, parents[..., None], axis=1), last, position)
        return position + 1, last, ids, totals, state.keys, state.values

    initial = decoder.initial_state(features, beam_width)
    # All beams start alike: only the first may go on from the start token.
    totals = ops.where(ops.arange(beam_width) == 0, 0.0, IMPOSSIBLE) + ops.zeros((batch, 1))
    start = ops.full((batch, beam_width), START, dtype="int32")
    ids = ops.zeros((batch, beam_width, decoder.slots), dtype="int32")
    _, _, ids, totals, _, _ = ops.while_loop(
        unfinished, advance, (ops.convert_to_tensor(0, "int32"), start, ids, totals, initial.keys, initial.values)
    )
    lengths = ops.cast(ops.maximum(ops.sum(ops.cast(ids != PAD, "int32"), axis=-1), 1), "float32")
    best_first = ops.argsort(-totals / lengths**LENGTH_POWER, axis=-1)
    ids = ops.take_along_axis(ids, best_first[..., None], axis=1)
    return ids, ops.take_along_axis(totals / lengths, best_first, axis=1)


def sample(decoder, features, captions: int, max_length: int, noise):
    """Draws captions from the decoder's distribution (Gumbel-max).

    Args:
      decoder, features: as for `beam_search`.
      captions: how many to draw for each photo.
      max_length: most words in a caption.
      noise: standard Gumbel noise `[max_length + 1, batch, captions, vocabulary]`, float32.

    Returns:
      Ids `[batch, captions, decoder.slots]`, int32, `PAD` after `END`.
    """
    batch = ops.shape(features)[0]

    def unfinished(position, last, ids, keys, values):
        return (position <= max_length) & ops.any(~_ended(last))

    def advance(position, last, ids, keys, values):
        logits, state = decoder.step(last, position, initial._replace(keys=keys, values=values))
        drawn = ops.argmax(_writable(logits, position, max_length) + ops.take(noise, position, axis=0), axis=-1)
        last = ops.where(_ended(last), PAD, ops.cast(drawn, "int32"))
        return position + 1, last, _write(ids, last, position), state.keys, state.values

    initial = decoder.initial_state(features, captions)
    start = ops.full((batch, captions), START, dtype="int32")
    ids = ops.zeros((batch, captions, decoder.slots), dtype="int32")
    loop = (ops.convert_to_tensor(0, "int32"), start, ids, initial.keys, initial.values)
    return ops.while_loop(unfinished, advance, loop)[2]


def _ended(last):
    return (last == END) | (last == PAD)


def _writable(scores, position, max_length):
    """Rules out what is no word, `END` as the first, and all but `END` after the longest caption."""
    vocabulary = np.arange(scores.shape[-1])
    no_word = np.isin(vocabulary, (PAD, START, UNKNOWN))
    out_of_place = ((position == 0) & (vocabulary == END)) | ((position == max_length) & (vocabulary != END))
    return ops.where(no_word | out_of_place, IMPOSSIBLE, scores)


def _write(ids, last, position):
    return ops.where(ops.arange(ids.shape[-1]) == position, last[..., None], ids)


class BeamSearch(keras.Model):
    """`beam_search` as a Keras model, so that `predict` compiles it on any backend."""

    def __init__(self, decoder, beam_width: int, max_length: int):
        super().__init__(name="beam_search")
        self.decoder, self.beam_width, self.max_length = decoder, beam_width, max_length

    def call(self, features):
        """`[batch, height, width, channels]` → ids and scores, as `beam_search` returns them."""
        return beam_search(self.decoder, features, self.beam_width, self.max_length)


class Sampler(keras.Model):
    """`sample` as a Keras model; each call draws anew."""

    def __init__(self, decoder, captions: int, max_length: int, seed: int):
        super().__init__(name="sampler")
        self.decoder, self.captions, self.max_length = decoder, captions, max_length
        self.seeds = keras.random.SeedGenerator(seed)

    def call(self, features):
        """`[batch, height, width, channels]` → ids `[batch, captions, slots]`."""
        shape = (self.max_length + 1, ops.shape(features)[0], self.captions, self.decoder.vocabulary_size)
        uniform = keras.random.uniform(shape, minval=1e-7, maxval=1.0, seed=self.seeds)
        return sample(self.decoder, features, self.captions, self.max_length, -ops.log(-ops.log(uniform)))
