"""Objects at gs:// against a real HTTP server that speaks the API of Google Cloud Storage."""

import hashlib
import io
import os
import socket
import time
import zipfile

import apache_beam as beam
import pytest

from beamscribe.jobs import cli
from beamscribe.model import bundle
from beamscribe.model.errors import BeamscribeError
from beamscribe.pipelines import bundle_cache, duplicates, listing, stores
from beamscribe.pipelines.caption_shard import with_duplicates
from beamscribe.pipelines.failures import ErrorCode, Failure
from beamscribe.pipelines.output import layout, rows
from beamscribe.pipelines.photos import PhotoRef, Shard
from beamscribe.pipelines.sources import detect, reading
from beamscribe.pipelines.sources.base import ListOptions, Source
from beamscribe.pipelines.stores import gcs, retries
from beamscribe.pipelines.stores.base import FileInfo, NoCredentialsError, TooLongError
from tests.conftest import run_eagerly
from tests.fault_proxy import faulty
from tests.test_caption import row_of


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
    gcs._client.cache_clear()
    yield "gs://archive"
    gcs._client.cache_clear()
    server.stop()


def test_files_are_written_read_and_found(bucket):
    assert stores.create(f"{bucket}/a/run=1/x.bin", b"data")
    stores.replace(f"{bucket}/a/run=2/x.bin", b"more")
    assert stores.read(f"{bucket}/a/run=1/x.bin") == b"data"
    assert sorted(stores.within(f"{bucket}/a", "run=*", "x*")) == [f"{bucket}/a/run={n}/x.bin" for n in (1, 2)]
    assert stores.exists(f"{bucket}/a/run=1/x.bin") and not stores.exists(f"{bucket}/a/none")
    with pytest.raises(FileNotFoundError):
        stores.read(f"{bucket}/a/none")
    with pytest.raises(FileNotFoundError), stores.opened(f"{bucket}/a/none"):
        pass
    assert stores.is_folder(f"{bucket}/a") and stores.is_folder(bucket)
    assert not stores.is_folder(f"{bucket}/a/run") and not stores.is_folder(f"{bucket}/a/run=1/x.bin")
    stores.delete(f"{bucket}/a/run=1/x.bin")
    stores.delete(f"{bucket}/a/run=1/x.bin")
    assert list(stores.matching(f"{bucket}/**")) == [f"{bucket}/a/run=2/x.bin"]
    with pytest.raises(OSError, match="gs://nothing/x"):
        stores.create("gs://nothing/x", b"")


def test_no_more_of_an_object_is_read_than_was_asked_for(bucket):
    stores.replace(f"{bucket}/a.jpg", b"12345")
    assert stores.read(f"{bucket}/a.jpg", 5) == b"12345"
    with pytest.raises(TooLongError, match="more than 4 bytes"):
        stores.read(f"{bucket}/a.jpg", 4)


def test_a_folder_with_wildcards_in_its_name_is_taken_literally(bucket):
    stores.create(f"{bucket}/a[1]*/run=x/1.bin", b"")
    stores.create(f"{bucket}/a1b/run=x/2.bin", b"")
    assert list(stores.within(f"{bucket}/a[1]*", "run=*", "*.bin")) == [f"{bucket}/a[1]*/run=x/1.bin"]


def test_a_stream_seeks_and_reads_ranges(bucket, tmp_path):
    data = os.urandom(10_000_000)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("1.bin", data)
        archive.writestr("2.bin", b"small")
    stores.replace(f"{bucket}/x.zip", (tmp_path / "x.zip").read_bytes())
    with stores.opened(f"{bucket}/x.zip") as stream:
        archive = zipfile.ZipFile(stream)
        assert archive.read("2.bin") == b"small" and archive.read("1.bin") == data
    assert stores.head(f"{bucket}/x.zip", 4) == b"PK\3\4"
    with pytest.raises(FileNotFoundError):
        stores.head(f"{bucket}/none", 4)


def test_without_credentials_the_job_says_so_at_once(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    gcs._client.cache_clear()
    started = time.monotonic()
    for options in (["--input", "gs://b/photos", "--output", "out"], ["--input", ".", "--output", "gs://b/out"]):
        assert cli.main(["caption", *options]) == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert "run `gcloud auth application-default login`" in lines[-1]
    assert time.monotonic() - started < 30


def test_a_folder_and_a_glob_are_listed(bucket):
    for name in ("photos/1.jpg", "photos/sub/2.png", "photos/notes.txt", "other/3.jpg"):
        stores.replace(f"{bucket}/{name}", b"x" * 7)
    refs = list(listing.list_photos([f"{bucket}/photos"]))
    for ref in refs:
        # One that is looked at by itself is the same.
        assert [ref] == list(listing.list_photos([ref.photo])) and ref.etag.isdigit()
        assert ref.md5 == hashlib.md5(b"x" * 7).hexdigest()
    folder = {ref.photo: ref.size for ref in refs}
    assert folder == {f"{bucket}/photos/1.jpg": 7, f"{bucket}/photos/sub/2.png": 7}
    assert [ref.photo for ref in listing.list_photos([f"{bucket}/*/*.jpg"])] == [
        f"{bucket}/other/3.jpg",
        f"{bucket}/photos/1.jpg",
    ]


def test_a_name_with_wildcards_is_taken_literally_where_there_is_one(bucket):
    for name in ("Summer [2019]/1.jpg", "Summer 2/2.jpg", "a*.jpg", "ab.jpg"):
        stores.replace(f"{bucket}/{name}", b"x")
    found = {
        given: [ref.photo.removeprefix(f"{bucket}/") for ref in listing.list_photos([f"{bucket}/{given}"])]
        for given in ("Summer [2019]", "a*.jpg", "Summer [12]/*", "a*")
    }
    assert found["Summer [2019]"] == ["Summer [2019]/1.jpg"] and found["a*.jpg"] == ["a*.jpg"]
    assert found["Summer [12]/*"] == ["Summer 2/2.jpg"] and found["a*"] == ["a*.jpg", "ab.jpg"]


def test_two_stars_and_a_slash_match_no_folder_too(bucket, tmp_path):
    for name in ("x.zip", "a/x.zip", "a/b/x.zip", "a/bx.zip", "ax.zip"):
        stores.replace(f"{bucket}/p/{name}", b"")
        stores.replace(f"{tmp_path}/p/{name}", b"")
    for pattern in ("p/**/x.zip", "**/a/**/*.zip", "p/**/**/x.zip"):
        there = {uri.removeprefix(f"{bucket}/") for uri in stores.matching(f"{bucket}/{pattern}")}
        here = {path.removeprefix(f"{tmp_path}/") for path in stores.matching(f"{tmp_path}/{pattern}")}
        assert there and there == here, pattern


def archive_with(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


def test_a_glob_finds_photos_and_containers_in_one_pass(bucket, requests, faults, tmp_path):
    files = {"1.jpg": b"x", "2.zip": archive_with("a.jpg", "b.txt"), "3.jpg": b"x", "4.txt": b"x", "5/": b""}
    # Named like an archive; one by its name only, which is damaged.
    files |= {"6.zip.jpg": b"x", "7.tar": b"x"}
    for name, data in files.items():
        stores.replace(f"{bucket}/photos/{name}", data)
    requests.clear()
    pattern = f"{bucket}/photos/**"
    listing.check(pattern, ListOptions())
    assert list(listing.sources([pattern], ListOptions())) == [Source(pattern, "glob", input=pattern)]
    # To see whether the pattern is a name, twice, and whether anything matches.
    assert len(requests) == 3 and not [path for _, path in requests if "alt=media" in path]
    expected = [f"{bucket}/photos/{name}" for name in ("1.jpg", "2.zip#a.jpg", "3.jpg", "6.zip.jpg", "7.tar")]
    assert [ref.photo for ref in listing.list_photos([pattern])] == expected

    def transform(pipeline):
        return pipeline | beam.Create([(pattern,)]) | listing.ListPhotos()

    parts = run_eagerly(tmp_path / "listed.pickle", transform)
    assert sorted(ref.photo for part in parts for ref in part.photos) == expected
    assert sum(part.ignored.get(".txt", 0) for part in parts) == 2
    assert {source for part in parts for source in part.containers} == {
        Source(f"{bucket}/photos/2.zip", "zip", input=pattern),
        Source(f"{bucket}/photos/7.tar", "tar", input=pattern),
    }
    with pytest.raises(BeamscribeError, match="nothing matches"):
        listing.check(f"{bucket}/photos/*.gif", ListOptions())


def test_a_glob_is_looked_at_up_to_its_first_match(monkeypatch):
    def pages(*_, **__):
        yield from (f"gs://b/p/{number}.jpg" for number in range(3))
        raise AssertionError("listed on")

    monkeypatch.setattr(gcs.GcsStore, "first", lambda *_: None)
    monkeypatch.setattr(gcs.GcsStore, "list_prefix", lambda *_: (FileInfo(uri, "1", 1) for uri in pages()))
    listing.check("gs://b/p/*.jpg", ListOptions())
    assert list(listing.sources(["gs://b/p/*.jpg"], ListOptions())) == [
        Source("gs://b/p/*.jpg", "glob", input="gs://b/p/*.jpg")
    ]


def test_a_page_without_objects_is_not_the_last(bucket, monkeypatch):
    pages = {None: {"items": [], "nextPageToken": "2"}, "2": {"items": [{"name": "p/x.jpg"}]}}

    def page(query_params, **_):
        # A store gives what it is asked for, only.
        found = pages[query_params.get("pageToken")]
        return {field: value for field, value in found.items() if field in query_params["fields"]}

    monkeypatch.setattr(gcs._client()._connection, "api_request", page)
    assert stores.store_of(bucket).first(f"{bucket}/p/") == f"{bucket}/p/x.jpg"


def test_a_bundle_beside_markers_of_folders_is_fetched(bucket, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    uri = f"{bucket}/models/ours"
    for name in ("", "model/"):
        stores.replace(f"{uri}/{name}", b"")
    for path in tiny_bundle.rglob("*"):
        if path.is_file():
            stores.replace(f"{uri}/{path.relative_to(tiny_bundle)}", path.read_bytes())
    uri = f"{uri}@sha256:{bundle.digest(tiny_bundle)}"
    fetched = bundle_cache.fetched(uri, bundle_cache.described(uri).fingerprint)
    assert bundle.describe(fetched) == bundle.describe(tiny_bundle)


def test_workers_without_credentials_stop_the_job(bucket, tmp_path, tiny_bundle, monkeypatch, capsys):
    stores.replace(f"{bucket}/photos/a.jpg", b"x")
    stores.replace(f"{bucket}/photos/b.zip", archive_with("b.jpg"))

    def read(*_):
        raise NoCredentialsError("there are no credentials; run it")

    monkeypatch.setattr(gcs.GcsStore, "read", read)
    output = str(tmp_path / "out")
    given = ["--input", f"{bucket}/photos", "--output", output, "--bundle", str(tiny_bundle)]
    assert cli.main(["caption", *given]) == 1
    line = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert "the job stopped: " in line and "there are no credentials; run it" in line
    assert not layout.committed_files(output)
    refs = list(listing.list_photos([f"{bucket}/photos/b.zip"]))
    monkeypatch.setattr(gcs.GcsStore, "open", read)
    with pytest.raises(NoCredentialsError):
        list(reading.read_members(refs, ListOptions()))
    with pytest.raises(NoCredentialsError):
        list(listing.list_source(Source(f"{bucket}/photos/b.zip", "zip"), ListOptions()))


def test_a_store_that_creates_a_file_twice_is_refused_as_an_output(bucket, tmp_path, tiny_bundle, make_photo, capsys):
    make_photo(tmp_path / "photos" / "a.jpg")
    given = ["--input", str(tmp_path / "photos"), "--bundle", str(tiny_bundle)]
    # This server takes no notice of the condition that there is no such object.
    assert cli.main(["caption", *given, "--output", f"{bucket}/out"]) == 1
    assert capsys.readouterr().err == (
        f"beamscribe caption: {bucket}/out can't hold captions: its store created the same file twice, so two jobs "
        "could overwrite each other's files; choose a folder on another disk or in another store\n"
    )
    assert not list(stores.matching(f"{bucket}/**"))


@pytest.fixture
def requests():
    """Methods and paths of all requests that went through the proxy."""
    return []


@pytest.fixture
def faults(bucket, monkeypatch, requests):
    """What is to happen to requests for an object's bytes: faults by the object's name, the first for the first."""
    planned: dict[str, list[int | str]] = {}

    def fault(method, path):
        requests.append((method, path))
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


def test_photos_whose_digests_the_store_knows_are_compared_unread(bucket, faults, requests):
    contents = {"a": b"same", "b": b"same", "c": b"else", "d": b"more"}
    for name, data in contents.items():
        stores.replace(f"{bucket}/photos/{name}.jpg", data)
    refs = list(listing.list_photos([f"{bucket}/photos"]))
    marked = {ref.photo[-5]: ref for ref in duplicates.marked(refs, ListOptions())}
    assert {name: ref.same_as[-5:-4] for name, ref in marked.items()} == {"a": "", "b": "a", "c": "", "d": ""}
    assert not [path for _, path in requests if "alt=media" in path]

    def rows_of(shard):
        for ref in shard.photos:
            if not ref.same_as:
                data = reading.read_photo(ref)
                yield row_of(ref, hashlib.sha256(data).hexdigest() if isinstance(data, bytes) else None)

    def digests(shard):
        return {row.photo[-5]: row.sha256 for row in with_duplicates(shard, lambda part: list(rows_of(part)))}

    shard = Shard(0, tuple(marked.values()))
    assert digests(shard) == {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    # Where the one that would be read has other bytes by now, its copy is read itself.
    stores.replace(f"{bucket}/photos/a.jpg", b"anew")
    found = digests(shard)
    assert found["a"] is None and found["b"] == hashlib.sha256(b"same").hexdigest()


def test_names_that_say_nothing_are_told_by_what_the_store_says_and_else_read(bucket, faults, requests):
    photo = b"\xff\xd8\xff\xe0\0\x10JFIF"
    for number in range(40):
        blob = gcs._blob(f"{bucket}/photos/{number:02d}")
        blob.upload_from_string(photo if number % 2 else b"text", content_type="image/jpeg" if number < 20 else None)
    # An empty one has no first byte: the store answers that there is no such range.
    faults["39"] = ["always 416"]
    for pattern in (f"{bucket}/photos", f"{bucket}/photos/*"):
        requests.clear()
        found = list(listing.list_source(detect.source_of(pattern, ListOptions()), ListOptions()))
        listed = [ref.photo.rpartition("/")[2] for ref in found if isinstance(ref, PhotoRef)]
        assert listed == [f"{number:02d}" for number in (*range(20), *range(21, 39, 2))]
        assert len(found) == 40
        read = {path.partition("?")[0][-2:] for _, path in requests if "alt=media" in path}
        assert read == {f"{number}" for number in range(20, 40)}


def test_an_object_without_a_digest_that_is_replaced_is_not_taken_for_the_listed_one(bucket):
    stores.replace(f"{bucket}/photos/a.jpg", b"one")
    (ref,) = listing.list_photos([f"{bucket}/photos"])
    ref = ref._replace(md5="")
    assert reading.read_photo(ref) == b"one"
    stores.replace(f"{bucket}/photos/a.jpg", b"two")
    failure = reading.read_photo(ref)
    assert isinstance(failure, Failure) and failure.error == ErrorCode.CHANGED_WHILE_READING


def test_a_request_that_is_not_answered_is_made_again(bucket, faults, monkeypatch):
    monkeypatch.setattr(gcs, "TIMEOUT_SECONDS", 0.5)
    stores.replace(f"{bucket}/photos/a.jpg", b"a")
    faults["a.jpg"] = ["stall 1"]
    retries.take()
    assert stores.read(f"{bucket}/photos/a.jpg") == b"a"
    assert retries.take() == 1 and retries.take() == 0


def test_what_may_pass_is_waited_for(bucket, faults):
    stores.replace(f"{bucket}/photos/a.jpg", bytes(100_000))
    for several in ([503], [429, 500], ["reset"], ["short"], [503, "reset", "short"]):
        faults["a.jpg"] = list(several)
        assert stores.read(f"{bucket}/photos/a.jpg") == bytes(100_000), several
        assert not faults["a.jpg"]


def test_what_does_not_pass_is_a_row(bucket, faults, monkeypatch, tmp_path, tiny_bundle, make_photo):
    # Two waits, drawn by chance, take up to three seconds.
    monkeypatch.setattr(gcs, "RETRY_SECONDS", 8.0)
    for index in range(20):
        stores.replace(f"{bucket}/photos/{index}.jpg", make_photo(tmp_path / f"{index}.jpg").read_bytes())
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
    found = [row for path in layout.committed_files(str(tmp_path / "out")) for row in rows.read_table(path).to_pylist()]
    errors = {row["photo"].rpartition("/")[2]: row["error"] for row in found if row["error"]}
    assert errors == {"3.jpg": "unreadable", "4.jpg": "permission"} and len(found) == 20
    # Both may pass until the next run.
    faults.clear()
    assert cli.main(arguments) == 0
    assert (
        sum(
            row["status"] == "captioned"
            for p in layout.committed_files(str(tmp_path / "out"))
            for row in rows.read_table(p).to_pylist()
        )
        == 20
    )


def test_a_store_that_is_down_stops_the_job(bucket, faults, monkeypatch, tmp_path, tiny_bundle, make_photo, capsys):
    monkeypatch.setattr(gcs, "RETRY_SECONDS", 1.0)
    for index in range(20):
        stores.replace(f"{bucket}/photos/{index}.jpg", make_photo(tmp_path / f"{index}.jpg").read_bytes())
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
    assert "can't read any of 16 photos" in error and "make sure that the store is available" in error, error
    assert not layout.committed_files(str(tmp_path / "out"))
