"""Converts a photo's bytes to pixels. Runs in image processes, so it imports hardly more than the codecs."""

import functools
import hashlib
import io
import math
import re
import threading
import time

import numpy as np
import pillow_heif
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from beamscribe.model.errors import one_line
from beamscribe.pipelines import failures
from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.images import formats, photo_metadata
from beamscribe.pipelines.images.perceptual import perceptual_hash
from beamscribe.pipelines.images.picture_digest import image_sha256
from beamscribe.pipelines.images.pictures import Expected, Picture

MAX_PIXELS = 200_000_000
MIN_SIDE = 8

_NOTHING = Expected()

# Pillow searches all its plugins for a codec that is not imported.
_PLUGINS = (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
# Pillow loads an image when its pixels are first needed, but not safely in several threads.
_loading = threading.Lock()

_ORIENTATION_TAG = 0x0112
# The transpositions that turn a photo upright, by EXIF orientation (EXIF 2.32, 4.6.4).
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
_INT32_MAX = 2**31 - 1

# Large photos are averaged to at least this many times the wanted size, then resized: as good as one resize.
_REDUCING_GAP = 3
# Pixels that are converted at a time, so that a large photo is in memory only once.
_STRIP_PIXELS = 2**22
# The value of white in images of 8, 10, 12, 14 and 16 bits; the stored integers may be wider.
_WHITES = (255, 1023, 4095, 16383, 65535)

# The codecs' messages about texts that are too long and about invalid EXIF. Photos with such metadata are valid.
_METADATA_ERROR = re.compile("MAX_TEXT|not a TIFF file|Invalid Exif payload")
_UNSUPPORTED_WORDS = ("not supported", "not been built in", "not implemented", "unknown pixel mode", "cannot handle")
_MEMORY_WORDS = ("out of memory", "decoder error -9", "memory allocation", "security limit")
_TRUNCATED_WORDS = ("truncated", "end of file", "but only got")


class _Refused(Exception):  # noqa: N818 - it describes the photo's failure
    def __init__(self, code: ErrorCode, message: str):
        super().__init__(message)
        self.code = code


def convert(data: bytes, size: int, max_pixels: int = MAX_PIXELS, expected: Expected = _NOTHING) -> Picture:
    """Decodes a photo, turns it upright and resizes it to a square, without cropping. Raises and logs nothing.

    Args:
      data: bytes of the image file.
      size: height and width of the result, pixels.
      max_pixels: width × height above which a photo is refused.
      expected: what the photo may turn out to be: then only its header is read, and it has no pixels.
    """
    started = time.perf_counter()
    picture = Picture(sha256=hashlib.sha256(data).hexdigest())
    try:
        picture = picture._replace(image_sha256=image_sha256(data, picture.sha256))
        picture = _convert(picture, data, size, max_pixels, expected)
    except Exception as error:  # noqa: BLE001 - what `_convert` raises is a fault of Beamscribe, whatever it is
        fault = failures.fault_of(error)
        failure = Failure(Stage.DECODE, ErrorCode.INTERNAL_ERROR, fault.message)
        picture = picture._replace(failure=failure, fault=fault)
    return picture._replace(decode_ms=1000 * (time.perf_counter() - started))


def _convert(picture: Picture, data: bytes, size: int, max_pixels: int, expected: Expected) -> Picture:
    """Converts a photo; what is wrong with the photo becomes its failure.

    Args:
      picture: the photo's digests.
      data, size, max_pixels, expected: see `convert`.

    Raises:
      Exception: a fault of Beamscribe.
    """
    try:
        with _open(data, max_pixels) as image:
            picture = _with_metadata(picture, image, data)
            if expected.is_met(picture):
                return picture._replace(is_known=True)
            turn = _turn(image, picture.orientation)
            width, height = _size_upright(image, turn)
            # The columns of a row hold no larger numbers.
            if max(width, height) <= _INT32_MAX:
                picture = picture._replace(width=width, height=height)
            _check_size(width, height, max_pixels)
            _choose_scale(image, data, size)
            pixels = _square(image, turn, size)
            return picture._replace(pixels=pixels, perceptual_hash=perceptual_hash(pixels))
    except Exception as error:  # codecs raise nearly anything on broken bytes
        if failures.is_own_fault(error):
            raise
        if expected.is_met(picture):
            return picture._replace(is_known=True)
        if _METADATA_ERROR.search(str(error)) and (rest := formats.without_metadata(data)) != data:
            return _convert(picture, rest, size, max_pixels, expected)
        code, message = _explain(error, data)
        return picture._replace(failure=Failure(Stage.DECODE, code, message))


def _with_metadata(picture: Picture, image: Image.Image, data: bytes) -> Picture:
    """Adds what the file's metadata says, as far as that can be read: a photo with broken metadata is valid."""
    try:
        photo_metadata.add_late(image, data)
        picture = picture._replace(**photo_metadata.read(image, data)._asdict())
    except Exception as error:  # noqa: BLE001 - no photo fails by it, and a fault of ours is logged
        if failures.is_own_fault(error):
            picture = picture._replace(fault=failures.fault_of(error))
    return picture._replace(orientation=_orientation(image))


def convert_image(image: Image.Image, size: int, max_pixels: int = MAX_PIXELS) -> Picture:
    """Converts an image of Pillow as `convert` does a file. Raises and logs nothing; the image stays as it is.

    Args:
      image: the image, of any mode. One that was opened and not loaded yet is loaded in this process.
      size: height and width of the result, pixels.
      max_pixels: width × height above which a photo is refused.

    Returns:
      The result; instead of the bytes' SHA-256 it has that of its pixels, so that an image has a name.
    """
    started = time.perf_counter()
    picture = Picture(sha256=None)
    try:
        with _loading:
            # Of a PNG, Pillow decodes the pixels to find EXIF behind them, which those of one that is refused need not.
            is_refused = image.width * image.height > max_pixels
            orientation = _orientation(image, may_load=not is_refused)
            turn = _turn(image, orientation)
            width, height = _size_upright(image, turn)
            picture = picture._replace(width=width, height=height, orientation=orientation)
            _check_size(width, height, max_pixels)
            image.load()
        pixels = _square(image, turn, size)
        return picture._replace(
            sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
            pixels=pixels,
            perceptual_hash=perceptual_hash(pixels),
            decode_ms=1000 * (time.perf_counter() - started),
        )
    except Exception as error:  # noqa: BLE001 - codecs raise nearly anything on broken bytes
        if failures.is_own_fault(error):
            fault = failures.fault_of(error)
            failure = Failure(Stage.DECODE, ErrorCode.INTERNAL_ERROR, fault.message)
            return picture._replace(failure=failure, fault=fault)
        return picture._replace(failure=Failure(Stage.DECODE, *_explain(error)))


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Opens an image, which reads only its header.

    Raises:
      _Refused: the format is unknown or not decoded.
      Exception: the codec failed.
    """
    codecs = _codecs(data)
    if codecs == ("WEBP",) and (canvas := formats.webp_canvas(data)):
        _check_size(*canvas, max_pixels)
    _prepare_pillow()
    try:
        return Image.open(io.BytesIO(data), formats=codecs)
    except UnidentifiedImageError:
        # This call raises the codec's own error, which Pillow hides.
        Image.OPEN[codecs[-1]][0](io.BytesIO(data), "")
        raise


@functools.cache
def _prepare_pillow() -> None:
    """Sets what holds for all of a process, and so must not be set where `convert_image` alone is used."""
    # There is one process per processor already, and each thread's stack and heap would take address space.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    pillow_heif.register_heif_opener(decode_threads=1)
    # `convert` checks the size itself, so that there is one limit and its failure has an error code.
    Image.MAX_IMAGE_PIXELS = None


def _codecs(data: bytes) -> tuple[str, ...]:
    if not data:
        raise _Refused(ErrorCode.EMPTY, "the file has no bytes")
    if name := formats.unsupported(data):
        raise _Refused(ErrorCode.UNSUPPORTED_FORMAT, f"the format {name} is not supported")
    codecs = formats.codecs(data)
    if not codecs:
        raise _Refused(ErrorCode.NOT_AN_IMAGE, f"the file begins with {data[:16]!r}, unlike any photo format")
    return codecs


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise _Refused(ErrorCode.TOO_LARGE, f"the photo has {width} × {height} pixels, the limit is {max_pixels:,}")
    if min(width, height) < MIN_SIDE:
        raise _Refused(ErrorCode.TOO_SMALL, f"the photo has {width} × {height} pixels, the minimum side is {MIN_SIDE}")


def _orientation(image: Image.Image, may_load: bool = False) -> int:
    """The orientation of EXIF, or where there is none, of XMP, 1 to 8; 1 where none is stated.

    Args:
      image: the image; `photo_metadata.add_late` adds what a PNG has behind its picture.
      may_load: whether Pillow may decode a PNG to find metadata behind its picture.
    """
    try:
        exif = image.getexif() if may_load else Image.Image.getexif(image)
        orientation = int(exif.get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - Pillow raises nearly anything on broken EXIF, and a photo with such EXIF is valid
        # Among others: it is a text, several numbers, or a fraction with the denominator 0.
        return 1
    return orientation if orientation in _TRANSPOSITIONS else 1


def _turn(image: Image.Image, orientation: int | None) -> int:
    """The orientation by which an image is yet to be turned: Pillow itself turns TIFFs upright."""
    return 1 if image.format == "TIFF" or orientation is None else orientation


def _size_upright(image: Image.Image, orientation: int) -> tuple[int, int]:
    return image.size[::-1] if orientation in _SWAPPED else image.size


def _choose_scale(image: Image.Image, data: bytes, size: int) -> None:
    """Makes the codec scale the image down while it decodes, if it can, but not below the wanted size."""
    if not isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile):
        image.draft("RGB", (size, size))
        return
    halvings = min(formats.jpeg2000_levels(data), max(1, min(image.size) // size).bit_length() - 1)
    while any(-(-side >> halvings) != _halved(side, halvings) for side in image.size):
        halvings -= 1
    image.reduce = halvings


def _halved(side: int, halvings: int) -> int:
    """The size that Pillow expects: Pillow rounds to the nearest integer, but the codec rounds up, as it should."""
    return (side + (1 << halvings >> 1)) >> halvings


def _square(image: Image.Image, orientation: int, size: int) -> np.ndarray:
    """The whole image as an upright square: `[size, size, 3]`, uint8, RGB."""
    resized = _resize(image, size)
    # Turning after the resize gives the same square, and is cheaper.
    if orientation in _TRANSPOSITIONS:
        resized = resized.transpose(_TRANSPOSITIONS[orientation])
    return np.asarray(resized)


def _resize(image: Image.Image, size: int) -> Image.Image:
    """Resizes the whole image to a square, in RGB."""
    image.load()
    if image.format in ("JPEG", "MPO") and image.mode == "CMYK" and "adobe" not in image.info:
        # Pillow takes every CMYK image for one of Adobe's, which are inverted.
        image = Image.eval(image, lambda ink: 255 - ink)
    levels = _levels(image) if image.mode == "F" or image.mode.startswith("I") else None
    width, height = image.size
    across, down = (max(1, side // (_REDUCING_GAP * size)) for side in image.size)
    rows = max(1, _STRIP_PIXELS // (width * down)) * down
    strips = [
        _simplified(image.crop((0, top, width, min(top + rows, height))), levels).reduce((across, down))
        for top in range(0, height, rows)
    ]
    reduced = Image.new(strips[0].mode, (math.ceil(width / across), math.ceil(height / down)))
    for index, strip in enumerate(strips):
        reduced.paste(strip, (0, index * rows // down))
    box = (0, 0, width / across, height / down)
    return _on_white(reduced).resize((size, size), Image.Resampling.BICUBIC, box)


def _simplified(image: Image.Image, levels: tuple[float, float] | None) -> Image.Image:
    """Converts an image to a mode that can be averaged: L, RGB, or RGBa, whose colours are premultiplied by alpha."""
    if levels:
        return _to_grey(image, levels)
    if image.mode == "La":
        # Pillow converts this mode, which no file has, to no other.
        image = image.convert("LA")
    if image.has_transparency_data:
        return image.convert("RGBA").convert("RGBa")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGBa":
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _levels(image: Image.Image) -> tuple[float, float]:
    """Estimates the values of black and white in an image of more than 8 bits, whose header does not state them."""
    sample = np.asarray(image.resize((256, 256), Image.Resampling.NEAREST)).astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0, 1
    whites = (1,) if image.mode == "F" else _WHITES
    if sample.min() >= 0 and sample.max() <= whites[-1]:
        return 0, next(white for white in whites if sample.max() <= white)
    black, white = np.percentile(sample, (0.5, 99.5))
    # Next to a large value, 1 is nothing.
    margin = max(1.0, abs(black) * 1e-6)
    return (black, white) if black < white else (black - margin, black + margin)


def _to_grey(image: Image.Image, levels: tuple[float, float]) -> Image.Image:
    black, white = levels
    values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=black, posinf=white, neginf=black)
    grey = np.clip((values - black) * (255 / (white - black)), 0, 255)
    return Image.fromarray(np.rint(grey).astype(np.uint8))


def _explain(error: Exception, data: bytes = b"") -> tuple[ErrorCode, str]:
    """The code and the message of an error; `data` is the file, where there is one."""
    if isinstance(error, _Refused):
        return error.code, str(error)
    text = _words_of(error)
    words = text.lower()
    if isinstance(error, MemoryError) or any(word in words for word in _MEMORY_WORDS):
        return ErrorCode.TOO_LARGE, one_line(f"decoding the photo needs more memory than the limit; {text}")
    if isinstance(error, EOFError) or any(word in words for word in _TRUNCATED_WORDS) or formats.is_cut_short(data):
        return ErrorCode.TRUNCATED, one_line(f"the file has {len(data)} bytes; {text}") if data else text
    if words.startswith("unsupported") or any(word in words for word in _UNSUPPORTED_WORDS):
        return ErrorCode.UNSUPPORTED_FORMAT, text
    return ErrorCode.CORRUPT, text


def _words_of(error: Exception) -> str:
    """The codec's message, in one line. Some codecs quote the file object."""
    text = one_line(str(error).replace("<_io.BytesIO object", "<the file")) if str(error) else ""
    if not isinstance(error, OSError | ValueError | SyntaxError | RuntimeError | EOFError):
        # The codec did not expect this error: its message is often only a number or a name.
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return one_line(text or error)
