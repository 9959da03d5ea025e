"""From a trained encoder and decoder to a SavedModel, pixels in, captions out; and its weights back again."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from beamscribe.model import safe_loading, search
from beamscribe.model.decoders.base import Decoder
from beamscribe.model.errors import InputError
from beamscribe.model.search import Rules
from beamscribe.model.tensors import Tensor
from beamscribe.model.words.vocabulary import SPECIALS, Vocabulary

# Inputs of the signatures beside images or features: names, as in `beamscribe.model.search`, and types.
_RULES = {"max_length": tf.int32, "min_length": tf.int32, "no_repeat_ngram": tf.int32}
_BEAM_SEARCH = {"beam_width": tf.int32, "length_penalty": tf.float32, **_RULES}
_SAMPLING = {"top_p": tf.float32, "temperature": tf.float32, **_RULES}


def save(folder: Path, encoder: keras.Model, decoder: Decoder, vocabulary: Vocabulary) -> None:
    """Writes a SavedModel that holds both networks and the vocabulary.

    Its signatures are `features` (of images), `features_half`, the same computed in float16 for devices that are made
    for it, `caption` and `caption_features` (beam search), `sample` and `sample_features`. The weights are stored as
    float16; all signatures but `features_half` cast them to float32 once a call, before the decoding loop.
    """
    module = _Captioner(encoder, decoder, vocabulary)
    size = encoder.input_shape[1]
    images = tf.TensorSpec((None, size, size, 3), tf.uint8, name="images")
    features = tf.TensorSpec((None, *encoder.output_shape[1:]), tf.float16, name="features")
    uniforms = tf.TensorSpec((None, None, decoder.slots), tf.float32, name="uniforms")
    beam = {name: tf.TensorSpec((), dtype, name=name) for name, dtype in _BEAM_SEARCH.items()}
    sampling = {name: tf.TensorSpec((), dtype, name=name) for name, dtype in _SAMPLING.items()}
    # Functions of their own, not the module's, which would be traced and stored a second time.
    signatures = {
        "features": tf.function(module.features).get_concrete_function(images),
        "features_half": tf.function(module.features_half).get_concrete_function(images),
        "caption": tf.function(module.caption).get_concrete_function(images, **beam),
        "caption_features": tf.function(module.caption_features).get_concrete_function(features, **beam),
        "sample": tf.function(module.sample).get_concrete_function(images, uniforms=uniforms, **sampling),
        "sample_features": tf.function(module.sample_features).get_concrete_function(
            features, uniforms=uniforms, **sampling
        ),
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)
    # Whoever has trained a model is to know at once where it can't be loaded.
    safe_loading.check(folder)


def restore(folder: Path, encoder: keras.Model | None, decoder: Decoder | None) -> None:
    """Gives models the weights of a SavedModel that `save` wrote of models of the same shape.

    Raises:
      InputError: they have other shapes.
      BeamscribeError: the SavedModel does more than compute.
    """
    module = safe_loading.load(folder)
    stored = ((encoder, module.encoder_weights, "encoder"), (decoder, module.decoder_weights, "decoder"))
    for model, weights, name in stored:
        if model is not None:
            _assign(model.weights, weights, f"the {name} in {folder.parent}")


def _assign(variables: Sequence[keras.Variable], weights: Sequence[tf.Variable], source: str) -> None:
    if len(variables) != len(weights):
        raise InputError(f"{source} has {len(weights)} weights, the recipe's has {len(variables)}: they are not alike")
    for variable, weight in zip(variables, weights, strict=True):
        if tuple(variable.shape) != tuple(weight.shape):
            raise InputError(
                f"{source}: {variable.path} is {tuple(weight.shape)}, the recipe's {tuple(variable.shape)}"
            )
        variable.assign(tf.cast(weight, tf.float32))


class _Captioner(tf.Module):
    """What is written: the weights, the words, and the methods that signatures are made of.

    Args:
      encoder: from photos to features.
      decoder: of these features.
      vocabulary: the decoder's.
    """

    def __init__(self, encoder: keras.Model, decoder: Decoder, vocabulary: Vocabulary):
        super().__init__()
        # Kept in functions: as attributes, the models' own float32 variables would be saved, too.
        self._encode, self.encoder_weights = _with_half_weights(encoder, encoder)
        encode_half, _ = _with_half_weights(encoder, encoder, self.encoder_weights)

        def encode_in_half_precision(images: Tensor) -> Tensor:
            with _half_precision(encoder):
                return encode_half(images)

        self._encode_half = encode_in_half_precision
        self._search, self.decoder_weights = _with_half_weights(functools.partial(_found, decoder), decoder)
        self._draw, _ = _with_half_weights(functools.partial(_drawn, decoder), decoder, self.decoder_weights)
        self._words = tf.constant(["" if word in SPECIALS else word for word in vocabulary.words])

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Photos `[batch, size, size, 3]`, uint8 → `features` `[batch, height, width, channels]`, float16."""
        return {"features": tf.cast(self._encode(images), tf.float16)}

    def features_half(self, images: Tensor) -> dict[str, Tensor]:
        """As `features`, computed in float16."""
        return {"features": tf.cast(self._encode_half(images), tf.float16)}

    def caption(self, images: Tensor, **settings: Tensor) -> dict[str, Tensor]:
        """Photos → `captions` and `scores` `[batch, beam_width]`, strings and float32, best first, by beam search."""
        return self._write(self._search({"features": self._encode(images), **settings}))

    def caption_features(self, features: Tensor, **settings: Tensor) -> dict[str, Tensor]:
        """As `caption`, of features as `features` gives them."""
        return self._write(self._search({"features": tf.cast(features, tf.float32), **settings}))

    def sample(self, images: Tensor, **settings: Tensor) -> dict[str, Tensor]:
        """Photos → `captions` and `scores` `[batch, captions]`, as `caption` gives them, but drawn."""
        return self._write(self._draw({"features": self._encode(images), **settings}))

    def sample_features(self, features: Tensor, **settings: Tensor) -> dict[str, Tensor]:
        """As `sample`, of features as `features` gives them."""
        return self._write(self._draw({"features": tf.cast(features, tf.float32), **settings}))

    def _write(self, found: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        ids, scores = found
        words = tf.strings.reduce_join(tf.gather(self._words, ids), axis=-1, separator=" ")
        # A clitic ("'s") belongs to the word before it.
        captions = tf.strings.regex_replace(tf.strings.strip(words), " '", "'")
        return {"captions": captions, "scores": scores}


def _found(decoder: Decoder, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """`search.beam_search` with the settings as inputs."""
    rules = Rules(**{name: inputs[name] for name in _RULES})
    return search.beam_search(decoder, inputs["features"], inputs["beam_width"], rules, inputs["length_penalty"])


def _drawn(decoder: Decoder, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """`search.sample` with the settings as inputs; the best of a photo's captions first."""
    rules = Rules(**{name: inputs[name] for name in _RULES})
    ids, scores = search.sample(
        decoder, inputs["features"], inputs["uniforms"], rules, inputs["top_p"], inputs["temperature"]
    )
    best_first = tf.argsort(-scores, stable=True)
    return tf.gather(ids, best_first, batch_dims=1), tf.gather(scores, best_first, batch_dims=1)


@contextlib.contextmanager
def _half_precision(model: keras.Model) -> Iterator[None]:
    """Makes the layers of a functional model compute in float16, what they average in float32 (arXiv:1710.03740)."""
    before = [layer.dtype_policy for layer in model.layers]
    try:
        for layer in model.layers:
            layer.dtype_policy = "mixed_float16"
        yield
    finally:
        for layer, policy in zip(model.layers, before, strict=True):
            layer.dtype_policy = policy


def _with_half_weights(
    function: Callable[[Any], Any], network: keras.Model, weights: list[tf.Variable] | None = None
) -> tuple[Callable[[Any], Any], list[tf.Variable]]:
    """Makes a function run with float16 copies of a network's weights.

    Args:
      function: of one argument; uses the network.
      network: whose weights are meant, all of them, whatever training may change.
      weights: the copies, where they are made already.

    Returns:
      The function, and the copies, in the order of the network's weights.
    """
    halves = weights or [tf.Variable(tf.cast(w.value, tf.float16), trainable=False) for w in network.weights]

    # A function of its own, so that signatures that differ in what comes before it share one trace of it.
    @tf.function
    def run(inputs: Any) -> Any:
        values = [tf.cast(half, tf.float32) for half in halves]
        with keras.StatelessScope(zip(network.weights, values, strict=True)):
            return function(inputs)

    return lambda inputs: run(inputs), halves
