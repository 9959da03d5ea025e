"""From a photo's bytes to pixels. Runs in processes of its own, so it imports nothing but the decoders."""

import hashlib
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pillow_heif
from PIL import Image, UnidentifiedImageError

from pipelines.failures import ErrorCode, Failure, Stage

MAX_PIXELS = 200_000_000

pillow_heif.register_heif_opener()
# `_open` checks the size itself, so that the limit is one number and the error has a code.
Image.MAX_IMAGE_PIXELS = None

_ORIENTATION_TAG = 0x0112
# What EXIF orientations ask for (EXIF 2.32, 4.6.4), as Pillow's transpositions.
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPED = (5, 6, 7, 8)


class Decoded(NamedTuple):
    """What became of one photo's bytes: pixels or a failure.

    Attributes:
      sha256: of the bytes, hexadecimal; None where they could not be read.
      width, height: pixels of the upright photo; None where they could not be read.
      pixels: `[size, size, 3]`, uint8, RGB; None where it failed.
    """

    sha256: str | None
    width: int | None = None
    height: int | None = None
    pixels: np.ndarray | None = None
    failure: Failure | None = None


def decode_all(photos: Sequence[bytes], size: int) -> list[Decoded]:
    """Decodes several photos; one that fails leaves the others alone."""
    return [decode(data, size) for data in photos]


def decode(data: bytes, size: int) -> Decoded:
    """Decodes a photo upright and resizes it to a square, without cropping.

    Args:
      data: the file's bytes.
      size: height and width of the result, pixels.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    width = height = None
    try:
        with Image.open(io.BytesIO(data)) as image:
            orientation = _orientation(image)
            width, height = image.size[::-1] if orientation in _SWAPPED else image.size
            if width * height > MAX_PIXELS:
                message = f"{width} × {height} pixels, the limit is {MAX_PIXELS // 1_000_000} million"
                return Decoded(sha256, width, height, failure=Failure(Stage.DECODE, ErrorCode.TOO_LARGE, message))
            # JPEGs are decoded at the smallest scale, in eighths, that is not below the size asked for.
            image.draft("RGB", (size, size))
            resized = _to_rgb(image).resize((size, size), Image.Resampling.BICUBIC)
            # A square turns as well after resizing, when it is small.
            if orientation in _TRANSPOSITIONS:
                resized = resized.transpose(_TRANSPOSITIONS[orientation])
            return Decoded(sha256, width, height, pixels=np.asarray(resized))
    except Exception as error:  # noqa: BLE001 - decoders raise nearly anything on broken bytes
        return Decoded(sha256, width, height, failure=_explain(error, data))


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - a photo with broken EXIF is still a photo
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _explain(error: Exception, data: bytes) -> Failure:
    text = " ".join(str(error).split()) or type(error).__name__
    if not data:
        return Failure(Stage.DECODE, ErrorCode.EMPTY, "the file has no bytes")
    if isinstance(error, UnidentifiedImageError) and not _looks_like_a_photo(data):
        return Failure(Stage.DECODE, ErrorCode.NOT_AN_IMAGE, f"begins with {data[:16]!r}, which no photo format does")
    if isinstance(error, EOFError) or "truncated" in text.lower() or _is_cut_short(data):
        return Failure(Stage.DECODE, ErrorCode.TRUNCATED, f"{text}; the file has {len(data)} bytes")
    return Failure(Stage.DECODE, ErrorCode.CORRUPT, text.replace("<_io.BytesIO object", "<the file"))


def _looks_like_a_photo(data: bytes) -> bool:
    """Tells by the first bytes, as `file` does."""
    starts = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")
    return data.startswith(starts) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP") or data[4:8] == b"ftyp"


def _is_cut_short(data: bytes) -> bool:
    """Whether the end that the format must have is missing."""
    if data.startswith(b"\xff\xd8\xff"):
        return b"\xff\xd9" not in data[-64:]
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-64:]
    return False
