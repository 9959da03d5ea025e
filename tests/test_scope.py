"""Which photos a listing covers: those that would be listed if they were there."""

import os

import numpy as np
import pytest

from beamscribe.pipelines import clues, gone
from beamscribe.pipelines.clues import Wanted
from beamscribe.pipelines.listing import list_photos
from beamscribe.pipelines.photos import PhotoRef, caption_table
from beamscribe.pipelines.sources import scope
from beamscribe.pipelines.sources.base import ListOptions
from beamscribe.pipelines.sources.scope import Scope
from tests.test_compact import row

NOTHING = Wanted.of([], [])


@pytest.mark.parametrize(
    ("photo", "is_covered"),
    [
        ("gs://b/photos/a.jpg", True),
        ("gs://b/photos/deep/er/a.jpg", True),
        ("gs://b/photos/x.tar#a.jpg", True),
        ("gs://b/photos2/a.jpg", False),
        ("gs://b/other.jpg", False),
        ("gs://b/a.zip#in/it.jpg", True),
        ("gs://b/photos/.hidden/a.jpg", False),
        ("gs://b/photos/raw/a.jpg", False),
        ("gs://b/photos/a.png", False),
        ("gs://b/photos/closed/a.jpg", False),
        ("gs://b/photos/broken.zip#a.jpg", False),
    ],
)
def test_what_a_listing_covers(photo, is_covered):
    options = ListOptions(include=("*.jpg",), exclude=("raw",))
    inputs = ("gs://b/photos/", "gs://b/a.zip")
    assert Scope(inputs, ["gs://b/photos/closed", "gs://b/photos/broken.zip"], options).covers(photo) == is_covered


def test_a_folder_that_is_empty_now_may_be_a_disk_that_is_missing(tmp_path):
    for name in ("full/deep", "empty"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "full/there.jpg").touch()
    covers = Scope([str(tmp_path)], [], ListOptions()).covers
    assert covers(f"{tmp_path}/full/a.jpg") and covers(f"{tmp_path}/renamed/a.jpg")
    assert not covers(f"{tmp_path}/empty/a.jpg") and not covers(f"{tmp_path}/empty/deep/er/a.jpg")
    assert not covers(f"{tmp_path}/full/deep/a.jpg")


def test_names_that_are_no_utf_8_are_covered(tmp_path):
    (tmp_path / "there.jpg").touch()
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    for name in (b"/1.jpg", b"/2.jpg"):
        with open(folder + name, "wb") as file:
            file.write(b"\xff\xd8\xff")
    one, other = sorted(ref.photo for ref in list_photos([str(tmp_path)]) if "caf" in ref.photo)
    assert one.startswith("file://")
    os.unlink(folder + b"/1.jpg")
    assert Scope([str(tmp_path)], [], ListOptions()).covers(one)
    assert Scope([os.fsdecode(folder)], [], ListOptions()).covers(other)


def test_what_could_not_be_listed_is_known(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    refs = list(list_photos([str(tmp_path / "broken.zip")]))
    assert scope.unseen(refs) == (str(tmp_path / "broken.zip"),)
    unopened = PhotoRef(str(tmp_path / "folder"), "")
    broken_link = PhotoRef(str(tmp_path / "nothing.jpg"), "")
    assert scope.unseen([unopened, broken_link, PhotoRef("gs://b/a.jpg", "17")]) == (unopened.photo,)


def test_tombstones_keep_the_last_caption():
    table = caption_table(
        [
            row("/p/a.jpg", "old"),
            row("/p/a.jpg", "a dog", hours=1),
            row("/p/a.jpg", error="unreadable", hours=2),
            row("/p/b.jpg", error="truncated"),
            row("/q/c.jpg"),
        ]
    )
    rows, moved = gone.tombstones(table, Scope(["/p"], [], ListOptions()), NOTHING)
    kept = [(one["photo"], one["status"], one["caption"], one["error"]) for one in rows.to_pylist()]
    assert kept == [("/p/a.jpg", "gone", "a dog", None), ("/p/b.jpg", "gone", None, "truncated")]
    assert moved == 0


def test_photos_that_are_elsewhere_now_have_moved():
    table = caption_table([row(f"/p/{number}.jpg", etag=f"{100 + number}-1") for number in range(3)])
    new = [PhotoRef("/p/new/1.jpg", "", 101), PhotoRef("/p/new/2.jpg", "", 999)]
    wanted = Wanted.of([(("", 0), clues.wanted_by(new))], [np.empty(0, "S16")])
    rows, moved = gone.tombstones(table, Scope(["/p"], [], ListOptions()), wanted)
    assert (len(rows), moved) == (3, 1)


def test_more_than_a_tenth_is_many():
    assert not gone.are_many(0, 0) and not gone.are_many(10, 100)
    assert gone.are_many(11, 100) and gone.are_many(1, 9)
