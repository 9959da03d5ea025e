"""Turning a decoder's predictions into captions: beam search and sampling, with the same rules for both."""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from beamscribe.model.decoders.base import Decoder, State
from beamscribe.model.tensors import Tensor
from beamscribe.model.words.vocabulary import END, PAD, START, UNKNOWN

IMPOSSIBLE = -1e9
# Ids that no caption holds; `END` is written where a caption ends.
NO_WORD = (PAD, START, UNKNOWN)


class Rules(NamedTuple):
    """What a caption must look like. Each is a number or an int32 scalar.

    Attributes:
      max_length: most words, at most `decoder.slots - 1`.
      min_length: fewest words; at least one is always written.
      no_repeat_ngram: no sequence of so many words occurs twice in a caption; 0 allows all.
    """

    max_length: Tensor
    min_length: Tensor = 1
    no_repeat_ngram: Tensor = 0


def beam_search(
    decoder: Decoder, features: Tensor, beam_width: Tensor, rules: Rules, length_penalty: Tensor
) -> tuple[Tensor, Tensor]:
    """Writes the most probable captions of each photo.

    Finished captions compete with unfinished ones for the beam, and are ranked at the end by log-probability over
    the length penalty of Wu et al. 2016 (arXiv:1609.08144, equation 14), without its coverage term:
    `((5 + length) / 6) ** length_penalty`.

    Args:
      decoder: what predicts the words.
      features: `[batch, height, width, channels]`, float.
      beam_width: captions to keep at each step, a number or an int32 scalar.
      rules: what the captions must look like.
      length_penalty: the exponent, a number or a float32 scalar; 0 ranks by the plain sum, which favours short ones.

    Returns:
      Ids `[batch, beam_width, decoder.slots]`, int32, `PAD` after `END`, best first; and the mean
      log-probability a token, the end token counted, `[batch, beam_width]`, float32, nats.
    """
    batch = ops.shape(features)[0]
    vocabulary = ops.arange(decoder.vocabulary_size)
    # What has ended can only be padded, at no cost.
    padding = ops.where(vocabulary == PAD, 0.0, IMPOSSIBLE)

    def unfinished(position: Tensor, last: Tensor, ids: Tensor, totals: Tensor, words: tuple) -> Tensor:
        return (position <= rules.max_length) & ops.any(~_ended(last))

    def advance(position: Tensor, last: Tensor, ids: Tensor, totals: Tensor, words: tuple) -> tuple:
        logits, state = decoder.step(last, position, State(photo, words))
        log_probabilities = _permitted(ops.log_softmax(logits), ids, position, rules)
        log_probabilities = ops.where(_ended(last)[..., None], padding, log_probabilities)
        candidates = ops.reshape(totals[..., None] + log_probabilities, (batch, beam_width * decoder.vocabulary_size))
        totals, chosen = ops.top_k(candidates, beam_width)
        chosen = ops.cast(chosen, "int32")
        parents, last = chosen // decoder.vocabulary_size, chosen % decoder.vocabulary_size
        ids = _write(ops.take_along_axis(ids, parents[..., None], axis=1), last, position)
        return position + 1, last, ids, totals, _reorder(state.words, parents)

    photo, words = decoder.initial_state(features, beam_width)
    # All beams start alike: only the first may go on from the start token.
    totals = ops.where(ops.arange(beam_width) == 0, 0.0, IMPOSSIBLE) + ops.zeros((batch, 1))
    start = ops.full((batch, beam_width), START, dtype="int32")
    ids = ops.zeros((batch, beam_width, decoder.slots), dtype="int32")
    loop = (ops.convert_to_tensor(0, "int32"), start, ids, totals, words)
    _, _, ids, totals, _ = ops.while_loop(unfinished, advance, loop)
    lengths = _lengths(ids)
    best_first = ops.argsort(-totals / ((5 + lengths) / 6) ** length_penalty, axis=-1)
    ids = ops.take_along_axis(ids, best_first[..., None], axis=1)
    return ids, ops.take_along_axis(totals / lengths, best_first, axis=1)


def sample(
    decoder: Decoder,
    features: Tensor,
    uniforms: Tensor,
    rules: Rules,
    top_p: Tensor | None = None,
    temperature: Tensor = 1.0,
) -> tuple[Tensor, Tensor]:
    """Draws captions from the decoder's distribution.

    Args:
      decoder, features, rules: as for `beam_search`.
      uniforms: `[batch, captions, decoder.slots]`, float32, in [0, 1): the randomness, and how many captions to draw
        for each photo. Equal numbers give equal captions, whatever else is in the batch.
      top_p: draw only from the most probable words that together have this probability (nucleus sampling, Holtzman
        et al. 2020, arXiv:1904.09751); a number or a float32 scalar; None draws from all words.
      temperature: divides the logits; above 1 for more varied captions.

    Returns:
      Ids `[batch, captions, decoder.slots]`, int32, `PAD` after `END`, in the order of `uniforms`; and the mean
      log-probability a token, at temperature 1, `[batch, captions]`, float32, nats.
    """
    # Rounded to 1, a draw would lie past the last word.
    uniforms = ops.minimum(uniforms, 1 - 1e-6)

    def unfinished(position: Tensor, last: Tensor, ids: Tensor, totals: Tensor, words: tuple) -> Tensor:
        return (position <= rules.max_length) & ops.any(~_ended(last))

    def advance(position: Tensor, last: Tensor, ids: Tensor, totals: Tensor, words: tuple) -> tuple:
        logits, state = decoder.step(last, position, State(photo, words))
        probabilities = ops.softmax(_permitted(logits / temperature, ids, position, rules))
        drawn = _draw(probabilities, ops.take(uniforms, position, axis=-1), top_p)
        ended = _ended(last)
        log_probability = ops.take_along_axis(ops.log_softmax(logits), drawn[..., None], axis=-1)[..., 0]
        last = ops.where(ended, PAD, drawn)
        totals = totals + ops.where(ended, 0.0, log_probability)
        return position + 1, last, _write(ids, last, position), totals, state.words

    batch, captions, _ = ops.shape(uniforms)
    photo, words = decoder.initial_state(features, captions)
    start = ops.full((batch, captions), START, dtype="int32")
    ids = ops.zeros((batch, captions, decoder.slots), dtype="int32")
    loop = (ops.convert_to_tensor(0, "int32"), start, ids, ops.zeros((batch, captions)), words)
    _, _, ids, totals, _ = ops.while_loop(unfinished, advance, loop)
    return ids, totals / _lengths(ids)


def _draw(probabilities: Tensor, uniform: Tensor, top_p: Tensor | None) -> Tensor:
    """Inverts the distribution function at `uniform` `[batch, captions]`; returns ids of that shape."""
    if top_p is None:
        return _invert(probabilities, uniform)
    descending, ids = ops.top_k(probabilities, probabilities.shape[-1])
    before = ops.cumsum(descending, axis=-1) - descending
    nucleus = ops.where(before < top_p, descending, 0.0)
    place = _invert(nucleus, uniform)
    return ops.cast(ops.take_along_axis(ids, place[..., None], axis=-1)[..., 0], "int32")


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """The first place where the sum of `weights` `[…, places]` passes `uniform` `[…]` times that of all, int32."""
    cumulated = ops.cumsum(weights, axis=-1)
    reached = cumulated > uniform[..., None] * cumulated[..., -1:]
    # Compiled, sums are rounded each in its own way, and may rise where a weight is 0.
    return ops.argmax(reached & (weights > 0), axis=-1)


def _ended(last: Tensor) -> Tensor:
    return (last == END) | (last == PAD)


def _lengths(ids: Tensor) -> Tensor:
    """Tokens of each caption, the end token counted, float32."""
    return ops.cast(ops.maximum(ops.sum(ops.cast(ids != PAD, "int32"), axis=-1), 1), "float32")


def _permitted(scores: Tensor, ids: Tensor, position: Tensor, rules: Rules) -> Tensor:
    """Rules out what is no word, what the rules forbid, and all but `END` after the longest caption."""
    vocabulary = np.arange(scores.shape[-1])
    no_word = np.isin(vocabulary, NO_WORD)
    too_early = (position < ops.maximum(rules.min_length, 1)) & (vocabulary == END)
    too_late = (position == rules.max_length) & (vocabulary != END)
    scores = ops.where(no_word | too_early | too_late, IMPOSSIBLE, scores)
    return ops.cond(
        rules.no_repeat_ngram > 0,
        lambda: _without_repetition(scores, ids, position, rules.no_repeat_ngram),
        lambda: scores,
    )


def _without_repetition(scores: Tensor, ids: Tensor, position: Tensor, size: Tensor) -> Tensor:
    """Rules out every word that would repeat an n-gram of `size` words."""
    batch, rows, slots = ops.shape(ids)
    places, back = ops.arange(slots), ops.arange(1, slots)
    # A word is ruled out where the `size - 1` words before it are those before `position`.
    before_places = ops.take(ids, ops.maximum(places[:, None] - back, 0), axis=-1)
    before_position = ops.take(ids, ops.maximum(position - back, 0), axis=-1)[..., None, :]
    alike = (before_places == before_position) & (back <= places[:, None])
    repeats = ops.all(alike | (back >= size), axis=-1) & (places < position)
    # `PAD` is ruled out already.
    forbidden = ops.where(repeats, ids, PAD)
    row = ops.repeat(ops.arange(batch * rows), slots)
    flat = ops.scatter_update(
        ops.reshape(scores, (batch * rows, scores.shape[-1])),
        ops.stack([row, ops.reshape(forbidden, (-1,))], axis=-1),
        ops.full((batch * rows * slots,), IMPOSSIBLE, dtype=scores.dtype),
    )
    return ops.reshape(flat, ops.shape(scores))


def _write(ids: Tensor, last: Tensor, position: Tensor) -> Tensor:
    return ops.where(ops.arange(ids.shape[-1]) == position, last[..., None], ids)


def _reorder(words: tuple, parents: Tensor) -> tuple:
    """Makes beam `i` of each photo go on from beam `parents[:, i]`; `parents` is `[batch, beams]`, int32."""
    batch, beams = ops.shape(parents)
    rows = ops.reshape(ops.arange(batch)[:, None] * beams + parents, (-1,))

    def reorder(tensor: Tensor) -> Tensor:
        # Whole rows at a time: `take_along_axis` would look every number up.
        return ops.reshape(ops.take(ops.reshape(tensor, (batch * beams, -1)), rows, axis=0), ops.shape(tensor))

    return keras.tree.map_structure(reorder, words)


class BeamSearch(keras.Model):
    """`beam_search` as a Keras model, so that `predict` compiles it on any backend."""

    def __init__(self, decoder: Decoder, beam_width: int, rules: Rules, length_penalty: float = 0.0):
        super().__init__(name="beam_search")
        self.decoder, self.beam_width, self.rules, self.length_penalty = decoder, beam_width, rules, length_penalty

    def call(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """`[batch, height, width, channels]` → ids and scores, as `beam_search` returns them."""
        return beam_search(self.decoder, features, self.beam_width, self.rules, self.length_penalty)


class Sampler(keras.Model):
    """`sample` from all words as a Keras model."""

    def __init__(self, decoder: Decoder, rules: Rules):
        super().__init__(name="sampler")
        self.decoder, self.rules = decoder, rules

    def call(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Features `[batch, height, width, channels]` and uniform numbers → ids, as `sample` returns them."""
        features, uniforms = inputs
        return sample(self.decoder, features, uniforms, self.rules)[0]
