"""Objects at gs:// against a real HTTP server that speaks the API of Google Cloud Storage."""

import os
import socket

import pytest
from apache_beam.internal.gcp import auth

from jobs import cli
from pipelines import gcs, listing, rows, storage
from tests.fault_proxy import faulty


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
    gcs._client.cache_clear()
    yield "gs://archive"
    gcs._client.cache_clear()
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


@pytest.fixture
def faults(bucket, monkeypatch):
    """What is to happen to requests for an object's bytes: faults by the object's name, the first for the first."""
    planned: dict[str, list[int | str]] = {}

    def fault(method, path):
        if method != "GET" or "alt=media" not in path:
            return None
        left = planned.get(path.partition("?")[0].rpartition("%2F")[2].rpartition("/")[2], [])
        if left and str(left[0]).startswith("always "):
            return int(left[0].removeprefix("always "))
        return left.pop(0) if left else None

    with faulty(os.environ["STORAGE_EMULATOR_HOST"], fault) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        gcs._client.cache_clear()
        yield planned


def test_what_may_pass_is_waited_for(bucket, faults):
    storage.replace(f"{bucket}/photos/a.jpg", bytes(100_000))
    for several in ([503], [429, 500], ["reset"], ["short"], [503, "reset", "short"]):
        faults["a.jpg"] = list(several)
        assert storage.read(f"{bucket}/photos/a.jpg") == bytes(100_000), several
        assert not faults["a.jpg"]


def test_what_does_not_pass_is_a_row(bucket, faults, monkeypatch, tmp_path, tiny_bundle, make_photo):
    # Two waits, drawn by chance, take up to three seconds.
    monkeypatch.setattr(gcs, "PATIENCE_SECONDS", 8.0)
    for index in range(20):
        storage.replace(f"{bucket}/photos/{index}.jpg", make_photo(tmp_path / f"{index}.jpg").read_bytes())
    faults.update({"3.jpg": ["always 503"], "4.jpg": ["always 403"], "5.jpg": [503, "reset"]})
    arguments = [
        "caption",
        "--input",
        f"{bucket}/photos",
        "--output",
        str(tmp_path / "out"),
        "--bundle",
        str(tiny_bundle),
    ]
    assert cli.main(arguments) == 0
    found = [row for path in rows.committed_files(str(tmp_path / "out")) for row in rows.read_table(path).to_pylist()]
    errors = {row["photo"].rpartition("/")[2]: row["error"] for row in found if row["error"]}
    assert errors == {"3.jpg": "unreadable", "4.jpg": "permission"} and len(found) == 20
    # Both may pass until the next run.
    faults.clear()
    assert cli.main(arguments) == 0
    assert (
        sum(
            row["status"] == "captioned"
            for p in rows.committed_files(str(tmp_path / "out"))
            for row in rows.read_table(p).to_pylist()
        )
        == 20
    )


def test_a_store_that_is_down_stops_the_job(bucket, faults, monkeypatch, tmp_path, tiny_bundle, make_photo, capsys):
    monkeypatch.setattr(gcs, "PATIENCE_SECONDS", 1.0)
    for index in range(20):
        storage.replace(f"{bucket}/photos/{index}.jpg", make_photo(tmp_path / f"{index}.jpg").read_bytes())
        faults[f"{index}.jpg"] = ["always 503"]
    arguments = [
        "caption",
        "--input",
        f"{bucket}/photos",
        "--output",
        str(tmp_path / "out"),
        "--bundle",
        str(tiny_bundle),
    ]
    assert cli.main([*arguments, "--no-deduplicate"]) == 1
    error = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert "none of 16 photos could be read" in error and "see that the store is there" in error, error
    assert not rows.committed_files(str(tmp_path / "out"))
