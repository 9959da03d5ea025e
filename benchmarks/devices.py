"""What the model's device can do: photos/s of the encoder, and of both with beam search, over batch sizes.

Prints for each batch size the photos/s, as a share of the roofline too: the least time that the device needs for the
arithmetic, as measured with a large matrix product, and for moving weights and photos, as measured with a copy. From
the fastest batch follows how many processors must decode photos to keep the device busy. Runs on any backend of Keras:

    KERAS_BACKEND=jax python -m benchmarks.devices --batches 1 4 16 64 256 1024
"""

import argparse
import functools
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from PIL import Image

from model import decoders, encoders, recipe
from model.search import Rules, beam_search

# Seconds to measure one thing for.
_LONG_ENOUGH = 2.0
_PHOTO = Path(__file__).parents[1] / "samples" / "hikers.jpg"
# Width and height of the photos whose decoding is measured.
_PHOTOS = ((640, 480), (4000, 3000))


class Captioner(keras.Model):
    """Encoder, decoder and beam search as one, from `[batch, size, size, 3]` to ids."""

    def __init__(self, encoder: keras.Model, decoder: Any, beam_width: int, max_length: int, length_penalty: float):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self._search = (beam_width, Rules(max_length), length_penalty)

    def call(self, images):
        """Captions of uint8 photos `[batch, size, size, 3]`, as ids `[batch, beam_width, slots]`, int32."""
        ids, _ = beam_search(self.decoder, self.encoder(images), *self._search)
        return ids


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="transformer", help="whose networks, with weights at random (transformer)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64], metavar="N", help="batch sizes")
    parser.add_argument("--precision", default="float32", help="float32, mixed_float16 or mixed_bfloat16")
    options = parser.parse_args()
    keras.mixed_precision.set_dtype_policy(options.precision)
    made = recipe.load(options.recipe)
    encoder = encoders.build(made.encoder)
    shape = encoders.feature_shape(made.encoder)
    decoder = decoders.build(made, 2500, shape)
    decoder((np.zeros((1, *shape), np.float32), np.zeros((1, 1, made.words.max_words + 1), np.int32)))
    both = Captioner(encoder, decoder, made.search.beam_width, made.search.max_length, made.search.length_penalty)
    flops, rate, bandwidth = multiplications(encoder), arithmetic(), movement()
    weights = 4 * (encoder.count_params() + decoder.count_params())
    print(f"{keras.backend.backend()} on {device()}, {options.precision}")
    print(
        f"arithmetic {rate / 1e12:.2f} TFLOP/s, memory {bandwidth / 1e9:.0f} GB/s; "
        f"encoder {flops / 1e9:.2f} GFLOP a photo"
    )
    print("batch   encoder photos/s   of roofline   with beam search   ratio")
    best = 0.0
    for batch in options.batches:
        images = np.random.default_rng(0).integers(0, 256, (batch, *encoder.input_shape[1:]), np.uint8)
        alone, whole = (batch / seconds(functools.partial(n.predict_on_batch, images)) for n in (encoder, both))
        least = max(flops * batch / rate, (weights + images.nbytes) / bandwidth)
        print(f"{batch:5} {alone:18.1f} {alone * least / batch:13.2f} {whole:18.1f} {whole / alone:7.2f}", flush=True)
        best = max(best, whole)
    for width, height in _PHOTOS:
        rate = decoded(width, height, encoder.input_shape[1])
        print(f"{width}×{height} photos: one processor decodes {rate:.0f}/s; {best / rate:.1f} keep the device busy")


def seconds(run: Callable[[], Any]) -> float:
    """Seconds that a call takes, the mean of as many as fit into some seconds, after one that compiles."""
    run()
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < _LONG_ENOUGH:
        run()
        calls += 1
    return (time.perf_counter() - started) / calls


def arithmetic() -> float:
    """Operations a second of a large matrix product, in the precision of the policy."""
    side = 2048
    product = _compiled(ops.matmul)
    matrix = ops.ones((side, side), keras.mixed_precision.dtype_policy().compute_dtype)
    return 2 * side**3 / seconds(lambda: np.asarray(ops.convert_to_numpy(product(matrix, matrix)[:1, :1])))


def movement() -> float:
    """Bytes a second that adding one to a large vector reads and writes."""
    vector = ops.ones((64 * 2**20,), "float32")
    add = _compiled(lambda x, y: x + y[:1])
    return 2 * 4 * 64 * 2**20 / seconds(lambda: np.asarray(ops.convert_to_numpy(add(vector, vector)[:1])))


def multiplications(encoder: keras.Model) -> float:
    """Operations of the convolutions for one photo: two for each weight and each place that it is used at."""
    total = 0.0
    for layer in encoder._flatten_layers(include_self=False, recursive=True):
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            places = np.prod(layer.output.shape[1:3])
            total += 2 * float(places) * float(np.prod(layer.kernel.shape))
    return total


def decoded(width: int, height: int, size: int) -> float:
    """Photos/s that one processor decodes, resized to a square of `size`."""
    from pipelines import decoding

    buffer = io.BytesIO()
    Image.open(_PHOTO).convert("RGB").resize((width, height)).save(buffer, "JPEG", quality=90)
    return 1 / seconds(lambda: decoding.decode(buffer.getvalue(), size))


def device() -> str:
    """What the backend computes on."""
    return ", ".join(keras.distribution.list_devices()) or "cpu"


def _compiled(function: Callable) -> Callable:
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function)


if __name__ == "__main__":
    main()
