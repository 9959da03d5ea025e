import os
import threading

import pytest

from beamscribe.pipelines import stores


def test_create_writes_once(tmp_path):
    path = str(tmp_path / "new" / "file")
    assert stores.create(path, b"first")
    assert not stores.create(path, b"second")
    assert stores.read(path) == b"first"
    assert os.listdir(tmp_path / "new") == ["file"]


def test_one_of_many_creators_wins(tmp_path):
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


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stores.os, "fsync", full)
    for write in (stores.create, stores.replace):
        with pytest.raises(OSError, match="No space left"):
            write(str(tmp_path / "file"), b"data")
        assert os.listdir(tmp_path) == []


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
    uri = stores.local_uri(path)
    uri.encode()
    assert stores.is_local(uri)
    assert stores.read(uri) == b"x"
