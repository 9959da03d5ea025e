import contextlib
import glob
import os
import tempfile
import zipfile
from pathlib import Path

import apache_beam as beam
import pytest

from beamscribe.pipelines import stores
from beamscribe.pipelines.listing import ListPhotos, list_photos
from beamscribe.pipelines.sources import files, reading
from beamscribe.pipelines.sources.base import ListOptions
from tests.conftest import run_eagerly
from tests.containers import contents, jpeg, listed, make_zip


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


@pytest.fixture
def guarded(make_photo):
    """A folder with a file and a folder that may not be opened, by whoever runs the test then."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for photo in ("open/1.jpg", "private/2.jpg"):
            make_photo(folder / photo)
        make_photo(folder / "open" / "3.jpg").rename(folder / "open" / "blob")
        (folder / "open" / "blob").chmod(0)
        (folder / "private").chmod(0)
        folder.chmod(0o755)
        user = os.geteuid()
        if user == 0:
            # Root may open everything.
            try:
                os.seteuid(65534)
            except OSError:
                pytest.skip("there is no other user")
        yield folder
        os.seteuid(user)
        (folder / "private").chmod(0o755)


@pytest.mark.parametrize("source", ["", "/**", "/*/*", "/**/*"])
def test_what_may_not_be_opened_is_listed(guarded, source):
    # Reading says why.
    assert sorted(names(list_photos([f"{guarded}{source}"]), guarded)) == ["open/1.jpg", "open/blob", "private"]


def test_a_glob_below_what_may_not_be_opened(guarded):
    assert names(list_photos([f"{guarded}/*/2.jpg"]), guarded) == ["private"]
    assert names(list_photos([f"{guarded}/p*/**/*.jpg"]), guarded) == ["private"]
    # Whatever is in there, nobody wants it.
    assert names(list_photos([f"{guarded}/**"], ListOptions(exclude=("private",))), guarded) == [
        "open/1.jpg",
        "open/blob",
    ]


def test_what_has_no_bytes_is_passed_over(archive):
    os.mkfifo(archive / "pipe")
    (archive / "link").symlink_to("nothing")
    assert {"pipe", "link"}.isdisjoint(names(list_photos([str(archive)]), archive))


@pytest.mark.parametrize(
    "pattern",
    [
        *("*", "*.jpg", "sub/*", "*/*", "*/*/*.heic", "su[a-c]/*.png"),
        *("folder.jpg/?.webp", "none/*", "*/none", "[s]ub", "*/d*/*"),
    ],
)
def test_globs_match_what_python_s_match(archive, monkeypatch, pattern):
    (archive / "a[1].jpg").write_bytes(b"")
    (archive / "self").symlink_to("self")
    for place in (f"{archive}/", ""):
        monkeypatch.chdir(archive)
        expected = [path for path in glob.glob(place + pattern, include_hidden=True) if not os.path.isdir(path)]
        assert sorted(stores.matching(place + pattern)) == sorted(expected)
    assert list(stores.within(str(archive), "a[[]1].jpg")) == [f"{archive}/a[1].jpg"]


def test_archives_that_are_hidden_or_excluded_stay_out_of_a_glob(archive):
    for name in ("1.zip", ".trash/2.zip", "old/3.zip"):
        (archive / name).parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(archive / name, "w") as file:
            file.writestr("inside.jpg", b"photo")
    found = names(list_photos([f"{archive}/**/*.zip"], ListOptions(exclude=("old",))), archive)
    assert found == ["1.zip#inside.jpg"]


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


def test_a_file_that_is_called_like_a_photo_in_an_archive_has_a_name_of_its_own(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    inner = make_zip(folder / "x.zip")
    names = {ref.photo for ref in listed(inner)[0]}
    member = sorted(name.rpartition("#")[2] for name in names)[0]
    (folder / f"x.zip#{member}").parent.mkdir(parents=True, exist_ok=True)
    (folder / f"x.zip#{member}").write_bytes(jpeg(7))
    # An archive whose photos could have the names of photos in the other.
    make_zip(folder / "x.zip#y.zip")
    # Names with the sign alone stay as they are.
    (folder / "IMG #1.jpg").write_bytes(jpeg(8))
    refs = [ref for uri in (folder, inner, folder / "x.zip#y.zip") for ref in listed(uri)[0]]
    assert len({ref.photo for ref in refs}) == len(refs)
    assert names < {ref.photo for ref in refs} and str(folder / "IMG #1.jpg") in {ref.photo for ref in refs}
    (loose,) = (ref for ref in refs if ref.photo.endswith(f"x.zip%23{member}") and not ref.container)
    assert reading.read_photo(loose) == jpeg(7)
    assert all(isinstance(content, bytes) for content in contents([ref for ref in refs if ref.container]).values())
    # A glob lists them by the same names.
    assert {ref.photo for ref in refs} == {ref.photo for ref in listed(folder / "*")[0]}
