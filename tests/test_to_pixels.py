import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from beamscribe.pipelines.failures import ErrorCode, Stage
from beamscribe.pipelines.images import formats, to_pixels

# The photos of these tests are encoded in this process.
pillow_heif.register_heif_opener()

CODE_TABLE = Path(__file__).parent.parent / "docs" / "failures.md"


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
    places = ((3, 3), (3, far), (far, 3), (far, far))
    return [names.get(tuple(int(v > 127) for v in pixels[place]), str(pixels[place])) for place in places]


UPRIGHT = ["red", "green", "blue", "white"]


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *before: bytes) -> bytes:
    """A PNG of given numbers, which Pillow itself would not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = (png_chunk(b"IHDR", header), *before, png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_of_16_bit_rgb() -> bytes:
    words = (np.asarray(quadrants()).astype(">u2") * 257).tobytes()
    row = 60 * 6
    return png(60, 40, 16, 2, b"".join(b"\0" + words[y * row : (y + 1) * row] for y in range(40)))


def tiff(tags: dict[int, tuple[int, ...]], pixels: bytes, order: str = "<") -> bytes:
    """A TIFF of one page and one strip, whose tags, all 32-bit, may say anything."""
    directory_size = 2 + 12 * (len(tags.keys() | {273, 279})) + 4
    first_pixel = 8 + directory_size
    tags = {273: (first_pixel,), 279: (len(pixels),), **tags}
    entries, values = b"", b""
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            place = first_pixel + len(pixels) + len(values)
            values += packed
            packed = struct.pack(f"{order}I", place)
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + packed
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return header + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + pixels + values


def rgb_tags(width: int, height: int, bits: int = 8) -> dict[int, tuple[int, ...]]:
    return {256: (width,), 257: (height,), 258: (bits,) * 3, 259: (1,), 262: (2,), 277: (3,), 278: (height,)}


def tiff_of_16_bit_rgb(order: str) -> bytes:
    words = np.asarray(quadrants()).astype(f"{order}u2") * 257
    return tiff(rgb_tags(60, 40, bits=16), words.tobytes(), order)


def without_adobe_marker(jpeg: bytes) -> bytes:
    """Adobe's CMYK is inverted; the same numbers without its marker mean the opposite."""
    marker = jpeg.index(b"\xff\xee\x00\x0eAdobe")
    return jpeg[:marker] + jpeg[marker + 16 :]


def cmyk_without_adobe_marker() -> bytes:
    inverted = Image.eval(quadrants().convert("CMYK"), lambda ink: 255 - ink)
    return without_adobe_marker(encoded(inverted, quality=95))


def ycck() -> bytes:
    """CMYK whose inks are stored as luma and chroma, as Photoshop writes it. Pillow inverts whatever it stores."""
    red, green, blue = (Image.eval(band, lambda v: 255 - v) for band in quadrants().split())
    luma_and_chroma = Image.merge("RGB", (red, green, blue)).convert("YCbCr").split()
    planes = [Image.eval(band, lambda v: 255 - v) for band in luma_and_chroma]
    jpeg = encoded(Image.merge("CMYK", (*planes, Image.new("L", (60, 40), 0))), quality=95)
    transform = jpeg.index(b"Adobe") + 11
    return jpeg[:transform] + b"\2" + jpeg[transform + 1 :]


def palette(**options) -> Image.Image:
    return quadrants().quantize(8, **options)


def first_of_two(kind: str, **options) -> bytes:
    other = ImageOps.invert(quadrants())
    return encoded(quadrants(), kind, save_all=True, append_images=[other], **options)


COLOURED = {
    "JPEG": lambda: encoded(quadrants()),
    "JPEG, progressive": lambda: encoded(quadrants(), progressive=True),
    "JPEG, CMYK of Adobe": lambda: encoded(quadrants().convert("CMYK")),
    "JPEG, CMYK": cmyk_without_adobe_marker,
    "JPEG, YCCK": ycck,
    "JPEG of two (MPO)": lambda: first_of_two("MPO"),
    "PNG": lambda: encoded(quadrants(), "PNG"),
    "PNG, palette": lambda: encoded(palette(), "PNG"),
    "PNG, 16 bits": png_of_16_bit_rgb,
    "PNG, alpha": lambda: encoded(quadrants().convert("RGBA"), "PNG"),
    "PNG, animated": lambda: first_of_two("PNG"),
    "WebP": lambda: encoded(quadrants(), "WEBP"),
    "WebP, lossless": lambda: encoded(quadrants(), "WEBP", lossless=True),
    "WebP, alpha": lambda: encoded(quadrants().convert("RGBA"), "WEBP"),
    "WebP, animated": lambda: first_of_two("WEBP"),
    "GIF": lambda: encoded(quadrants(), "GIF"),
    "GIF, animated": lambda: first_of_two("GIF"),
    "BMP": lambda: encoded(quadrants(), "BMP"),
    "BMP, palette": lambda: encoded(palette(), "BMP"),
    "TIFF": lambda: encoded(quadrants(), "TIFF"),
    "TIFF, LZW": lambda: encoded(quadrants(), "TIFF", compression="tiff_lzw"),
    "TIFF, JPEG": lambda: encoded(quadrants(), "TIFF", compression="jpeg"),
    "TIFF, palette": lambda: encoded(palette(), "TIFF"),
    "TIFF, CMYK": lambda: encoded(quadrants().convert("CMYK"), "TIFF"),
    "TIFF, 16 bits": lambda: tiff_of_16_bit_rgb("<"),
    "TIFF, 16 bits, big-endian": lambda: tiff_of_16_bit_rgb(">"),
    "TIFF, two pages": lambda: first_of_two("TIFF"),
    "BigTIFF": lambda: encoded(quadrants(), "TIFF", big_tiff=True),
    "HEIC": lambda: encoded(quadrants(), "HEIF", quality=90),
    "HEIC, alpha": lambda: encoded(quadrants().convert("RGBA"), "HEIF", quality=90),
    "AVIF": lambda: encoded(quadrants(), "AVIF"),
    "AVIF, alpha": lambda: encoded(quadrants().convert("RGBA"), "AVIF"),
    "JPEG 2000": lambda: encoded(quadrants(), "JPEG2000"),
    "JPEG 2000, codestream": lambda: encoded(quadrants(), "JPEG2000", no_jp2=True),
}

RAMP = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))


def ramp(scale: float, kind: type, offset: float = 0) -> Image.Image:
    return Image.fromarray((RAMP * scale + offset).astype(kind))


def ramp_with_gaps() -> Image.Image:
    values = RAMP.copy()
    values[0, :2] = np.nan, np.inf
    return Image.fromarray(values)


GREY = {
    "JPEG": lambda: encoded(ramp(255, np.uint8)),
    "JPEG, progressive": lambda: encoded(ramp(255, np.uint8), progressive=True),
    "PNG": lambda: encoded(ramp(255, np.uint8), "PNG"),
    "PNG, alpha": lambda: encoded(ramp(255, np.uint8).convert("LA"), "PNG"),
    "PNG, 16 bits": lambda: encoded(ramp(65535, np.uint16), "PNG"),
    "WebP": lambda: encoded(ramp(255, np.uint8), "WEBP"),
    "GIF": lambda: encoded(ramp(255, np.uint8), "GIF"),
    "BMP": lambda: encoded(ramp(255, np.uint8), "BMP"),
    "TIFF": lambda: encoded(ramp(255, np.uint8), "TIFF"),
    "TIFF, 16 bits": lambda: encoded(ramp(65535, np.uint16), "TIFF"),
    "TIFF, 16 bits, LZW": lambda: encoded(ramp(65535, np.uint16), "TIFF", compression="tiff_lzw"),
    "TIFF, 12 of 16 bits": lambda: encoded(ramp(4095, np.uint16), "TIFF"),
    "TIFF, 8 of 32 bits": lambda: encoded(ramp(255, np.int32), "TIFF"),
    "TIFF, 32 bits": lambda: encoded(ramp(2e9, np.int32), "TIFF"),
    "TIFF, float to 1": lambda: encoded(ramp(1, np.float32), "TIFF"),
    "TIFF, float to 255": lambda: encoded(ramp(255, np.float32), "TIFF"),
    "TIFF, float, any range": lambda: encoded(ramp(9000, np.float32, offset=-4500), "TIFF"),
    "TIFF, float, gaps": lambda: encoded(ramp_with_gaps(), "TIFF"),
    "HEIC": lambda: encoded(ramp(255, np.uint8), "HEIF", quality=90),
    "HEIC, 10 bits": lambda: encoded(ramp(65535, np.uint16), "HEIF", quality=90),
    "AVIF": lambda: encoded(ramp(255, np.uint8), "AVIF"),
    "JPEG 2000": lambda: encoded(ramp(255, np.uint8), "JPEG2000"),
    "JPEG 2000, 16 bits": lambda: encoded(ramp(65535, np.uint16), "JPEG2000"),
}


@pytest.mark.parametrize("name", COLOURED)
def test_every_format_keeps_its_colours(name):
    decoded = to_pixels.convert(COLOURED[name](), 32)
    assert decoded.failure is None
    assert (decoded.width, decoded.height) == (60, 40)
    assert decoded.pixels.shape == (32, 32, 3) and decoded.pixels.dtype == np.uint8
    assert corners(decoded.pixels) == UPRIGHT


@pytest.mark.parametrize("name", GREY)
def test_every_format_keeps_its_brightness(name):
    decoded = to_pixels.convert(GREY[name](), 32)
    assert decoded.failure is None
    expected = np.linspace(4, 251, 32)
    assert np.abs(decoded.pixels[8:24].mean(axis=(0, 2)) - expected).max() < 12


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_one_bit_is_black_and_white(kind):
    half = Image.fromarray((RAMP > 0.5).astype(np.uint8) * 255).convert("1")
    pixels = to_pixels.convert(encoded(half, kind), 32).pixels
    assert pixels[:, :12].max() == 0 and pixels[:, 20:].min() == 255


def half_transparent() -> Image.Image:
    """A third each: red; black that can't be seen; red that can be half."""
    pixels = np.zeros((40, 60, 4), np.uint8)
    pixels[:, :20], pixels[:, 40:] = (255, 0, 0, 255), (255, 0, 0, 128)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("AVIF", {"quality": 95})]
)
@pytest.mark.parametrize("size", [(60, 40), (600, 400)])
def test_alpha_lies_on_white(kind, options, size):
    photo = half_transparent().resize(size, Image.Resampling.NEAREST)
    pixels = to_pixels.convert(encoded(photo, kind, **options), 30).pixels.astype(int)
    for column, expected in ((4, (255, 0, 0)), (15, (255, 255, 255)), (25, (255, 127, 127))):
        assert np.abs(pixels[15, column] - expected).max() < 12


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_colour_lies_on_white(kind):
    two = Image.new("P", (40, 40), 0)
    two.putpalette([0, 0, 0, 255, 0, 0])
    two.paste(1, (20, 0, 40, 40))
    pixels = to_pixels.convert(encoded(two, kind, transparency=0), 16).pixels
    assert pixels[8, 2].tolist() == [255, 255, 255] and pixels[8, 13].tolist() == [255, 0, 0]


def test_a_palette_with_transparency_lies_on_white():
    two = Image.new("P", (40, 40), 0)
    two.putpalette([0, 0, 255, 255, 0, 0])
    two.paste(1, (20, 0, 40, 40))
    pixels = to_pixels.convert(encoded(two, "PNG", transparency=bytes([128, 255])), 16).pixels.astype(int)
    assert np.abs(pixels[8, 2] - (127, 127, 255)).max() <= 2 and pixels[8, 13].tolist() == [255, 0, 0]


ORIENTED = {
    "JPEG": {},
    "PNG": {},
    "WEBP": {},
    "TIFF": {},
    "HEIF": {"quality": 90},
    "AVIF": {},
}


@pytest.mark.parametrize("kind", ORIENTED)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = quadrants()
    if orientation > 1:
        upright = upright.transpose(to_pixels._TRANSPOSITIONS[orientation])
    decoded = to_pixels.convert(encoded(quadrants(), kind, exif=exif.tobytes(), **ORIENTED[kind]), 32)
    assert (decoded.width, decoded.height) == upright.size
    assert corners(decoded.pixels) == corners(np.asarray(upright.resize((32, 32))))


def test_transpositions_are_those_of_exif():
    for orientation, transposition in to_pixels._TRANSPOSITIONS.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        with Image.open(io.BytesIO(encoded(quadrants(), "PNG", exif=exif))) as image:
            assert ImageOps.exif_transpose(image).tobytes() == quadrants().transpose(transposition).tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF"])
@pytest.mark.parametrize("exif", [b"II*\0\xff\xff\xff\xff", b"garbage!", b"MM\0*\0\0\0\x08\xff\xff\x01\x12\0\7", b""])
def test_broken_exif_is_ignored(kind, exif):
    assert corners(to_pixels.convert(encoded(quadrants(), kind, exif=b"Exif\0\0" + exif), 32).pixels) == UPRIGHT


@pytest.mark.parametrize("value", [b"up\0\0", b"\0\0\0\0", b"\xff\xff\0\0"])
def test_an_orientation_that_is_none_is_ignored(value):
    exif = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\2\0\4\0\0\0" + value + bytes(4)
    assert corners(to_pixels.convert(encoded(quadrants(), exif=exif), 32).pixels) == UPRIGHT


def test_broken_exif_of_avif_is_ignored():
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    data = encoded(quadrants(), "AVIF", exif=exif)
    header = data.rindex(b"MM\0*", 0, data.index(b"a maker"))
    for broken in (b"garb", data[header : header + 4] + b"\xff\xff\xff\xff"):
        damaged = data[:header] + broken + data[header + len(broken) :]
        assert corners(to_pixels.convert(damaged, 32).pixels) == UPRIGHT


def test_broken_exif_of_tiff_is_ignored():
    tags = rgb_tags(60, 40)
    for place in (0, 8, 0x7FFFFFFF, 0xFFFFFFFF):
        data = tiff({**tags, 34665: (place,), 34853: (place,)}, quadrants().tobytes())
        assert corners(to_pixels.convert(data, 32).pixels) == UPRIGHT


def test_large_photos_are_the_same_in_strips_and_at_once(monkeypatch):
    noise = np.random.default_rng(1).integers(0, 256, (40, 60, 4), np.uint8)
    photo = Image.fromarray(noise).resize((403, 301), Image.Resampling.BILINEAR)
    for mode in ("RGBA", "RGB", "L", "P"):
        data = encoded(photo.convert(mode), "PNG")
        at_once = to_pixels.convert(data, 16).pixels
        with monkeypatch.context() as patch:
            patch.setattr(to_pixels, "_STRIP_PIXELS", 10_000)
            assert (to_pixels.convert(data, 16).pixels == at_once).all()
    exact = photo.convert("RGB").resize((16, 16), Image.Resampling.BICUBIC)
    pixels = to_pixels.convert(encoded(photo.convert("RGB"), "PNG"), 16).pixels
    assert np.abs(pixels.astype(int) - np.asarray(exact)).mean() < 3


@pytest.mark.parametrize("size", [(256, 256), (259, 261), (1000, 333)])
def test_jpeg_2000_is_scaled_while_it_is_decoded(size):
    data = encoded(quadrants().resize(size, Image.Resampling.NEAREST), "JPEG2000", irreversible=True)
    decoded = to_pixels.convert(data, 32)
    assert (decoded.width, decoded.height) == size
    assert corners(decoded.pixels) == UPRIGHT


def test_a_thumbnail_stands_for_its_photo_only_where_it_is_large_enough():
    photo = quadrants().resize((600, 400), Image.Resampling.NEAREST)
    data = encoded(photo, "HEIF", quality=90, thumbnails=[150])
    for size in (32, 256):
        decoded = to_pixels.convert(data, size)
        assert (decoded.width, decoded.height) == (600, 400)
        assert corners(decoded.pixels) == UPRIGHT


def test_names_say_nothing():
    """The decoders are chosen by first bytes, and are exactly those of the supported formats."""
    chosen = {name for make in (*COLOURED.values(), *GREY.values()) for name in formats.codecs(make())}
    assert chosen == {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF", "JPEG2000"}


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_the_brand_that_heic_and_avif_share(kind):
    data = encoded(quadrants(), kind)
    assert corners(to_pixels.convert(data[:8] + b"mif1" + data[12:], 32).pixels) == UPRIGHT


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"8BPS\0\1" + bytes(40), "PSD"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\xef\xbb\xbf<SVG width='1'/>", "SVG"),
        (b"\xff\x0a" + bytes(40), "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "JPEG XL"),
        (b"%PDF-1.7\n", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "EPS"),
        (b"\0\0\1\0\1\0\x10\x10" + bytes(40), "ICO"),
        (b"P6\n10 10\n255\n" + bytes(300), "Netpbm"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "CR2"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(40), "CR3"),
        (b"\0\0\0\x18ftypmp42\0\0\0\1mp42isom" + bytes(40), "mp42"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(40), "RAF"),
        (b"IIRO\x08\0\0\0" + bytes(40), "ORF"),
        (b"IIU\0\x18\0\0\0" + bytes(40), "RW2"),
        (tiff({**rgb_tags(60, 40), 50706: (1,)}, quadrants().tobytes()), "DNG"),
        (tiff({**rgb_tags(60, 40), 254: (1,), 330: (8,)}, quadrants().tobytes()), "NEF"),
        (tiff({**rgb_tags(60, 40), 262: (32803,)}, quadrants().tobytes()), "pixel mode"),
        (tiff({**rgb_tags(60, 40, bits=32), 339: (3, 3, 3)}, bytes(60 * 40 * 12)), "pixel mode"),
    ],
)
def test_formats_that_are_not_decoded_are_named(data, name):
    failure = to_pixels.convert(data, 32).failure
    assert failure.error == ErrorCode.UNSUPPORTED_FORMAT and name in failure.message


def test_each_failure_has_its_code():
    jpeg = encoded(quadrants().resize((300, 300)))
    png_data = encoded(quadrants().resize((300, 300)), "PNG")
    cases = {
        b"": ErrorCode.EMPTY,
        b"Dear diary, no photo here.": ErrorCode.NOT_AN_IMAGE,
        b"<html>not found</html>" * 50: ErrorCode.NOT_AN_IMAGE,
        b"BMW is a maker of cars, among other things.": ErrorCode.NOT_AN_IMAGE,
        jpeg[: len(jpeg) // 2]: ErrorCode.TRUNCATED,
        jpeg[:30]: ErrorCode.TRUNCATED,
        png_data[: len(png_data) // 2]: ErrorCode.TRUNCATED,
        png_data[:40] + bytes(len(png_data) - 60) + png_data[-20:]: ErrorCode.CORRUPT,
        encoded(quadrants().resize((300, 7)), "PNG"): ErrorCode.TOO_SMALL,
        encoded(Image.new("L", (1, 1))): ErrorCode.TOO_SMALL,
    }
    for data, code in cases.items():
        decoded = to_pixels.convert(data, 32)
        assert decoded.pixels is None
        assert (decoded.failure.stage, decoded.failure.error) == (Stage.DECODE, code), data[:20]
        assert "\n" not in decoded.failure.message and decoded.failure.message


@pytest.mark.parametrize("name", COLOURED)
def test_a_photo_that_was_cut_short_is_truncated(name):
    data = COLOURED[name]()
    # An animation is decoded from its first picture; of two pages or photos the other is not needed.
    parts = (0.3, 0.4) if "two" in name or "animated" in name else (0.4, 0.6)
    for part in parts:
        failure = to_pixels.convert(data[: int(len(data) * part)], 32).failure
        assert failure is not None and failure.error == ErrorCode.TRUNCATED


def test_the_smallest_photo_is_decoded():
    assert to_pixels.convert(encoded(quadrants().resize((8, 8)), "PNG"), 32).failure is None


def test_messages_are_one_short_line():
    """Even of errors that quote the file, or say nothing."""
    for error in (KeyError("x" * 1000), ValueError("two\n lines"), TypeError(), MemoryError(), OSError(5, "no")):
        _, message = to_pixels._explain(error, b"II*\0")
        assert message.strip() and "\n" not in message and len(message) <= 300


def test_too_many_pixels_are_refused_before_they_are_decoded():
    data = encoded(quadrants())
    assert to_pixels.convert(data, 32, max_pixels=2400).failure is None
    decoded = to_pixels.convert(data, 32, max_pixels=2399)
    assert decoded.failure.error == ErrorCode.TOO_LARGE and "2,399" in decoded.failure.message
    assert (decoded.width, decoded.height) == (60, 40)


def test_a_png_that_is_refused_is_not_decoded(monkeypatch):
    def load(self):
        raise AssertionError("it was decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    data = encoded(quadrants(), "PNG")
    decoded = to_pixels.convert(data, 32, max_pixels=2399)
    assert decoded.failure.error == ErrorCode.TOO_LARGE and (decoded.width, decoded.height) == (60, 40)
    with Image.open(io.BytesIO(data)) as image:
        assert to_pixels.convert_image(image, 32, max_pixels=2399).failure.error == ErrorCode.TOO_LARGE


def test_the_page_of_codes_agrees_with_the_code():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", CODE_TABLE.read_text(), re.MULTILINE)
    expected = [
        (code.value, code.sentence, ", ".join(code.stages), "yes" if code.transient else "no") for code in ErrorCode
    ]
    assert rows == expected
