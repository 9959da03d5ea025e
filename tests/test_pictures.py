"""Pictures: their form in messages, those that are known and so not decoded, and hashes of what they look like."""

import datetime
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from beamscribe.pipelines.failures import ErrorCode, Failure, Fault, Stage
from beamscribe.pipelines.images import pictures, to_pixels
from beamscribe.pipelines.images.perceptual import perceptual_hash
from beamscribe.pipelines.images.pictures import Expected, Picture
from beamscribe.pipelines.images.process_pool import ImagePool
from tests.test_process_pool import misbehave
from tests.test_to_pixels import encoded, quadrants

SAMPLES = sorted(path for path in (Path(__file__).parents[1] / "samples").rglob("*.*g") if path.stem != "broken")

SIZE = 4
PIXELS = np.arange(SIZE * SIZE * 3, dtype=np.uint8).reshape(SIZE, SIZE, 3)
DIGEST, OTHER = "0f" * 32, "1e" * 32
FULL = Picture(
    DIGEST,
    60,
    40,
    PIXELS,
    decode_ms=1.5,
    image_sha256=OTHER,
    orientation=6,
    taken_at=datetime.datetime(2003, 5, 4, 3, 2, 1, 250_000),
    description="A dog, März 👩‍👩‍👧",
    perceptual_hash=-(2**63),
)
FAILED = Picture(None, failure=Failure(Stage.DECODE, ErrorCode.CORRUPT, "why"), fault=Fault("a", "b", "c"))
KNOWN = Picture(DIGEST, image_sha256=OTHER, orientation=1, is_known=True)


def sent(*found: Picture, expected: list[Expected] | None = None) -> list[Picture]:
    """Pictures as they arrive."""
    document, parts = pictures.packed(found)
    return pictures.unpacked(json.loads(json.dumps(document)), parts, SIZE, expected or [Expected()] * len(found))


def test_a_picture_arrives_as_it_was_sent():
    full, failed, known = sent(FULL, FAILED, KNOWN, expected=[Expected(), Expected(), Expected((DIGEST,))])
    assert full._replace(pixels=None) == FULL._replace(pixels=None) and np.array_equal(full.pixels, PIXELS)
    assert (failed, known) == (FAILED, KNOWN)


FIELDS = {
    "sha256": ["", "0" * 63, "0" * 65, "G" * 64, "0" * 64 + "\n", "A" * 64, 7, [], {}, True],
    "image_sha256": ["x", 0, "0" * 63],
    "width": [0, -1, 2**31, 1.5, "60", True, [1]],
    "height": [0, 2**31, "40", False],
    "decode_ms": [-1, float("nan"), float("inf"), "1", True],
    "orientation": [0, 9, -1, "6", 6.0, True],
    "taken_at": ["", "2003", "2003-05-04 03:02:01", "2003-05-04T03:02:01Z", "20030504T030201", "2003-05-04", 7, [2003]],
    "description": ["", 7, ["a"], "a" * 10_001, "\ud800", "a\x1b[0m", "two\nlines", "a\x9b"],
    "perceptual_hash": [2**63, -(2**63) - 1, 1.0, "1", True],
    "is_known": [True],
    "failure": [
        ["decode", "corrupt"],
        ["decode", "corrupt", "a", "b"],
        ["nowhere", "corrupt", "a"],
        ["decode", "no", "a"],
        7,
    ],
    "fault": [["a"], "ab", 7],
}
PLACES = ("sha256", "width", "height", "failure", "fault", "decode_ms", "image_sha256")
PLACES = (*PLACES, "orientation", "taken_at", "description", "perceptual_hash", "is_known")


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in FIELDS.items() for value in values])
def test_an_image_process_can_send_nothing_else(name, value):
    [fields], parts = pictures.packed([FULL])
    fields[PLACES.index(name)] = value
    with pytest.raises((ValueError, TypeError, AttributeError)):
        pictures.unpacked(json.loads(json.dumps([fields])), parts, SIZE, [Expected()])


def test_a_picture_has_pixels_or_a_failure_or_is_known():
    for wrong in (
        Picture(DIGEST),
        FULL._replace(failure=FAILED.failure),
        FULL._replace(is_known=True),
        FAILED._replace(is_known=True),
    ):
        with pytest.raises(ValueError, match="either pixels or a failure"):
            sent(wrong, expected=[Expected((DIGEST,))])


def test_a_picture_is_known_only_if_it_was_expected():
    for expected in (Expected(), Expected((OTHER,)), Expected((), ((OTHER, 2),)), Expected((), ((DIGEST, 1),))):
        with pytest.raises(ValueError, match="not expected"):
            sent(KNOWN, expected=[expected])
    for expected in (Expected((OTHER, DIGEST)), Expected((), ((OTHER, 1),)), Expected((), ((OTHER, None),))):
        assert sent(KNOWN, expected=[expected]) == [KNOWN]


def test_as_many_pictures_as_photos():
    document, parts = pictures.packed([FULL, FULL])
    for arguments in ((document, parts[:1]), (document[:1], parts), (document[:1], parts[:1]), ([], [])):
        with pytest.raises(ValueError, match=r"shorter|longer"):
            pictures.unpacked(*arguments, SIZE, [Expected()] * 2)


# --- known photos -----------------------------------------------------------------------------------------------------


def oriented(orientation: int, comment: bytes = b"") -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = orientation, "A dog"
    return encoded(quadrants(), exif=exif, comment=comment)


@pytest.fixture
def undecoded(monkeypatch):
    def square(*_):
        raise AssertionError("it was decoded")

    monkeypatch.setattr(to_pixels, "_square", square)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_photo_that_was_expected_is_not_decoded(undecoded, orientation):
    data, commented = oriented(orientation), oriented(orientation, b"said")
    assert data != commented
    # What it is when nothing is expected; decoding it fails here.
    photo, other = to_pixels.convert(data, 16), to_pixels.convert(commented, 16)
    assert photo.failure.message.endswith("it was decoded") and photo.image_sha256 == other.image_sha256
    for expected in (
        Expected((other.sha256,)),
        Expected(("0" * 64, other.sha256)),
        Expected((photo.sha256,), ((photo.image_sha256, orientation),)),
        Expected((), (("0" * 64, None), (photo.image_sha256, orientation))),
        Expected((), ((photo.image_sha256, None),)),
    ):
        known = to_pixels.convert(commented, 16, expected=expected)
        assert known.is_known and known.failure is None and known.pixels is None
        assert (known.sha256, known.image_sha256, known.orientation) == (other.sha256, photo.image_sha256, orientation)
        assert (known.description, known.width, known.height, known.perceptual_hash) == ("A dog", None, None, None)
    for expected in (
        Expected(),
        Expected((photo.sha256,)),
        Expected((), ((photo.image_sha256, 3),)),
        Expected((photo.image_sha256,), ((other.sha256, None),)),
    ):
        assert not to_pixels.convert(commented, 16, expected=expected).is_known


def test_what_is_known_is_known_whatever_is_wrong_with_it():
    for data, most in ((b"no photo", 10**6), (oriented(1)[:400], 10**6), (oriented(1), 100)):
        photo = to_pixels.convert(data, 16, most)
        assert photo.failure
        for expected in (Expected((photo.sha256,)), Expected((), ((photo.image_sha256, None),))):
            known = to_pixels.convert(data, 16, most, expected)
            assert known.is_known and known.failure is None and known.sha256 == photo.sha256


def test_each_photo_keeps_what_is_expected_of_it_when_another_one_crashes(monkeypatch, tmp_path):
    misbehave(monkeypatch, tmp_path)
    first, second = oriented(1), encoded(ImageOps.invert(quadrants()))
    own = [Expected((to_pixels.convert(data, 16).sha256,)) for data in (first, second)]
    pool = ImagePool(workers=1)
    try:
        for photos, expected in (
            ([first, second, first], [own[0], Expected(), own[1]]),
            ([first, second, first, b"abort"], [own[0], Expected(), own[1], Expected()]),
            ([b"abort", second, second, second], [own[0], own[1], own[0], own[1]]),
        ):
            found = pool.convert(photos, 16, 10**6, expected)
            pairs = zip(photos, expected, strict=True)
            assert [picture.is_known for picture in found] == [
                one in own and photo == (first, second)[own.index(one)] for photo, one in pairs
            ]
            assert [picture.pixels is not None for picture in found] == [
                not picture.is_known and photo != b"abort" for photo, picture in zip(photos, found, strict=True)
            ]
        with pytest.raises(ValueError, match="1 expectations for 2 photos"):
            pool.convert([first, second], 16, 10**6, own[:1])
    finally:
        pool.close()


# --- what they look like ----------------------------------------------------------------------------------------------


def samples() -> dict[str, Image.Image]:
    """The sample photos, and crops of them, which are photos, too."""
    found = {}
    for path in SAMPLES:
        with Image.open(path) as image:
            photo = ImageOps.exif_transpose(image).convert("RGB")
        width, height = photo.size
        found[path.name] = photo
        found[f"left of {path.name}"] = photo.crop((0, 0, width // 2, height))
        found[f"right of {path.name}"] = photo.crop((width // 2, 0, width, height))
    return found


def distance(a: int, b: int) -> int:
    return ((a ^ b) & (2**64 - 1)).bit_count()


def hash_of(image: Image.Image, quality: int = 95) -> int:
    picture = to_pixels.convert(encoded(image, quality=quality), 260)
    assert picture.perceptual_hash == perceptual_hash(picture.pixels)
    return picture.perceptual_hash


def test_copies_of_a_photo_look_alike():
    for name, photo in samples().items():
        original = hash_of(photo)
        copies = {
            "quality": hash_of(photo, 60),
            "half": hash_of(photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.LANCZOS)),
            "brighter": hash_of(ImageEnhance.Brightness(photo).enhance(1.1)),
            "darker": hash_of(ImageEnhance.Brightness(photo).enhance(0.9)),
            "contrast": hash_of(ImageEnhance.Contrast(photo).enhance(1.1)),
        }
        assert all(distance(original, copy) <= 8 for copy in copies.values()), (name, copies)


def test_other_photos_do_not():
    hashes = [hash_of(photo) for photo in samples().values()]
    distances = [distance(a, b) for index, a in enumerate(hashes) for b in hashes[:index]]
    assert len(distances) > 500
    assert sum(found > 16 for found in distances) > 0.99 * len(distances)


def test_a_hash_fits_a_column_of_64_bits():
    noise = np.random.default_rng(2)
    hashes = [perceptual_hash(noise.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(200)]
    assert all(-(2**63) <= found < 2**63 for found in hashes)
    assert min(hashes) < 0 < max(hashes) and len(set(hashes)) == 200
    # Half of the coefficients lie above the median.
    assert {(found & (2**64 - 1)).bit_count() for found in hashes} == {32}


@pytest.mark.parametrize("size", [1, 8, 16, 31, 299])
def test_a_hash_is_of_any_size_and_of_any_picture(size):
    for value in (0, 128, 255):
        assert isinstance(perceptual_hash(np.full((size, size, 3), value, np.uint8)), int)


def test_an_image_of_pillow_has_a_hash_and_an_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(SAMPLES[0]) as photo:
        data = encoded(photo, quality=95, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        picture = to_pixels.convert_image(image, 260)
    expected = to_pixels.convert(data, 260)
    assert picture.perceptual_hash == perceptual_hash(picture.pixels) and picture.orientation == 6
    # Of a file, the codec itself scales large photos down.
    assert distance(picture.perceptual_hash, expected.perceptual_hash) <= 4
    assert (picture.image_sha256, picture.taken_at, picture.description, picture.is_known) == (None, None, None, False)
    assert to_pixels.convert_image(quadrants(), 16).orientation == 1
