"""What the model's device can do: photos/s of the encoder and of beam search, over batch sizes.

Prints for each batch size the photos/s of the decoder with beam search, of the encoder, and of one after the other, as
a job has them on a GPU: features stay there. Beside each its share of the roofline (Williams et al. 2009), the rate
that the device could reach with the arithmetic of a large matrix product and the memory of a large copy. Over what one
processor decodes, printed first, they say how many keep the device busy. (On a CPU, whose caches hold the decoder's
weights, its share may exceed 1.) Each line is printed as soon as it is measured, since on a GPU compiling for a batch
size takes much longer than measuring it. Runs on any backend of Keras:

    KERAS_BACKEND=jax python -m benchmarks.devices --batches 1 4 16 64 256 1024 --precision float32 mixed_float16
"""

import argparse
import functools
import io
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from PIL import Image

from beamscribe.model import decoders, encoders, recipe
from beamscribe.model.search import BeamSearch, Rules
from beamscribe.model.tensors import Tensor

# Seconds to measure one thing for.
_LONG_ENOUGH = 2.0
_PHOTO = Path(__file__).parents[1] / "samples" / "hikers.jpg"
# Width and height of the photos whose decoding is measured.
_PHOTOS = ((640, 480), (4000, 3000))


class Means(keras.Model):
    """An encoder whose features are averaged over the grid: to fetch them all would take longer than to make them."""

    def __init__(self, encoder: keras.Model):
        super().__init__()
        self.encoder = encoder

    def call(self, images: Tensor) -> Tensor:
        """Means `[batch, channels]` of uint8 photos `[batch, size, size, 3]`."""
        return ops.mean(self.encoder(images), axis=(1, 2))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="transformer", help="whose networks, with weights at random (transformer)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64], metavar="N", help="batch sizes")
    parser.add_argument(
        "--precision", nargs="+", default=["float32"], help="of the encoder: float32, mixed_float16, mixed_bfloat16"
    )
    options = parser.parse_args()
    made = recipe.load(options.recipe)
    bandwidth = movement()
    print(f"{keras.backend.backend()} on {device()}, which moves {bandwidth / 1e9:.0f} GB/s", flush=True)
    for width, height in _PHOTOS:
        decodes = decoded(width, height, made.encoder.image_size)
        print(f"one processor decodes {decodes:.0f} photos/s of {width}×{height}", flush=True)
    searches = measured_search(made, options.batches, bandwidth)
    for precision in options.precision:
        measured_encoder(made, options.batches, bandwidth, precision, searches)


def measured_search(made: recipe.Recipe, batches: list[int], bandwidth: float) -> dict[int, float]:
    """Prints and returns the photos/s of the decoder with beam search, by batch size.

    Weights at random end no caption before the longest, so that every step is made.
    """
    keras.config.set_dtype_policy("float32")
    shape = encoders.feature_shape(made.encoder)
    decoder = decoders.build(made, 2500, shape)
    width, steps = made.search.beam_width, made.search.max_length + 1
    search = compiled_network(BeamSearch(decoder, width, Rules(made.search.max_length), made.search.length_penalty))
    rate, weights = arithmetic("float32"), decoder.count_params()
    print(f"decoder, beam width {width}, {weights / 1e6:.1f} M parameters; products at {rate / 1e12:.1f} TFLOP/s")
    print("batch   photos/s   of roofline", flush=True)
    found = {}
    for batch in batches:
        features = ops.convert_to_tensor(photos(batch, shape) / np.float32(255.0))
        found[batch] = batch / seconds(functools.partial(search, features))
        # At least: each weight is read once a step, and used once for each word of each caption.
        least = steps * max(2 * weights * width * batch / rate, 4 * weights / bandwidth)
        print(f"{batch:5} {found[batch]:10.1f} {found[batch] * least / batch:13.3f}", flush=True)
    return found


def measured_encoder(
    made: recipe.Recipe, batches: list[int], bandwidth: float, precision: str, searches: dict[int, float]
) -> None:
    """Prints the photos/s of the encoder by batch size, and those of encoder and beam search one after the other."""
    keras.config.set_dtype_policy(precision)
    encoder = encoders.build(made.encoder)
    encode = compiled_network(Means(encoder))
    rate = arithmetic(keras.config.dtype_policy().compute_dtype)
    flops = sum(operations for operations, _, _ in convolutions(encoder))
    print(f"encoder in {precision}, {flops / 1e9:.2f} GFLOP a photo; products at {rate / 1e12:.1f} TFLOP/s")
    print("batch   photos/s   of roofline   with beam search", flush=True)
    for batch in batches:
        images = photos(batch, encoder.input_shape[1:])
        reached = batch / seconds(functools.partial(encode, images))
        least = least_seconds(encoder, batch, rate, bandwidth)
        both = 1 / (1 / reached + 1 / searches[batch])
        print(f"{batch:5} {reached:10.1f} {reached * least / batch:13.3f} {both:18.1f}", flush=True)


def compiled_network(network: keras.Model) -> Callable[[Any], Any]:
    """A function that runs a network whose variables are there, and fetches what comes out."""
    if keras.backend.backend() != "jax":
        return network.predict_on_batch
    import jax

    # Keras' own function gathers all variables at each call, for which small batches would wait.
    values = [variable.value for variable in network.variables]

    def run(values: list[Any], inputs: Any) -> Any:
        with keras.StatelessScope(zip(network.variables, values, strict=True)):
            return network.call(inputs)

    compiled = jax.jit(run)
    return lambda inputs: jax.device_get(compiled(values, inputs))


def photos(batch: int, shape: tuple[int, ...]) -> np.ndarray:
    """Photos of noise, `[batch, *shape]`, uint8."""
    return np.random.default_rng(0).integers(0, 256, (batch, *shape), np.uint8)


def seconds(run: Callable[[], Any]) -> float:
    """Seconds that a call takes, the mean of as many as fit into some seconds, after one that compiles."""
    run()
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < _LONG_ENOUGH:
        run()
        calls += 1
    return (time.perf_counter() - started) / calls


def arithmetic(dtype: str) -> float:
    """Operations a second of a large matrix product: of 2048 rows or, on devices that are quick, of 8192."""
    rate = _arithmetic(dtype, 2048)
    return max(rate, _arithmetic(dtype, 8192)) if rate > 5e12 else rate


def _arithmetic(dtype: str, side: int) -> float:
    # Products of such numbers stay as large as they are.
    numbers = np.random.default_rng(0).uniform(-1, 1, (side, side)) * math.sqrt(3 / side)
    matrix = ops.cast(ops.convert_to_tensor(numbers, "float32"), dtype)
    return 2 * side**3 / _queued(_compiled(ops.matmul), matrix)


def movement() -> float:
    """Bytes a second that adding one to a large vector reads and writes."""
    return 2 * 4 * 64 * 2**20 / _queued(_compiled(lambda x, one: x + one[:1]), ops.ones((64 * 2**20,), "float32"))


def _queued(function: Callable, start: Any) -> float:
    """Seconds that a call takes when the next one is asked for before it has ended, each on what the last has made."""

    def several() -> None:
        x = start
        for _ in range(20):
            x = function(x, start)
        ops.convert_to_numpy(x[:1])

    return seconds(several) / 20


def convolutions(encoder: keras.Model) -> list[tuple[float, float, float]]:
    """What each convolution takes.

    Returns:
      Operations a photo, two for each weight and place; numbers a photo that it reads and writes; and its weights.
    """
    found = []
    for layer in layers_of(encoder):
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            weights, places = math.prod(layer.kernel.shape), math.prod(layer.output.shape[1:3])
            moved = math.prod(layer.input.shape[1:]) + math.prod(layer.output.shape[1:])
            found.append((2.0 * places * weights, float(moved), float(weights)))
    return found


def layers_of(network: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers of a network, and of the networks in it."""
    for layer in network.layers:
        yield from layers_of(layer) if isinstance(layer, keras.Model) else [layer]


def least_seconds(encoder: keras.Model, batch: int, rate: float, bandwidth: float) -> float:
    """What a batch takes at least where each convolution does all that stands between it and the next one, too."""
    size = 2 if encoder.compute_dtype != "float32" else 4
    return sum(
        max(flops * batch / rate, size * (moved * batch + weights) / bandwidth)
        for flops, moved, weights in convolutions(encoder)
    )


def decoded(width: int, height: int, size: int) -> float:
    """Photos/s that one processor decodes, resized to a square of `size`."""
    from beamscribe.pipelines.images import to_pixels

    buffer = io.BytesIO()
    Image.open(_PHOTO).convert("RGB").resize((width, height)).save(buffer, "JPEG", quality=90)
    return 1 / seconds(lambda: to_pixels.convert(buffer.getvalue(), size))


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
