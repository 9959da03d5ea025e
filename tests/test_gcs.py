"""Objects at gs:// against a real HTTP server that speaks the API of Google Cloud Storage."""

import socket

import pytest
from apache_beam.internal.gcp import auth

from jobs import cli
from pipelines import listing, rows, storage


@pytest.fixture
def bucket(monkeypatch):
    """URI of an empty bucket."""
    from gcp_storage_emulator.server import create_server

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = create_server("localhost", port, in_memory=True, default_bucket="archive")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://localhost:{port}")
    # Beam would look for an account for more than a minute; the emulator knows none.
    monkeypatch.setattr(auth._Credentials, "_credentials_init", True)
    storage._storage_client.cache_clear()
    yield "gs://archive"
    storage._storage_client.cache_clear()
    server.stop()


def test_files_are_written_read_and_found(bucket):
    assert storage.create(f"{bucket}/a/run=1/x.bin", b"data")
    storage.replace(f"{bucket}/a/run=2/x.bin", b"more")
    assert storage.read(f"{bucket}/a/run=1/x.bin") == b"data"
    assert sorted(storage.within(f"{bucket}/a", "run=*", "x*")) == [f"{bucket}/a/run={n}/x.bin" for n in (1, 2)]
    assert storage.exists(f"{bucket}/a/run=1/x.bin") and not storage.exists(f"{bucket}/a/none")
    with pytest.raises(FileNotFoundError):
        storage.read(f"{bucket}/a/none")


def test_a_folder_and_a_glob_are_listed(bucket):
    for name in ("photos/1.jpg", "photos/sub/2.png", "photos/notes.txt", "other/3.jpg"):
        storage.replace(f"{bucket}/{name}", b"x" * 7)
    folder = {ref.photo: ref.size for ref in listing.list_photos([f"{bucket}/photos"])}
    assert folder == {f"{bucket}/photos/1.jpg": 7, f"{bucket}/photos/sub/2.png": 7}
    assert [ref.photo for ref in listing.list_photos([f"{bucket}/*/*.jpg"])] == [
        f"{bucket}/other/3.jpg",
        f"{bucket}/photos/1.jpg",
    ]


def test_an_archive_in_a_bucket_is_captioned_into_a_bucket(bucket, tmp_path, tiny_bundle, make_photo, capsys):
    for index in range(5):
        storage.replace(f"{bucket}/photos/{index}.jpg", make_photo(tmp_path / f"{index}.jpg").read_bytes())
    storage.replace(f"{bucket}/photos/text.jpg", b"not a photo")
    arguments = ["caption", "--input", f"{bucket}/photos", "--output", f"{bucket}/out", "--bundle", str(tiny_bundle)]
    assert cli.main(arguments) == 0
    assert "listed 6 = skipped 0 + captioned 5 + failed 1" in capsys.readouterr().out
    (path,) = rows.committed_files(f"{bucket}/out")
    assert sorted(rows.read_table(path)["error"].drop_null().to_pylist()) == ["not_an_image"]
    assert cli.main(arguments) == 0
    assert "listed 6 = skipped 6 + captioned 0 + failed 0" in capsys.readouterr().out
