"""What captioning does on a GPU and not on a CPU: memory as it is needed, half precision, XLA, batches of few sizes.

TensorFlow is imported inside of the functions, so that a process that loads no model need not load it.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from beamscribe.model.errors import one_line
from beamscribe.model.tensors import Tensor

# Batches are padded to this many photos, or twice as many, four times as many and so on.
SMALLEST_BATCH = 8
# Volta, the first with units for float16: https://developer.nvidia.com/cuda-gpus lists each GPU's compute capability.
_FAST_IN_HALF_PRECISION = (7, 0)

_LOGGER = logging.getLogger(__name__)


def found() -> list[Any]:
    """The GPUs that TensorFlow sees, each told to take memory only as it is needed."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        # Else the first model takes all memory. Where the GPU is in use already it is too late to say so.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)
    return gpus


def padded(batch: np.ndarray) -> np.ndarray:
    """A batch with zeros after it, up to the next of a few sizes, so that short ones compile and tune nothing anew.

    Args:
      batch: `[photos, …]`, of any type, with one photo or more.

    Returns:
      `[size, …]`, where size is `SMALLEST_BATCH` times a power of 2.
    """
    size = max(SMALLEST_BATCH, 1 << (len(batch) - 1).bit_length())
    return np.concatenate([batch, np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)])


def encoder_signature(signatures: Mapping[str, Any], gpus: Sequence[Any]) -> str:
    """The name of the signature that makes features: in half precision where all GPUs are made for that.

    Args:
      signatures: of the SavedModel; those of early bundles have none in half precision.
      gpus: what `found` returned.
    """
    half = "features_half" in signatures and all(map(_is_fast_in_half_precision, gpus))
    return "features_half" if half else "features"


def compiled_encoder(signature: Callable[..., Any], image_size: int) -> Callable[[Tensor], Tensor] | None:
    """Compiles the encoder by XLA.

    The decoder can't be compiled: the beam width, an input, shapes what its loop computes.

    Args:
      signature: of the SavedModel, from `images` to `features`.
      image_size: height and width of the photos that it takes, pixels.

    Returns:
      A function from photos `[batch, size, size, 3]`, uint8, to features `[batch, height, width, channels]`, float16;
      None where XLA does not work here, in which case the encoder that is not compiled does.
    """
    import tensorflow as tf

    encode = tf.function(lambda images: signature(images=images)["features"], jit_compile=True)
    try:
        encode(tf.zeros((SMALLEST_BATCH, image_size, image_size, 3), "uint8"))
    except Exception as error:  # of the compiler, of the driver, of libraries that are missing
        # TensorFlow's own errors say what is missing; of any other error, only the traceback tells whose fault it is.
        fault = None if isinstance(error, tf.errors.OpError) else error
        _LOGGER.warning("XLA can't compile the encoder, which now runs without it: %s", one_line(error), exc_info=fault)
        return None
    return encode


def _is_fast_in_half_precision(gpu: Any) -> bool:
    import tensorflow as tf

    details = tf.config.experimental.get_device_details(gpu)
    return details.get("compute_capability", (0, 0)) >= _FAST_IN_HALF_PRECISION
