import io

import numpy as np
import pytest
from PIL import Image

from pipelines import decoding
from pipelines.failures import ErrorCode, Stage


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def quadrants() -> Image.Image:
    """Red, green above blue, white: every orientation of it is another picture."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30], pixels[:20, 30:] = (255, 0, 0), (0, 255, 0)
    pixels[20:, :30], pixels[20:, 30:] = (0, 0, 255), (255, 255, 255)
    return Image.fromarray(pixels)


def corners(pixels: np.ndarray) -> list[str]:
    names = {(1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue", (1, 1, 1): "white"}
    far = len(pixels) - 4
    return [names[tuple(int(v > 127) for v in pixels[y, x])] for y, x in ((3, 3), (3, far), (far, 3), (far, far))]


def test_a_photo_becomes_a_square_without_cropping():
    decoded = decoding.decode(encoded(quadrants()), 32)
    assert decoded.failure is None
    assert (decoded.width, decoded.height) == (60, 40)
    assert decoded.pixels.shape == (32, 32, 3) and decoded.pixels.dtype == np.uint8
    assert corners(decoded.pixels) == ["red", "green", "blue", "white"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(quadrants(), exif=exif)
    decoded = decoding.decode(data, 32)
    with Image.open(io.BytesIO(data)) as image:
        from PIL import ImageOps

        upright = ImageOps.exif_transpose(image)
    assert (decoded.width, decoded.height) == upright.size
    assert corners(decoded.pixels) == corners(np.asarray(upright.resize((32, 32))))


@pytest.mark.parametrize("mode", ["L", "CMYK", "1"])
def test_other_colour_modes_become_rgb(mode):
    kind = "PNG" if mode == "1" else "JPEG"
    assert decoding.decode(encoded(quadrants().convert(mode), kind), 32).pixels.shape == (32, 32, 3)


def test_transparency_lies_on_white():
    decoded = decoding.decode(encoded(Image.new("RGBA", (20, 20), (0, 0, 0, 0)), "PNG"), 8)
    assert decoded.pixels.min() == 255


def test_sixteen_bits_keep_their_brightness():
    grey = Image.fromarray(np.full((20, 20), 128 * 256, np.uint16))
    assert abs(int(decoding.decode(encoded(grey, "PNG"), 8).pixels.mean()) - 128) <= 1


def test_heic_is_read():
    pixels = decoding.decode(encoded(quadrants().resize((64, 64)), "HEIF", quality=90), 32).pixels
    assert corners(pixels) == ["red", "green", "blue", "white"]


def test_each_failure_has_its_code():
    jpeg = encoded(quadrants().resize((300, 300)))
    png = encoded(quadrants().resize((300, 300)), "PNG")
    cases = {
        b"": ErrorCode.EMPTY,
        b"Dear diary, no photo here.": ErrorCode.NOT_AN_IMAGE,
        b"<html>not found</html>" * 50: ErrorCode.NOT_AN_IMAGE,
        jpeg[: len(jpeg) // 2]: ErrorCode.TRUNCATED,
        jpeg[:30]: ErrorCode.TRUNCATED,
        png[: len(png) // 2]: ErrorCode.TRUNCATED,
        png[:40] + bytes(len(png) - 60) + png[-20:]: ErrorCode.CORRUPT,
    }
    for data, code in cases.items():
        decoded = decoding.decode(data, 32)
        assert decoded.pixels is None
        assert (decoded.failure.stage, decoded.failure.error) == (Stage.DECODE, code), data[:20]
        assert "\n" not in decoded.failure.message and decoded.failure.message


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 100)
    decoded = decoding.decode(encoded(quadrants()), 32)
    assert decoded.failure.error == ErrorCode.TOO_LARGE
    assert (decoded.width, decoded.height) == (60, 40)


def test_broken_exif_is_ignored():
    data = encoded(quadrants(), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decoding.decode(data, 32).failure is None


def test_every_photo_of_a_chunk_has_its_own_result():
    results = decoding.decode_all([b"", encoded(quadrants()), b"text"], 16)
    assert [result.failure is None for result in results] == [False, True, False]
