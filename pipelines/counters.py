"""Beam's counters and distributions of a job, which the runner's own pages show while the job runs.

Beam drops what is counted outside of a step and what is counted in a thread of one's own. So these functions do nothing
outside of a pipeline, and must be called in the thread that runs the step. The account of a run comes from its rows,
never from these numbers: a shard that an engine captions twice is counted twice.
"""

import functools
import sys
from typing import Any

NAMESPACE = "beamscribe"

CAPTIONED = "captioned"
PREPARED = "prepared"
FAILED = "failed"
# Milliseconds of reading and of decoding each photo, and of each call of the model; photos in each call of the model.
READ_MS = "read_ms"
DECODE_MS = "decode_ms"
MODEL_MS = "model_ms"
BATCH_SIZE = "batch_size"


def count_row(status: str, error: str | None) -> None:
    """Counts a photo: in `captioned`, `taken_over`, `gone`, `prepared` or `failed`; if it failed, in `failed_<code>`.

    Args:
      status: `captioned`, `gone` or `failed`, as in the photo's row; `taken_over` for the caption of an earlier row;
        `prepared` for a photo of training data.
      error: the error code of a photo that failed; else None.
    """
    if not _is_beam_in_use():
        return
    _counter(status).inc()
    if error:
        _counter(f"{FAILED}_{error}").inc()


def measure_photo(read_ms: float | None, decode_ms: float | None) -> None:
    """Adds a photo's times to the distributions `read_ms` and `decode_ms`.

    Args:
      read_ms: milliseconds of reading; None if the photo was not read.
      decode_ms: milliseconds of decoding; None if the photo was not decoded.
    """
    _add(READ_MS, read_ms)
    _add(DECODE_MS, decode_ms)


def measure_call(photos: int, model_ms: float) -> None:
    """Adds a call of the model to the distributions `batch_size` and `model_ms`.

    Args:
      photos: number of photos in the call.
      model_ms: milliseconds that the call took.
    """
    _add(BATCH_SIZE, photos)
    _add(MODEL_MS, model_ms)


def _add(name: str, value: float | None) -> None:
    if value is not None and _is_beam_in_use():
        # Beam's distributions hold integers.
        _distribution(name).update(round(value))


def _is_beam_in_use() -> bool:
    # Who captions without a pipeline must not wait for the import of Beam.
    return "apache_beam" in sys.modules


@functools.cache
def _counter(name: str) -> Any:
    from apache_beam.metrics import Metrics

    return Metrics.counter(NAMESPACE, name)


@functools.cache
def _distribution(name: str) -> Any:
    from apache_beam.metrics import Metrics

    return Metrics.distribution(NAMESPACE, name)
