"""The result of converting a photo, and its form in messages of image processes."""

import datetime
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from beamscribe.pipelines.failures import ErrorCode, Failure, Fault, Stage

# Characters of a description.
LONGEST_DESCRIPTION = 10_000

_DIGEST = re.compile("[0-9a-f]{64}")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")


class Picture(NamedTuple):
    """The result of converting a photo: its pixels or its failure, or that its picture is known.

    Attributes:
      sha256: SHA-256 of the bytes, hexadecimal; None if the bytes could not be read.
      width, height: size of the upright photo, pixels; None if unknown or beyond 32 bits.
      pixels: `[size, size, 3]`, uint8, RGB; None if the photo failed or its picture is known.
      failure: why the photo failed; None if it did not.
      fault: the fault of Beamscribe that made the photo fail, or kept its metadata from being read, for the log of the
        worker; else None.
      read_ms: milliseconds that reading the bytes took; None if unknown.
      decode_ms: milliseconds that the conversion took; None if there was none.
      image_sha256: SHA-256 of the picture's own data without the file's metadata, hexadecimal; `picture_digest`.
      orientation: the EXIF orientation, 1 to 8, by which the photo is turned upright; None if unknown.
      taken_at: date and time of the shot, as the camera wrote it, without a time zone; None if unknown.
      description: what the file's own metadata says that the photo shows, in one line; None if it says nothing.
      perceptual_hash: 64 bits, as a signed integer, of the pixels; None where there are none.
      is_known: whether the photo is one that was expected, and so was not decoded; then width and height are None.
    """

    sha256: str | None
    width: int | None = None
    height: int | None = None
    pixels: np.ndarray | None = None
    failure: Failure | None = None
    fault: Fault | None = None
    read_ms: float | None = None
    decode_ms: float | None = None
    image_sha256: str | None = None
    orientation: int | None = None
    taken_at: datetime.datetime | None = None
    description: str | None = None
    perceptual_hash: int | None = None
    is_known: bool = False


class Expected(NamedTuple):
    """What a photo may turn out to be, and need not be decoded for.

    Attributes:
      sha256: digests of the bytes, hexadecimal.
      pictures: digests of the picture's own data, hexadecimal, each with the orientation, or with None for any.
    """

    sha256: tuple[str, ...] = ()
    pictures: tuple[tuple[str, int | None], ...] = ()

    def is_met(self, picture: Picture) -> bool:
        """Whether a photo, of which these digests and the orientation are known, is one of those."""
        return picture.sha256 in self.sha256 or any(
            picture.image_sha256 == digest and orientation in (None, picture.orientation)
            for digest, orientation in self.pictures
        )


def expected_of(document: list[Any]) -> list[Expected]:
    """What is expected of each photo, by a message."""
    return [Expected(tuple(digests), tuple((digest, turn) for digest, turn in found)) for digests, found in document]


def packed(pictures: Sequence[Picture]) -> tuple[list[Any], list[bytes]]:
    """The document and the binary parts of the message that holds pictures; each of these has a part for its pixels."""
    document = [
        [
            *(picture.sha256, picture.width, picture.height, picture.failure, picture.fault, picture.decode_ms),
            *(picture.image_sha256, picture.orientation, picture.taken_at and picture.taken_at.isoformat()),
            *(picture.description, picture.perceptual_hash, picture.is_known),
        ]
        for picture in pictures
    ]
    return document, [b"" if picture.pixels is None else picture.pixels.tobytes() for picture in pictures]


def unpacked(document: list[Any], parts: Sequence[bytearray], size: int, expected: Sequence[Expected]) -> list[Picture]:
    """The pictures of a message, which hostile bytes may have made: each has what `Picture` says.

    Args:
      document, parts: the message.
      size: height and width of the pixels.
      expected: what was expected of each photo.

    Raises:
      ValueError, TypeError, AttributeError: the message holds no such pictures, or another number of them.
    """
    found = [_unpacked(fields, pixels, size) for fields, pixels in zip(document, parts, strict=True)]
    for picture, one in zip(found, expected, strict=True):
        if picture.is_known and not one.is_met(picture):
            raise ValueError("a picture that was not expected is known")
    return found


def _unpacked(fields: Sequence[Any], pixels: bytearray, size: int) -> Picture:
    sha256, width, height, failure, fault, decode_ms, image_sha256, *rest = fields
    orientation, taken_at, description, perceptual_hash, is_known = rest
    picture = Picture(
        _digest(sha256),
        _whole(width, 1, 2**31 - 1),
        _whole(height, 1, 2**31 - 1),
        np.frombuffer(pixels, np.uint8).reshape(size, size, 3) if pixels else None,
        _failure(*failure) if failure else None,
        Fault(*map(str, fault)) if fault else None,
        decode_ms=_milliseconds(decode_ms),
        image_sha256=_digest(image_sha256),
        orientation=_whole(orientation, 1, 8),
        taken_at=_moment(taken_at),
        description=_description(description),
        perceptual_hash=_whole(perceptual_hash, -(2**63), 2**63 - 1),
        is_known=is_known is True,
    )
    if (picture.pixels is not None) + (picture.failure is not None) + picture.is_known != 1:
        raise ValueError("a picture must have either pixels or a failure, or be known")
    return picture


def _failure(stage: Any, code: Any, message: Any) -> Failure:
    return Failure(Stage(stage), ErrorCode(code), str(message))


def _digest(value: Any) -> str | None:
    if value is not None and not _DIGEST.fullmatch(value):
        raise ValueError("no SHA-256")
    return value


def _whole(value: Any, least: int, most: int) -> int | None:
    # True is an `int`, too.
    if value is not None and (type(value) is not int or not least <= value <= most):
        raise ValueError(f"no whole number from {least} to {most}")
    return value


def _milliseconds(value: Any) -> float | None:
    if value is not None and (type(value) not in (int, float) or not 0 <= value < math.inf):
        raise ValueError("no time")
    return value


def _moment(value: Any) -> datetime.datetime | None:
    if value is None:
        return None
    moment = datetime.datetime.fromisoformat(value)
    if moment.tzinfo or moment.isoformat() != value:
        raise ValueError("no date and time without a time zone")
    return moment


def _description(value: Any) -> str | None:
    if value is None:
        return None
    # Surrogates, which JSON can express and no file can hold, can't be encoded.
    if not value or not value.encode() or len(value) > LONGEST_DESCRIPTION or _CONTROLS.search(value):
        raise ValueError("no description")
    return value
