"""The result of converting a photo, and its form in messages of image processes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from beamscribe.pipelines.failures import ErrorCode, Failure, Fault, Stage


class Picture(NamedTuple):
    """The result of converting a photo: its pixels or its failure.

    Attributes:
      sha256: SHA-256 of the bytes, hexadecimal; None if the bytes could not be read.
      width, height: size of the upright photo, pixels; None if unknown or beyond 32 bits.
      pixels: `[size, size, 3]`, uint8, RGB; None if the photo failed.
      failure: why the photo failed; None if it did not.
      fault: the fault of Beamscribe that made the photo fail, for the log of the worker; else None.
      read_ms: milliseconds that reading the bytes took; None if unknown.
      decode_ms: milliseconds that the conversion took; None if there was none.
    """

    sha256: str | None
    width: int | None = None
    height: int | None = None
    pixels: np.ndarray | None = None
    failure: Failure | None = None
    fault: Fault | None = None
    read_ms: float | None = None
    decode_ms: float | None = None


def packed(pictures: Sequence[Picture]) -> tuple[list[Any], list[bytes]]:
    """The document and the binary parts of the message that holds pictures; each of these has a part for its pixels."""
    document = [
        [picture.sha256, picture.width, picture.height, picture.failure, picture.fault, picture.decode_ms]
        for picture in pictures
    ]
    return document, [b"" if picture.pixels is None else picture.pixels.tobytes() for picture in pictures]


def unpacked(document: list[Any], parts: Sequence[bytearray], size: int) -> list[Picture]:
    """The pictures of a message.

    Args:
      document, parts: the message.
      size: height and width of the pixels.

    Raises:
      ValueError, TypeError: the message holds no pictures.
    """
    return [
        Picture(
            sha256,
            width,
            height,
            np.frombuffer(pixels, np.uint8).reshape(size, size, 3) if pixels else None,
            Failure(Stage(failure[0]), ErrorCode(failure[1]), str(failure[2])) if failure else None,
            Fault(*map(str, fault)) if fault else None,
            decode_ms=decode_ms,
        )
        for (sha256, width, height, failure, fault, decode_ms), pixels in zip(document, parts, strict=True)
    ]
