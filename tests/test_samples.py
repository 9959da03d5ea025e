"""Checks that the sample photos and their table agree."""

import pathlib
import re

import pytest
from PIL import Image

SAMPLES = pathlib.Path(__file__).resolve().parent.parent / "samples"
ORIENTATION = 0x0112
MAX_TOTAL_BYTES = 4_000_000


def sample_names():
    """Returns the paths of all sample files, relative to the samples folder."""
    files = (path for path in SAMPLES.rglob("*") if path.is_file())
    return sorted(path.relative_to(SAMPLES).as_posix() for path in files if path.name != "README.md")


def table_rows():
    """Returns the cells of each row of the README's table that names a file."""
    lines = (SAMPLES / "README.md").read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]


def table_sizes():
    """Returns the (width, height) that the README's table gives for each file."""
    sizes = {}
    for row in table_rows():
        width, height = re.fullmatch(r"(\d+) x (\d+)", row[2]).groups()
        sizes[row[0].strip("`")] = (int(width), int(height))
    return sizes


def stored_size(name):
    """Returns a sample's size as its header tells it, without applying the EXIF orientation."""
    with Image.open(SAMPLES / name) as image:
        return image.size


def orientation(name):
    """Returns a sample's EXIF orientation, 1 where it has none."""
    with Image.open(SAMPLES / name) as image:
        return image.getexif().get(ORIENTATION, 1)


def decodes(name):
    """Tells whether Pillow can decode all of a sample."""
    try:
        with Image.open(SAMPLES / name) as image:
            image.load()
    except OSError:
        return False
    return True


def test_table_lists_every_sample_once():
    """The table names each file exactly once and no others."""
    assert sorted(row[0].strip("`") for row in table_rows()) == sample_names()


@pytest.mark.parametrize("name", sample_names())
def test_table_gives_right_size(name):
    """The table gives the size that the file has."""
    assert table_sizes()[name] == stored_size(name)


def test_table_cells_are_filled():
    """Each row has a description, a size, a source, an author and a licence."""
    for row in table_rows():
        assert len(row) == 6, row
        assert all(row), row


def test_one_sample_is_rotated():
    """Exactly one sample needs its EXIF orientation applied to be upright."""
    assert [name for name in sample_names() if orientation(name) != 1] == ["windmill.jpg"]


def test_one_sample_is_broken():
    """Exactly one sample cannot be decoded."""
    assert [name for name in sample_names() if not decodes(name)] == ["broken.jpg"]


def test_sub_folder():
    """At least one sample lies in a sub-folder."""
    assert any("/" in name for name in sample_names())


def test_sizes_vary():
    """The samples include a large photo and a small one."""
    longest = [max(stored_size(name)) for name in sample_names()]
    assert max(longest) >= 2000
    assert min(longest) <= 400


def test_total_size():
    """The samples together stay small."""
    assert sum((SAMPLES / name).stat().st_size for name in sample_names()) < MAX_TOTAL_BYTES
