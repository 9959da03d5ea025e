import contextlib
import os

import apache_beam as beam
import pytest

from pipelines.listing import ListPhotos, list_photos
from pipelines.sources import files
from tests.conftest import run_eagerly


@pytest.fixture
def archive(tmp_path):
    for name in ("b.jpg", "a.JPEG", "notes.txt", "sub/c.png", "sub/deep/d.heic", "folder.jpg/e.webp"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def names(refs, folder):
    return [os.path.relpath(ref.photo, folder) for ref in refs]


def test_a_folder_is_listed_to_its_bottom_in_order(archive):
    expected = ["a.JPEG", "b.jpg", "folder.jpg/e.webp", "sub/c.png", "sub/deep/d.heic"]
    assert names(list_photos([str(archive)]), archive) == expected


def test_a_glob_and_a_single_photo(archive):
    assert names(list_photos([f"{archive}/*.jpg"]), archive) == ["b.jpg"]
    assert names(list_photos([f"{archive}/**/*.png"]), archive) == ["sub/c.png"]
    assert names(list_photos([f"{archive}/sub/c.png"]), archive) == ["sub/c.png"]


def test_the_etag_follows_the_bytes(archive):
    photo = archive / "b.jpg"
    (before,) = list_photos([str(photo)])
    photo.write_bytes(b"other")
    os.utime(photo, ns=(0, 12345))
    (after,) = list_photos([str(photo)])
    assert before.etag != after.etag
    assert [after] == list(list_photos([str(photo)]))
    assert after.size == 5


def test_links(archive):
    (archive / "nothing.jpg").symlink_to(archive / "gone.jpg")
    (archive / "link.jpg").symlink_to(archive / "b.jpg")
    (archive / "sub" / "loop").symlink_to(archive)
    listed = names(list_photos([str(archive)]), archive)
    assert listed.count("nothing.jpg") == listed.count("link.jpg") == 1
    assert len(listed) == 7


@pytest.mark.parametrize("source", [".", "**"])
def test_a_folder_that_links_lead_to_keeps_its_own_path(archive, source):
    before = names(list_photos([f"{archive}/{source}"]), archive)
    (archive / "a-link").symlink_to("sub", target_is_directory=True)
    (archive / "folder.jpg" / "up").symlink_to("../sub/deep", target_is_directory=True)
    assert sorted(names(list_photos([f"{archive}/{source}"]), archive)) == sorted(before)


def test_what_only_a_link_leads_to_is_listed_by_it(archive, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("f.jpg", "deep/g.jpg"):
        (elsewhere / name).parent.mkdir(exist_ok=True)
        (elsewhere / name).write_bytes(b"photo")
    (elsewhere / "deep" / "back").symlink_to(archive, target_is_directory=True)
    (archive / "a-link").symlink_to(elsewhere, target_is_directory=True)
    for source in (".", "**"):
        found = names(list_photos([f"{archive}/{source}"]), archive)
        assert len(found) == 7 and {"a-link/f.jpg", "a-link/deep/g.jpg", "sub/c.png"} < set(found)


def test_a_link_to_itself_hides_no_other_photo(archive):
    (archive / "self.jpg").symlink_to(archive / "self.jpg")
    listed = names(list_photos([str(archive)]), archive)
    assert len(listed) == 6 and "self.jpg" in listed


def test_a_photo_that_goes_away_while_it_is_listed_is_still_listed(archive, monkeypatch):
    monkeypatch.setattr(files.os, "scandir", scandir_then_delete(archive / "b.jpg"))
    assert "b.jpg" in names(list_photos([str(archive)]), archive)


def scandir_then_delete(photo):
    """`os.scandir` that deletes a photo once its folder has been read."""
    real = os.scandir

    @contextlib.contextmanager
    def scandir(folder):
        with real(folder) as entries:
            yield list(entries)
        photo.unlink(missing_ok=True)

    return scandir


def test_a_name_that_is_not_utf8_is_listed(archive):
    with open(os.path.join(str(archive), os.fsdecode(b"caf\xe9.jpg")), "wb"):
        pass
    uris = [ref.photo for ref in list_photos([str(archive)])]
    assert any(uri.startswith("file://") and "caf%E9.jpg" in uri for uri in uris)


def transformed(archive, **settings):
    def transform(pipeline):
        return pipeline | beam.Create([(str(archive), f"{archive}/sub/*.png")]) | ListPhotos(**settings)

    return run_eagerly(archive / "listed.pickle", transform)


def test_the_transform_lists_all_inputs(archive):
    parts = transformed(archive)
    assert sorted(names([ref for part in parts for ref in part.photos], archive)) == sorted(
        ["a.JPEG", "b.jpg", "folder.jpg/e.webp", "sub/c.png", "sub/c.png", "sub/deep/d.heic"]
    )
    assert [part.ignored for part in parts if part.ignored] == [{".txt": 1}]


def test_the_transform_stops_at_its_limit(archive):
    (part,) = transformed(archive, limit=2)
    assert names(part.photos, archive) == ["a.JPEG", "b.jpg"]
