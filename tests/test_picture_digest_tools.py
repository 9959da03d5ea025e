"""Edits by programs that people use, exiftool and exiv2, leave a picture's digest as it is: the real ones, run here."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from beamscribe.pipelines.images import to_pixels
from tests.test_to_pixels import encoded

MISSING = [name for name in ("exiftool", "exiv2") if not shutil.which(name)]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"missing: {', '.join(MISSING)}; apt-get install libimage-exiftool-perl exiv2"
)


def picture(mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(3).integers(0, 256, (12, 16, 3), np.uint8)
    return Image.fromarray(noise).resize((240, 180), Image.Resampling.BICUBIC).convert(mode)


def two() -> dict[str, object]:
    return {"save_all": True, "append_images": [picture().rotate(180)], "duration": 100}


KINDS = {
    "baseline.jpg": lambda: encoded(picture(), "JPEG"),
    "progressive.jpg": lambda: encoded(picture(), "JPEG", progressive=True),
    "restarts.jpg": lambda: encoded(picture(), "JPEG", restart_marker_rows=1),
    "cmyk.jpg": lambda: encoded(picture("CMYK"), "JPEG"),
    "two.jpg": lambda: encoded(picture(), "MPO", save_all=True, append_images=[picture().rotate(180)]),
    "plain.png": lambda: encoded(picture(), "PNG"),
    "palette.png": lambda: encoded(picture().quantize(16), "PNG", transparency=3),
    "animated.png": lambda: encoded(picture(), "PNG", **two()),
    "lossy.webp": lambda: encoded(picture(), "WEBP"),
    "lossless.webp": lambda: encoded(picture(), "WEBP", lossless=True),
    "alpha.webp": lambda: encoded(picture("RGBA"), "WEBP"),
    "animated.webp": lambda: encoded(picture(), "WEBP", **two()),
}
# What each program edits, and its words.
EXIFTOOL = {
    "rating": ["-Rating=5"],
    "XMP": ["-XMP-dc:Subject=dog", "-XMP-dc:Description=a dog on a beach"],
    "EXIF": ["-EXIF:DateTimeOriginal=2003:05:04 03:02:01", "-EXIF:SubSecTimeOriginal=25", "-EXIF:Artist=Ö"],
    "GPS": ["-GPSLatitude=48.1", "-GPSLatitudeRef=N", "-GPSLongitude=11.5", "-GPSLongitudeRef=E"],
    "comment": ["-Comment=said"],
    "orientation": ["-n", "-EXIF:Orientation=6"],
    "IPTC": ["-IPTC:Caption-Abstract=a dog", "-IPTC:Keywords=dog"],
    "thumbnail": ["-ThumbnailImage<=thumbnail.jpg"],
    "what is behind the picture": ["-trailer:all="],
    "removal of all": ["-all="],
}
EXIV2 = {
    "rating": ["-Mset Xmp.xmp.Rating 5"],
    "XMP": ["-Mset Xmp.dc.description lang=x-default a dog on a beach"],
    "EXIF": ["-Mset Exif.Photo.DateTimeOriginal 2003:05:04 03:02:01", "-Mset Exif.Photo.SubSecTimeOriginal 25"],
    "GPS": ["-Mset Exif.GPSInfo.GPSLatitude 48/1 6/1 0/1"],
    "orientation": ["-Mset Exif.Image.Orientation 6"],
    "IPTC": ["-Mset Iptc.Application2.Caption a dog"],
    "comment": ["-c", "said"],
    "thumbnail": ["-it"],
    "removal of all": ["rm"],
}
COMMANDS = {
    "exiftool": (["exiftool", "-q", "-overwrite_original"], EXIFTOOL),
    "exiv2": (["exiv2"], EXIV2),
}


def has_place(program: str, what: str, name: str) -> bool:
    """Whether a program writes such metadata to such a file."""
    if what == "what is behind the picture":
        return name == "two.jpg"
    if what == "comment":
        return name.endswith(".jpg") or (name.endswith(".png") and program == "exiftool")
    return name.endswith(".jpg") or what not in ("IPTC", "thumbnail")


@pytest.mark.parametrize("program", COMMANDS)
@pytest.mark.parametrize("name", KINDS)
def test_no_edit_of_metadata_changes_the_digest(name, program, tmp_path):
    path = tmp_path / name
    path.write_bytes(KINDS[name]())
    for thumbnail in ("thumbnail.jpg", f"{path.stem}-thumb.jpg"):
        (tmp_path / thumbnail).write_bytes(encoded(picture().resize((32, 24)), "JPEG"))
    original = to_pixels.convert(path.read_bytes(), 32)
    command, edits = COMMANDS[program]
    described = None
    for what, words in edits.items():
        if not has_place(program, what, name):
            continue
        before = path.read_bytes()
        done = subprocess.run([*command, *words, name], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert path.read_bytes() != before, (what, done)
        edited = to_pixels.convert(path.read_bytes(), 32)
        assert edited.image_sha256 == original.image_sha256 and edited.failure is None, what
        if edited.orientation == 1:
            assert np.array_equal(edited.pixels, original.pixels), what
        if what != "removal of all":
            described = edited
    # What the program has written is read.
    assert (described.orientation, described.description) == (6, "a dog on a beach")
    assert str(described.taken_at) == "2003-05-04 03:02:01.250000"
    assert (edited.orientation, edited.description, edited.taken_at) == (1, None, None)
