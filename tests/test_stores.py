import errno
import os
import threading

import pytest

from beamscribe.model.errors import BeamscribeError
from beamscribe.pipelines import stores
from beamscribe.pipelines.stores import renaming, uris


def test_create_writes_once(tmp_path):
    path = str(tmp_path / "new" / "file")
    assert stores.create(path, b"first")
    assert not stores.create(path, b"second")
    assert stores.read(path) == b"first"
    assert os.listdir(tmp_path / "new") == ["file"]


@pytest.fixture
def no_links(monkeypatch):
    """As on exFAT."""

    def link(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)


@pytest.mark.parametrize("links", [True, False])
def test_one_of_many_creators_wins(tmp_path, links, request):
    if not links:
        request.getfixturevalue("no_links")
    path = str(tmp_path / "file")
    results = {}
    threads = [
        threading.Thread(target=lambda i=i: results.update({i: stores.create(path, str(i).encode())}))
        for i in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [i for i, won in results.items() if won]
    assert len(winners) == 1
    assert stores.read(path) == str(winners[0]).encode()
    assert os.listdir(tmp_path) == ["file"]


def test_a_rename_replaces_nothing(tmp_path):
    for name in ("old", "taken"):
        (tmp_path / name).write_text(name)
    with pytest.raises(FileExistsError):
        renaming.rename_to_new(str(tmp_path / "old"), str(tmp_path / "taken"))
    assert (tmp_path / "taken").read_text() == "taken"
    renaming.rename_to_new(str(tmp_path / "old"), str(tmp_path / "new"))
    assert sorted(os.listdir(tmp_path)) == ["new", "taken"]
    with pytest.raises(FileNotFoundError):
        renaming.rename_to_new(str(tmp_path / "old"), str(tmp_path / "other"))


def test_a_folder_is_tried_before_it_is_written_to(tmp_path, no_links, monkeypatch):
    stores.check_exclusive(str(tmp_path / "new" / "out"))
    assert os.listdir(tmp_path) in ([], ["new"])

    def rename(*_):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(renaming, "rename_to_new", rename)
    with pytest.raises(
        BeamscribeError, match="can't hold captions: its filesystem supports neither hard links nor renames"
    ):
        stores.check_exclusive(str(tmp_path))
    with pytest.raises(
        BeamscribeError, match="hdfs://x can't hold captions: its store lets the last writer of a file win"
    ):
        stores.check_exclusive("hdfs://x")
    with pytest.raises(NotADirectoryError):
        (tmp_path / "file").write_text("")
        stores.check_exclusive(str(tmp_path / "file" / "out"))


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (stores.create, stores.replace):
        with pytest.raises(OSError, match="No space left"):
            write(str(tmp_path / "file"), b"data")
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("links", [True, False])
def test_a_temporary_file_that_somebody_deletes(tmp_path, links, monkeypatch, request):
    if not links:
        request.getfixturevalue("no_links")
    path = tmp_path / "file"
    monkeypatch.setattr(os, "fsync", lambda _: [left.unlink() for left in tmp_path.glob(".file.*")])
    for write in (stores.create, stores.replace):
        with pytest.raises(FileNotFoundError):
            write(str(path), b"data")
    path.write_bytes(b"first")
    assert not stores.create(str(path), b"second")
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["file"]


def test_replace_overwrites(tmp_path):
    path = str(tmp_path / "file")
    stores.replace(path, b"first")
    stores.replace(path, b"second")
    assert stores.read(path) == b"second"


def test_a_folder_with_wildcards_in_its_name_is_taken_literally(tmp_path):
    folder = str(tmp_path / "a[1]*")
    stores.create(stores.join(folder, "run=x", "shard-1"), b"")
    stores.create(str(tmp_path / "a1" / "run=x" / "shard-2"), b"")
    assert [os.path.basename(path) for path in stores.within(folder, "run=*", "shard-*")] == ["shard-1"]


def test_names_that_are_not_utf8_survive(tmp_path):
    path = os.path.join(str(tmp_path), os.fsdecode(b"caf\xe9 100%.jpg"))
    with open(path, "wb") as file:
        file.write(b"x")
    uri = uris.local_uri(path)
    uri.encode()
    assert stores.is_local(uri)
    assert stores.read(uri) == b"x"


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [
        ("/a/b", "file"),
        ("a://b/c", "a"),
        ("file:///a", "file"),
        ("gs://b/o", "gs"),
        ("x y://z", "file"),
        ("", "file"),
        ("GS://b/o", "GS"),
    ],
)
def test_a_scheme_is_told_by_the_name(uri, scheme):
    assert uris.scheme_of(uri) == scheme
