"""The digest of a picture: edits made by hand that leave it as it is, and those that don't."""

import hashlib
import itertools
import re
import struct
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from beamscribe.pipelines.images import to_pixels
from beamscribe.pipelines.images.picture_digest import image_sha256
from tests.test_to_pixels import COLOURED, encoded, png_chunk, without_adobe_marker

SEGMENT = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")


def noise(mode: str = "RGB", seed: int = 1) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def plain(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def segment(code: int, content: bytes) -> bytes:
    return bytes([0xFF, code]) + struct.pack(">H", len(content) + 2) + content


def places(jpeg: bytes) -> list[int]:
    """Where another segment may stand: before each marker, by walking over segments and scans."""
    found, at = [], 2
    while True:
        at = SEGMENT.search(jpeg, at).start()
        found.append(at)
        if jpeg[at + 1] == 0xD9:
            return found
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])


JPEGS = {
    "baseline": lambda: encoded(noise()),
    "progressive": lambda: encoded(noise(), progressive=True),
    "grey": lambda: encoded(noise("L"), quality=95),
    "CMYK": lambda: encoded(noise("CMYK")),
    "restarts": lambda: encoded(noise(), restart_marker_blocks=1),
    "optimized": lambda: encoded(noise(), optimize=True, subsampling=0),
}
THUMBNAIL = encoded(noise(seed=2).resize((16, 16)))
METADATA = [
    segment(0xE1, b"Exif\0\0" + THUMBNAIL),
    segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"),
    segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\0"),
    segment(0xE2, b"ICC_PROFILE\0\1\1 no profile"),
    segment(0xEE, b"not of Ad"),
    segment(0xFE, b"said \xff\xd9\xff\xda"),
    segment(0xEF, b""),
]


@pytest.mark.parametrize("name", JPEGS)
def test_segments_of_metadata_don_t_count_wherever_they_stand(name):
    jpeg = JPEGS[name]()
    digest, pixels = image_sha256(jpeg), to_pixels.convert(jpeg, 16).pixels
    for place in places(jpeg):
        for added in METADATA:
            edited = jpeg[:place] + added + jpeg[place:]
            assert image_sha256(edited) == digest
            # A decoder sees it so, too.
            assert np.array_equal(to_pixels.convert(edited, 16).pixels, pixels)
    everywhere = jpeg
    for place in reversed(places(jpeg)):
        everywhere = everywhere[:place] + b"".join(METADATA) + everywhere[place:]
    assert image_sha256(everywhere) == digest


def test_a_progressive_jpeg_has_tables_between_its_scans():
    """So the tests above are about them, too."""
    codes = [jpeg[place + 1] for jpeg in [JPEGS["progressive"]()] for place in places(jpeg)]
    assert codes.count(0xDA) > 5 and 0xC4 in codes[codes.index(0xDA) :]


@pytest.mark.parametrize("name", JPEGS)
def test_what_is_behind_a_jpeg_does_not_count(name):
    jpeg = JPEGS[name]()
    for trailer in (bytes(100), THUMBNAIL, b"\xff" * 50, b"\xff\xe1\xff\xff", b"ftypmp42"):
        assert image_sha256(jpeg + trailer) == image_sha256(jpeg)


def test_fill_bytes_before_the_markers_of_a_header_don_t_count():
    jpeg = JPEGS["baseline"]()
    header = [place for place in places(jpeg) if place <= jpeg.index(b"\xff\xda")]
    for place in header:
        assert image_sha256(jpeg[:place] + b"\xff\xff\xff" + jpeg[place:]) == image_sha256(jpeg)


def test_a_jpeg_without_metadata_has_the_digest_of_its_bytes():
    jpeg = JPEGS["baseline"]()
    jfif = segment(0xE0, jpeg[6 : 4 + int.from_bytes(jpeg[4:6])])
    assert jfif in jpeg
    assert image_sha256(jpeg) == plain(jpeg.replace(jfif, b""))


@pytest.mark.parametrize("name", JPEGS)
def test_every_other_byte_of_a_jpeg_counts(name):
    jpeg = JPEGS[name]()
    left_out = [range(at, end) for at, end in itertools.pairwise(places(jpeg)) if jpeg[at + 1] == 0xE0]
    # Without its name, Adobe's segment is one of those that don't count.
    adobe = jpeg.find(b"Adobe")
    left_out.append(range(adobe - 3, adobe + 5))
    kept = [at for at in range(2, len(jpeg)) if not any(at in span for span in left_out)]
    digests = {image_sha256(jpeg[:at] + bytes([jpeg[at] ^ 1]) + jpeg[at + 1 :]) for at in kept}
    # No two changes have the same digest, and none has that of the original.
    assert len(digests | {image_sha256(jpeg)}) == len(kept) + 1


def test_adobe_s_segment_counts_since_it_says_what_the_colours_are():
    cmyk = JPEGS["CMYK"]()
    assert image_sha256(cmyk) != image_sha256(without_adobe_marker(cmyk))


def test_tables_of_other_kinds_count():
    jpeg = JPEGS["baseline"]()
    scan, end = jpeg.index(b"\xff\xda"), len(jpeg) - 2
    # Arithmetic coding's conditions, the interval of restarts, and the number of lines behind the scan.
    for place, added in (
        (scan, segment(0xCC, b"\0\x10")),
        (scan, segment(0xDD, b"\0\4")),
        (end, segment(0xDC, b"\0\x28")),
    ):
        assert image_sha256(jpeg[:place] + added + jpeg[place:]) != image_sha256(jpeg)


def test_a_jpeg_without_its_end_is_one_without_metadata_too():
    jpeg = JPEGS["baseline"]()[:-60]
    place = places(JPEGS["baseline"]())[1]
    assert image_sha256(jpeg[:place] + METADATA[0] + jpeg[place:]) == image_sha256(jpeg) != plain(jpeg)
    assert image_sha256(jpeg) != image_sha256(jpeg[:-1])


def test_of_damaged_files_all_bytes_count():
    jpeg, png, webp = JPEGS["baseline"](), encoded(noise(), "PNG"), encoded(noise(), "WEBP")
    scan = jpeg.index(b"\xff\xda")
    damaged = [
        jpeg[:scan],
        jpeg[: scan + 1],
        jpeg[: scan + 5],
        jpeg[:scan] + b"\xff\xd9",
        jpeg[:scan] + b"\xff\xe1\0\1" + jpeg[scan:],
        jpeg[:scan] + b"\xff\xe1\xff\xff" + jpeg[scan:],
        *(b"\xff\xd8\xff", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe0\0"),
        *(png[: len(png) // 2], png[:-1], png[:8], png[:8] + bytes(5)),
        *(webp[: len(webp) // 2], webp[:-2], webp[:12], webp[:16] + b"\xff\xff\xff\xff" + webp[20:]),
        b"RIFF\4\0\0\0WEBP",
        *(b"", b"a text"),
    ]
    for data in damaged:
        assert image_sha256(data) == plain(data), data[:40]
    assert image_sha256(b"a text", "known already") == "known already"


@pytest.mark.parametrize("name", [name for name in COLOURED if not name.startswith(("JPEG", "PNG", "WebP"))])
def test_of_other_formats_all_bytes_count(name):
    data = COLOURED[name]()
    assert image_sha256(data) == plain(data)


def png_parts(png: bytes) -> list[tuple[bytes, bytes]]:
    parts, at = [], 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4])
        parts.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += length + 12
    return parts


def png_of(parts: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, content) for kind, content in parts)


def animated(kind: str) -> bytes:
    return encoded(noise(), kind, save_all=True, append_images=[noise(seed=2), noise(seed=3)], duration=100)


PNGS = {
    "plain": lambda: encoded(noise(), "PNG"),
    "palette": lambda: encoded(noise().quantize(8), "PNG", transparency=3),
    "animated": lambda: animated("PNG"),
}
PNG_METADATA = [
    (b"tEXt", b"Comment\0said"),
    (b"eXIf", b"II*\0"),
    (b"pHYs", bytes(9)),
    (b"tIME", bytes(7)),
    (b"prVt", b""),
]


@pytest.mark.parametrize("name", PNGS)
def test_other_chunks_of_a_png_don_t_count_wherever_they_stand(name):
    parts = png_parts(PNGS[name]())
    digest = image_sha256(png_of(parts))
    for place in range(1, len(parts)):
        for added in PNG_METADATA:
            assert image_sha256(png_of([*parts[:place], added, *parts[place:]])) == digest
    assert image_sha256(png_of(parts) + b"behind it") == digest


def split(parts: list[tuple[bytes, bytes]], size: int) -> list[tuple[bytes, bytes]]:
    """The chunks of pictures in smaller ones; APNG's chunks are numbered."""
    found: list[tuple[bytes, bytes]] = []
    number = 0
    for kind, content in parts:
        content = content[4:] if kind in (b"fcTL", b"fdAT") else content
        pieces = [content[at : at + size] for at in range(0, len(content), size)]
        for piece in pieces if kind in (b"IDAT", b"fdAT") else [content]:
            found.append((kind, struct.pack(">I", number) + piece if kind in (b"fcTL", b"fdAT") else piece))
            number += kind in (b"fcTL", b"fdAT")
    return found


@pytest.mark.parametrize("name", PNGS)
def test_a_png_may_be_split_anew(name):
    parts = png_parts(PNGS[name]())
    edited = png_of(split(parts, 100))
    assert edited != png_of(parts) and image_sha256(edited) == image_sha256(png_of(parts))
    assert np.array_equal(to_pixels.convert(edited, 16).pixels, to_pixels.convert(png_of(parts), 16).pixels)


@pytest.mark.parametrize("name", PNGS)
def test_every_byte_of_a_png_s_picture_counts(name):
    parts = png_parts(PNGS[name]())
    kept = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"acTL", b"fcTL", b"fdAT")
    digests, count = {image_sha256(png_of(parts))}, 1
    for index, (kind, content) in enumerate(parts):
        for at in range(4 if kind in (b"fcTL", b"fdAT") else 0, len(content)) if kind in kept else ():
            changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
            digests.add(image_sha256(png_of([*parts[:index], (kind, changed), *parts[index + 1 :]])))
            count += 1
    assert len(digests) == count > 1000


def test_a_byte_of_a_png_belongs_to_its_chunk():
    """The digest tells what is in which chunk: contents can't be moved from one to the next."""
    one = png_of([(b"IHDR", b"a"), (b"PLTE", b"b"), (b"IDAT", b"c"), (b"IEND", b"")])
    others = [
        [(b"IHDR", b"aPLTEb"), (b"IDAT", b"c"), (b"IEND", b"")],
        [(b"IHDR", b"a"), (b"PLTE", b"bIDATc"), (b"IEND", b"")],
        [(b"IHDR", b"a"), (b"PLTE", b"b"), (b"IDAT", b""), (b"tRNS", b"c"), (b"IEND", b"")],
    ]
    assert len({image_sha256(one), *(image_sha256(png_of(other)) for other in others)}) == 4
    # The last of several palettes is the one that counts.
    two = [[(b"IHDR", b""), (b"PLTE", b"ab"[:at]), (b"PLTE", b"ab"[at:]), (b"IEND", b"")] for at in range(3)]
    assert len({image_sha256(png_of(parts)) for parts in two}) == 3


WEBPS = {
    "lossy": lambda **options: encoded(noise(), "WEBP", **options),
    "lossless": lambda **options: encoded(noise(), "WEBP", lossless=True, **options),
    "alpha": lambda **options: encoded(Image.merge("RGBA", (*noise().split(), noise("L"))), "WEBP", **options),
    "animated": lambda **options: encoded(
        noise(), "WEBP", save_all=True, append_images=[noise(seed=2)], duration=100, **options
    ),
}


@pytest.mark.parametrize("name", WEBPS)
def test_metadata_of_a_webp_does_not_count(name):
    make = WEBPS[name]
    digest = image_sha256(make())
    for options in ({"exif": b"Exif\0\0II*\0"}, {"xmp": b"<x/>"}, {"icc_profile": b"a" * 7}):
        assert make(**options) != make() and image_sha256(make(**options)) == digest
    assert image_sha256(make() + b"behind it") == digest


@pytest.mark.parametrize("name", WEBPS)
def test_every_byte_of_a_webp_s_picture_counts(name):
    webp = WEBPS[name]()
    marks = [webp.index(kind) for kind in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF") if kind in webp]
    start = min(marks) + 8
    places = [*range(start, start + 6), *range(len(webp) - 50, len(webp) - 1)]
    digests = {image_sha256(webp[:at] + bytes([webp[at] ^ 1]) + webp[at + 1 :]) for at in places}
    assert len(digests | {image_sha256(webp)}) == len(places) + 1


def test_the_canvas_of_an_animation_counts_and_flags_do_not():
    webp = WEBPS["animated"]()
    assert webp[12:16] == b"VP8X"
    flags = webp[:20] + bytes([webp[20] ^ 0x0C]) + webp[21:]
    canvas = webp[:24] + bytes([webp[24] + 4]) + webp[25:]
    assert image_sha256(flags) == image_sha256(webp) != image_sha256(canvas)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_another_pixel_is_another_picture(kind):
    pixels = np.asarray(noise()).copy()
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    digests = {image_sha256(encoded(noise(), kind, **options))}
    chance = np.random.default_rng(5)
    for _ in range(50):
        changed = pixels.copy()
        changed[chance.integers(40), chance.integers(48), chance.integers(3)] ^= 0x40
        digests.add(image_sha256(encoded(Image.fromarray(changed), kind, **options)))
    assert len(digests) == 51


SIZE = 2**24
HOSTILE = {
    "fill bytes": b"\xff\xd8" + b"\xff" * SIZE,
    "fill bytes in a scan": b"\xff\xd8\xff\xda\0\2" + b"\xff" * SIZE + b"\xd0",
    "restart markers": b"\xff\xd8\xff\xda\0\2" + b"\xff\xd3" * (SIZE // 2),
    "stuffed bytes": b"\xff\xd8\xff\xda\0\2" + b"\xff\0" * (SIZE // 2),
    "markers without a length": b"\xff\xd8\xff\xda\0\2" + b"\xff\1" * (SIZE // 2),
    "segments": b"\xff\xd8\xff\xda\0\2" + b"\xff\xe1\0\2" * (SIZE // 4),
    "scans": b"\xff\xd8" + b"\xff\xda\0\2" * (SIZE // 4),
    "chunks": b"\x89PNG\r\n\x1a\n" + (bytes(4) + b"tEXt" + bytes(4)) * (SIZE // 12),
    "parts": b"\x89PNG\r\n\x1a\n" + (bytes(4) + b"IDAT" + bytes(4)) * (SIZE // 12),
    "WebP's chunks": b"RIFF" + struct.pack("<I", SIZE) + b"WEBP" + (b"VP8 " + bytes(4)) * (SIZE // 8),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_take_neither_long_nor_much_memory(name):
    data = HOSTILE[name]
    started = time.process_time()
    image_sha256(data)
    # What grows with the square of the size would take minutes.
    assert time.process_time() - started < 2
    tracemalloc.start()
    image_sha256(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**16
