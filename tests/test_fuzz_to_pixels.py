"""Files that mean harm, and thousands of damaged ones, through real decoding processes."""

import collections
import functools
import random
import re
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from beamscribe.pipelines.failures import ErrorCode, Stage
from beamscribe.pipelines.images import to_pixels
from beamscribe.pipelines.images.pictures import Picture
from beamscribe.pipelines.images.process_pool import ImagePool
from tests.test_to_pixels import COLOURED, GREY, encoded, png, png_chunk, rgb_tags, tiff

SIZE = 32
# Far above the samples' size: a damaged width may be honest for all the decoder knows.
MAX_PIXELS = 1_000_000
MEMORY = 768 * 2**20
CASES = 3000
CHUNK = 50
# What a process may have used at its peak, MiB: the decoders alone are about 60.
RESIDENT = 400
# Codes of photos whose process has ended.
ENDED = {ErrorCode.DECODER_CRASH, ErrorCode.DECODER_KILLED, ErrorCode.TIMEOUT}


@pytest.fixture(scope="module")
def pool():
    pool = ImagePool(workers=1, memory=MEMORY)
    yield pool
    pool.close()


def peak_memory(pool: ImagePool) -> float:
    """The most memory that the process has used so far, MiB."""
    (pid,) = pool.processes
    # Not what `getrusage` says: that begins with what the parent had when it started the process.
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1]) / 1024


def check(decoded: Picture) -> None:
    """Either pixels or a failure, and either as promised."""
    assert isinstance(decoded.sha256, str)
    # What the rows' columns hold.
    assert all(side is None or 0 < side < 2**31 for side in (decoded.width, decoded.height))
    if decoded.failure is None:
        assert decoded.pixels.shape == (SIZE, SIZE, 3) and decoded.pixels.dtype == np.uint8
        assert decoded.width >= to_pixels.MIN_SIDE and decoded.height >= to_pixels.MIN_SIDE
        return
    assert decoded.pixels is None
    assert decoded.failure.stage == Stage.DECODE and isinstance(decoded.failure.error, ErrorCode)
    # What damage brings about is no fault of Beamscribe.
    assert decoded.failure.error != ErrorCode.INTERNAL_ERROR, decoded.fault
    assert decoded.failure.message and "\n" not in decoded.failure.message and len(decoded.failure.message) < 300


@functools.cache
def samples() -> dict[str, bytes]:
    every = {**COLOURED, **{f"grey {name}": make for name, make in GREY.items()}}
    return {name: make() for name, make in every.items()}


def damaged(data: bytes, chance: random.Random) -> tuple[str, bytes]:
    """A file cut short, with some bytes or bits changed, or with a number that is as large as can be."""
    kind = chance.choice(("cut", "bytes", "bits", "number"))
    if kind == "cut":
        return kind, data[: chance.randrange(len(data))]
    changed = bytearray(data)
    # Headers are at the front, where most of the harm can be done.
    reach = len(data) if chance.random() < 0.5 else min(len(data), 512)
    for _ in range(chance.choice((1, 1, 2, 8))):
        place = chance.randrange(reach)
        if kind == "bytes":
            changed[place] = chance.randrange(256)
        elif kind == "bits":
            changed[place] ^= 1 << chance.randrange(8)
        else:
            number = chance.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4)))
            place = min(place, len(data) - 4)
            changed[place : place + 4] = number
    return kind, bytes(changed)


def cases() -> list[tuple[str, str, bytes]]:
    chance = random.Random(20240229)
    names = sorted(samples())
    return [(name, *damaged(samples()[name], chance)) for name in (names[i % len(names)] for i in range(CASES))]


def test_damaged_photos(pool):
    todo = cases()
    chunks = [todo[start : start + CHUNK] for start in range(0, CASES, CHUNK)]
    results = [result for chunk in chunks for result in pool.convert([data for *_, data in chunk], SIZE, MAX_PIXELS)]
    died = [
        (name, kind, data.hex(), result.failure)
        for (name, kind, data), result in zip(todo, results, strict=True)
        if result.failure and result.failure.error in ENDED
    ]
    assert not died
    for result in results:
        check(result)
    if sys.platform == "linux":
        assert peak_memory(pool) < RESIDENT
    # What lost its end is said to have, unless what is missing is not needed: the end mark, or a second picture.
    cut = [r for (_, kind, _), r in zip(todo, results, strict=True) if kind == "cut"]
    codes = collections.Counter(r.failure.error if r.failure else "pixels" for r in cut)
    assert codes[ErrorCode.TRUNCATED] > 0.9 * len(cut), codes


# --- files that mean harm -------------------------------------------------------------------------------------------

BLACK_ROWS = (b"\0" + bytes(16)) * 16


def with_number(data: bytes, after: bytes, offset: int, number: bytes) -> bytes:
    """Overwrites a number at a distance from a mark."""
    start = data.index(after) + offset
    return data[:start] + number + data[start + len(number) :]


def jpeg_of_size(width: int, height: int, scan: bool) -> bytes:
    data = encoded(Image.new("RGB", (16, 16)))
    frame = data.index(b"\xff\xc0") + 5
    data = data[:frame] + struct.pack(">HH", height, width) + data[frame + 4 :]
    return data if scan else data[: data.index(b"\xff\xda") + 14]


def gif_of_size(width: int, height: int) -> bytes:
    data = encoded(Image.new("P", (16, 16)), "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def webp_of_canvas(width: int, height: int) -> bytes:
    data = encoded(Image.new("RGBA", (16, 16), (1, 2, 3, 128)), "WEBP")
    assert data[12:16] == b"VP8X"
    return data[:24] + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little") + data[30:]


def tiff_with_many_tags(count: int, size: int) -> bytes:
    """Every tag has the whole file for its value."""
    entries = [(1000 + i, 7, size, 0) for i in range(count)]
    small = [(tag, 4, 1, value) for tag, (value,) in {256: (16,), 257: (16,), 262: (1,)}.items()]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in (*small, *entries))
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", count + len(small)) + directory + bytes(4)
    return head + bytes(size - len(head))


def tiff_in_a_loop() -> bytes:
    data = tiff(rgb_tags(16, 16), bytes(768))
    next_directory = 8 + 2 + 12 * 9
    assert data[next_directory : next_directory + 4] == bytes(4)
    return data[:next_directory] + struct.pack("<I", 8) + data[next_directory + 4 :]


def tiled_tiff(width: int, height: int, compression: int) -> bytes:
    tags = {**rgb_tags(64, 64), 259: (compression,), 322: (width,), 323: (height,), 324: (8,), 325: (0xFFFFFFF0,)}
    return tiff(tags, bytes(64))


# Each with what may become of it; a code of None is a photo, and for None any failure of broken files will do.
HARMFUL = {
    "PNG of 60,000 × 60,000": (lambda: png(60_000, 60_000, 8, 6, bytes(100)), {ErrorCode.TOO_LARGE}),
    "PNG of 14,000 × 14,000, no data": (lambda: png(14_000, 14_000, 8, 0, bytes(100)), {ErrorCode.TRUNCATED}),
    "PNG, colours need more than may be": (lambda: png(14_000, 14_000, 16, 6, bytes(100)), {ErrorCode.TOO_LARGE}),
    "PNG, long zTXt": (
        lambda: png(16, 16, 8, 0, BLACK_ROWS, png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 * 10**8)))),
        {None},
    ),
    "PNG, long iTXt": (
        lambda: png(16, 16, 8, 0, BLACK_ROWS, png_chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(2 * 10**8)))),
        {None},
    ),
    "PNG, long profile": (
        lambda: png(16, 16, 8, 0, BLACK_ROWS, png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2 * 10**8)))),
        {None},
    ),
    "PNG, many texts": (
        lambda: png(16, 16, 8, 0, BLACK_ROWS, *[png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6)))] * 100),
        {None},
    ),
    "TIFF, huge tiles": (lambda: tiled_tiff(0x7FFFFFFF, 0x7FFFFFFF, 1), None),
    "TIFF, huge tiles, LZW": (lambda: tiled_tiff(65520, 32752, 5), None),
    "TIFF, no tiles": (lambda: tiled_tiff(0, 0, 1), None),
    "TIFF, huge strips": (lambda: tiff({**rgb_tags(64, 64), 278: (0x7FFFFFFF,), 279: (0xFFFFFFFF,)}, bytes(64)), None),
    "TIFF, huge strips, LZW": (
        lambda: tiff({**rgb_tags(64, 64), 259: (5,), 278: (0x7FFFFFFF,), 279: (0xFFFFFFFF,)}, bytes(64)),
        None,
    ),
    "TIFF of 65,000 × 3,000, LZW": (lambda: tiff({**rgb_tags(65_000, 3000), 259: (5,)}, bytes(64)), None),
    "TIFF, many samples": (lambda: tiff({**rgb_tags(64, 64), 277: (0x7FFFFFFF,)}, bytes(64)), None),
    "TIFF, many strips": (lambda: tiff({**rgb_tags(64, 64), 273: (8,) * 200_000}, bytes(64)), {None}),
    "TIFF, tags as long as the file": (lambda: tiff_with_many_tags(3000, 2**22), {ErrorCode.TOO_LARGE}),
    "TIFF, a loop of pages": (tiff_in_a_loop, {None}),
    "GIF of 65,535 × 65,535": (lambda: gif_of_size(65535, 65535), {ErrorCode.TOO_LARGE}),
    "GIF of 14,000 × 14,000": (lambda: gif_of_size(14_000, 14_000), {None, ErrorCode.TOO_LARGE}),
    "WebP of 16,777,216 × 255": (lambda: webp_of_canvas(2**24, 255), {ErrorCode.TOO_LARGE}),
    "WebP of 14,000 × 14,000": (lambda: webp_of_canvas(14_000, 14_000), None),
    "AVIF, a lie about its size": (
        lambda: with_number(encoded(Image.new("RGB", (64, 64)), "AVIF"), b"ispe", 8, b"\0\0\x36\xb0" * 2),
        None,
    ),
    "AVIF of 65,535 × 65,535": (
        lambda: with_number(encoded(Image.new("RGB", (64, 64)), "AVIF"), b"ispe", 8, b"\0\0\xff\xff" * 2),
        None,
    ),
    "HEIC, a lie about its size": (
        lambda: with_number(encoded(Image.new("RGB", (64, 64)), "HEIF"), b"ispe", 8, b"\0\0\x36\xb0" * 2),
        None,
    ),
    "HEIC of 65,535 × 65,535": (
        lambda: with_number(encoded(Image.new("RGB", (64, 64)), "HEIF"), b"ispe", 8, b"\0\0\xff\xff" * 2),
        {ErrorCode.TOO_LARGE},
    ),
    "JPEG of 65,500 × 65,500": (lambda: jpeg_of_size(65_500, 65_500, scan=True), {ErrorCode.TOO_LARGE}),
    "JPEG of 65,500 × 3,000, no data": (lambda: jpeg_of_size(65_500, 3000, scan=False), {ErrorCode.TRUNCATED}),
    "JPEG of 65,500 × 3,000, little data": (lambda: jpeg_of_size(65_500, 3000, scan=True), {None}),
    "BMP of 2³¹ × 2³¹": (
        lambda: with_number(encoded(Image.new("RGB", (16, 16)), "BMP"), b"BM", 18, b"\xff\xff\xff\x7f" * 2),
        {ErrorCode.TOO_LARGE},
    ),
    "JPEG 2000 of 2³² × 2³²": (
        lambda: with_number(
            encoded(Image.new("RGB", (16, 16)), "JPEG2000", no_jp2=True), b"\xff\x51", 6, b"\xff\xff\xff\xff" * 2
        ),
        {ErrorCode.TOO_LARGE},
    ),
    "JPEG 2000, tiles of 1 × 1": (
        lambda: with_number(
            with_number(
                encoded(Image.new("RGB", (16, 16)), "JPEG2000", no_jp2=True), b"\xff\x51", 6, b"\0\0\x36\xb0" * 2
            ),
            b"\xff\x51",
            22,
            b"\0\0\0\1" * 2,
        ),
        None,
    ),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_files_that_mean_harm_cost_one_row(pool, name):
    make, expected = HARMFUL[name]
    good = encoded(Image.new("RGB", (16, 16)))
    before, result, after = pool.convert([good, make(), good], SIZE, to_pixels.MAX_PIXELS)
    # It ends no process, and the next photo finds nothing amiss.
    assert not result.failure or result.failure.error not in ENDED
    check(result)
    code = result.failure and result.failure.error
    assert before.failure is None and after.failure is None
    assert code in (expected or {ErrorCode.CORRUPT, ErrorCode.TRUNCATED, ErrorCode.TOO_LARGE}), result.failure
