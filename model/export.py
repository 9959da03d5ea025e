"""From a trained encoder and decoder to a SavedModel: pixels in, captions out."""

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from model import search
from model.vocabulary import SPECIALS, Vocabulary


def save(folder: Path, encoder: keras.Model, decoder: keras.Model, vocabulary: Vocabulary) -> None:
    """Writes a SavedModel with the signatures `caption`, `features` and `caption_features`.

    The weights are stored as float16 and cast to float32 once a call, before the decoding loop.
    """
    module = _Captioner(encoder, decoder, vocabulary)
    size = encoder.input_shape[1]
    images = tf.TensorSpec((None, size, size, 3), tf.uint8, name="images")
    features = tf.TensorSpec((None, *encoder.output_shape[1:]), tf.float16, name="features")
    beam_width = tf.TensorSpec((), tf.int32, name="beam_width")
    max_length = tf.TensorSpec((), tf.int32, name="max_length")
    tf.saved_model.save(
        module,
        str(folder),
        signatures={
            "caption": module.caption.get_concrete_function(images, beam_width, max_length),
            "features": module.features.get_concrete_function(images),
            "caption_features": module.caption_features.get_concrete_function(features, beam_width, max_length),
        },
    )


class _Captioner(tf.Module):
    def __init__(self, encoder: keras.Model, decoder: keras.Model, vocabulary: Vocabulary):
        super().__init__()
        # Kept in functions: as attributes, the models' own float32 variables would be saved, too.
        self._encode, self._encoder_weights = _with_half_weights(encoder)
        beam_search = _BeamSearch(decoder)
        self._search, self._decoder_weights = _with_half_weights(beam_search)
        self._words = tf.constant(["" if word in SPECIALS else word for word in vocabulary.words])

    @tf.function
    def caption(self, images, beam_width, max_length):
        return self._write(self._encode(images), beam_width, max_length)

    @tf.function
    def features(self, images):
        return {"features": tf.cast(self._encode(images), tf.float16)}

    @tf.function
    def caption_features(self, features, beam_width, max_length):
        return self._write(tf.cast(features, tf.float32), beam_width, max_length)

    def _write(self, features, beam_width, max_length) -> dict[str, Any]:
        ids, scores = self._search((features, beam_width, max_length))
        words = tf.strings.reduce_join(tf.gather(self._words, ids), axis=-1, separator=" ")
        # A clitic ("'s") belongs to the word before it.
        captions = tf.strings.regex_replace(tf.strings.strip(words), " '", "'")
        return {"captions": captions, "scores": scores}


class _BeamSearch(keras.Model):
    """`search.beam_search` with the settings as inputs."""

    def __init__(self, decoder: keras.Model):
        super().__init__()
        self.decoder = decoder
        self.built = True

    def call(self, inputs):
        features, beam_width, max_length = inputs
        return search.beam_search(self.decoder, features, beam_width, max_length)


def _with_half_weights(model: keras.Model) -> tuple[Any, list[tf.Variable]]:
    """A function that runs the model with float16 copies of its weights, and those copies."""
    kinds = (model.trainable_variables, model.non_trainable_variables)
    trainable, other = ([tf.Variable(tf.cast(v.value, tf.float16), trainable=False) for v in kind] for kind in kinds)

    def run(inputs):
        weights = ([tf.cast(variable, tf.float32) for variable in kind] for kind in (trainable, other))
        outputs, _ = model.stateless_call(*weights, inputs)
        return outputs

    return run, [*trainable, *other]
