"""The whole job in a bucket, against a server of Google Cloud Storage, and a proxy that spoils what it answers."""

import collections
import concurrent.futures
import gzip
import hashlib
import io
import itertools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import zipfile

import psutil
import pytest

import beamscribe
from beamscribe.jobs import cli
from beamscribe.model import bundle
from beamscribe.model.errors import BeamscribeError
from beamscribe.pipelines import bundle_cache, captioning, listing, stores
from beamscribe.pipelines.control import lease
from beamscribe.pipelines.output import layout, rows
from beamscribe.pipelines.sources import ranges
from beamscribe.pipelines.sources.base import ListOptions, Source
from beamscribe.pipelines.stores import gcs, retries
from tests.archives import make_archive

PHOTOS = 220


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Files, none of them equal to another."""
    return sorted(make_archive(tmp_path_factory.mktemp("archive") / "photos", PHOTOS).iterdir())


def upload(files, folder):
    for path in files:
        # Some in folders below.
        stores.replace(f"{folder}/{path.name[-5]}/{path.name}", path.read_bytes())


def upload_bundle(folder, uri):
    """Uploads a bundle, and returns its URI with its digest."""
    for path in folder.rglob("*"):
        if path.is_file():
            stores.replace(f"{uri}/{path.relative_to(folder)}", path.read_bytes())
    return f"{uri}@sha256:{bundle.digest(folder)}"


def rows_of(output):
    return [row for path in layout.committed_files(output) for row in rows.read_table(path).to_pylist()]


def captions_of(output):
    """Each photo's captions, by its name."""
    captions = collections.defaultdict(list)
    for row in rows_of(output):
        captions[row["photo"].rpartition("/")[2]].append(row["caption"])
    return captions


def test_everything_lies_in_a_bucket(bucket, photos, tiny_bundle, requests, capsys, tmp_path):
    upload(photos[:-2], f"{bucket}/photos")
    copy = f"{bucket}/photos/copy.jpg"
    stores.replace(copy, photos[0].read_bytes())
    pinned = upload_bundle(tiny_bundle, f"{bucket}/models/tiny")
    arguments = ["caption", "--input", f"{bucket}/photos", "--output", f"{bucket}/out"]
    arguments += ["--bundle", pinned, "--shard-size", "32"]
    requests.clear()
    assert cli.main(arguments) == 0
    count = len(photos) - 1
    assert f"listed {count} = skipped 0 + taken over 0 + captioned {count} + failed 0" in capsys.readouterr().out
    found = {row["photo"]: row for row in rows_of(f"{bucket}/out")}
    assert len(found) == count
    by_name = {path.name: path for path in [*photos, *photos[:1]]}
    for uri, row in found.items():
        path = by_name.get(uri.rpartition("/")[2], photos[0])
        assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert row["etag"] == stores.version(uri)
    # A photo is read to be captioned, once but for the twelve of the report; one that has the bytes of another never.
    read = collections.Counter(path for method, path in requests if "alt=media" in path and "photos%2F" in path)
    assert len(read) == count - 1 and read.total() <= count - 1 + 12
    assert not [path for _, path in requests if re.search(r"/batch|rewriteTo|copyTo", path)]

    # The bundle is not fetched again.
    upload(photos[-2:], f"{bucket}/photos")
    requests.clear()
    assert cli.main(arguments) == 0
    assert f"listed {count + 2} = skipped {count} + taken over 0 + captioned 2 + failed 0" in capsys.readouterr().out
    assert not [path for _, path in requests if "models%2Ftiny" in path]

    assert cli.main(["verify", f"{bucket}/out", "--input", f"{bucket}/photos"]) == 0
    assert cli.main(["compact", f"{bucket}/out"]) == 0
    assert len(layout.committed_files(f"{bucket}/out")) == 1 and len(rows_of(f"{bucket}/out")) == count + 2
    assert cli.main(["verify", f"{bucket}/out", "--input", f"{bucket}/photos"]) == 0
    assert cli.main(["show", f"{bucket}/out"]) == 0
    assert cli.main(arguments) == 0
    assert f"listed {count + 2} = skipped {count + 2}" in capsys.readouterr().out


def test_the_bundle_is_fetched_once_though_many_ask(bucket, tiny_bundle, requests):
    pinned = upload_bundle(tiny_bundle, f"{bucket}/tiny")
    fingerprint = bundle.describe(tiny_bundle).fingerprint
    requests.clear()
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes:
        asked = [processes.submit(bundle_cache.fetched, pinned, fingerprint) for _ in range(4)]
        (folder,) = {future.result() for future in asked}
    assert bundle.describe(folder).fingerprint == fingerprint
    read = collections.Counter(path.partition("?")[0] for _, path in requests if "alt=media" in path)
    files = [path.relative_to(tiny_bundle).as_posix() for path in tiny_bundle.rglob("*") if path.is_file()]
    assert len(read) == len(list(filter(bundle.is_loaded, files))) and set(read.values()) == {1}


def test_a_damaged_copy_of_the_bundle_is_fetched_again(bucket, tiny_bundle, tmp_path, requests):
    pinned = upload_bundle(tiny_bundle, f"{bucket}/tiny")
    fingerprint = bundle.describe(tiny_bundle).fingerprint
    assert bundle_cache.described(pinned).fingerprint == fingerprint
    folder = bundle_cache.fetched(pinned, fingerprint)
    assert folder.is_relative_to(tmp_path / "cache")
    (folder / "vocabulary.txt").write_text("nonsense")
    assert bundle_cache.fetched(pinned, fingerprint) == folder
    assert bundle.describe(folder).fingerprint == fingerprint
    with pytest.raises(BeamscribeError, match="is not the one that the job was started with"):
        bundle_cache.fetched(pinned, "0" * 16)
    assert [path.name for path in folder.parent.iterdir() if not path.name.endswith(".lock")] == [folder.name]
    with pytest.raises(BeamscribeError, match="is not a model bundle"):
        bundle_cache.described(f"{bucket}/none")
    stores.replace(f"{bucket}/tiny/vocabulary.txt", b"nonsense")
    (folder / "vocabulary.txt").unlink()
    with pytest.raises(BeamscribeError, match=f"{bucket}/tiny is not the bundle whose digest was given"):
        bundle_cache.fetched(pinned, fingerprint)


def test_faults_of_all_kinds_cost_nothing_but_time(bucket, photos, tiny_bundle, fault, monkeypatch, capsys):
    monkeypatch.setattr(gcs, "TIMEOUT_SECONDS", 1.0)
    some = photos[:60]
    upload(some, f"{bucket}/photos")
    pinned = upload_bundle(tiny_bundle, f"{bucket}/tiny")
    kinds = (503, "short", 429, "reset", 500, "stall 2", 502, "lost")
    faults = itertools.cycle(kinds)
    turn = itertools.count(1)
    given = collections.Counter()

    def decide(method, path):
        if next(turn) % 5:
            return None
        chosen = next(faults)
        kind = "list" if path.partition("?")[0].endswith("/o") and method == "GET" else method
        given[kind] += 1
        given[chosen] += 1
        return chosen

    fault.append(decide)
    arguments = ["caption", "--input", f"{bucket}/photos", "--output", f"{bucket}/out", "--shard-size", "16"]
    assert cli.main([*arguments, "--bundle", pinned]) == 0
    fault.clear()
    output = capsys.readouterr().out
    assert f"listed {len(some)} = skipped 0 + taken over 0 + captioned {len(some)} + failed 0" in output
    captions = captions_of(f"{bucket}/out")
    assert captions.keys() == {path.name for path in some} and all(len(of) == 1 for of in captions.values())
    assert given["GET"] and given["POST"] and given["list"] and all(given[kind] for kind in kinds), given
    counted = int(re.search(r"retried requests to stores: (\d+)", output)[1])
    # Those that write the report itself, and what comes after it, are not in it.
    total = sum(given[kind] for kind in kinds)
    assert 0.8 * total < counted <= total
    (report,) = stores.within(f"{bucket}/out", "runs", "*", "report.json")
    assert f'"retries": {counted}' in stores.read(report).decode()

    # Nothing is left to caption: what is made again is for no shard. Another run is another process.
    retries.take()
    left = [503] * 3
    fault.append(lambda method, path: left.pop() if left and method == "GET" and "/o?" in path else None)
    assert cli.main([*arguments, "--bundle", pinned]) == 0
    output = capsys.readouterr().out
    assert f"skipped {len(some)} + taken over 0 + captioned 0" in output and "retried requests to stores: 3\n" in output


@pytest.mark.parametrize("size", [10, 9 * 2**20])
def test_what_was_created_though_the_answer_was_lost(bucket, fault, size):
    left = ["lost"]
    fault.append(lambda method, _: left.pop() if method in ("POST", "PUT") and left else None)
    assert stores.create(f"{bucket}/x", b"1" * size)
    assert not left
    assert not stores.create(f"{bucket}/x", b"1" * size)
    assert stores.read(f"{bucket}/x") == b"1" * size
    # What another one has created meanwhile is not taken for one's own.
    left.append(503)
    assert not stores.create(f"{bucket}/x", b"2" * size)


def test_a_job_that_is_killed_goes_on(bucket, photos, tiny_bundle, tmp_path, capsys):
    upload(photos, f"{bucket}/photos")
    arguments = ["caption", "--input", f"{bucket}/photos", "--output", f"{bucket}/out", "--shard-size", "32"]
    arguments += ["--bundle", str(tiny_bundle)]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(
            [sys.executable, "-m", "beamscribe", *arguments], stdout=log, stderr=log, start_new_session=True
        )
        end = time.monotonic() + 120
        while len(layout.committed_files(f"{bucket}/out")) < 2:
            assert job.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.05)
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    committed = len(rows_of(f"{bucket}/out"))
    assert 0 < committed < len(photos)
    assert cli.main(arguments) == 0
    expected = f"listed {PHOTOS} = skipped {committed} + taken over 0 + captioned {PHOTOS - committed} + failed 0"
    assert expected in capsys.readouterr().out
    assert all(len(of) == 1 for of in captions_of(f"{bucket}/out").values())
    assert not [process for process in psutil.process_iter() if _session(process) == job.pid]


def _session(process):
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None


def test_one_job_at_a_time(bucket, fault):
    left = []
    fault.append(lambda method, _: left.pop() if method == "POST" and left else None)
    with lease.hold(f"{bucket}/out", "run 1"):
        with pytest.raises(BeamscribeError, match="in use: run 1"), lease.hold(f"{bucket}/out", "run 2"):
            pass
        assert str(lease.holder_of(f"{bucket}/out")).startswith("run 1")
    assert lease.holder_of(f"{bucket}/out") is None
    # It was taken, and the answer lost.
    left.append("lost")
    with lease.hold(f"{bucket}/out", "run 3"):
        assert str(lease.holder_of(f"{bucket}/out")).startswith("run 3")


def test_an_object_that_the_store_unpacks(bucket):
    blob = gcs._blob(f"{bucket}/list.txt")
    blob.content_encoding = "gzip"
    blob.upload_from_string(gzip.compress(b"a.jpg"))
    found = stores.stat(f"{bucket}/list.txt")
    assert found and (found.size, found.md5) == (0, "")
    with stores.opened(f"{bucket}/list.txt") as stream:
        assert stream.read() == b"a.jpg"


def test_a_folder_and_a_glob_are_split_by_ranges_of_names(bucket, monkeypatch):
    monkeypatch.setattr(ranges, "SMALLEST", 50)
    names = [f"{year}/{month:02d}/{n}.jpg" for year in range(2015, 2025) for month in range(1, 6) for n in (1, 2)]
    for name in [*names, "1.jpg", "2019.jpg", "é.jpg", ".hidden/x.jpg"]:
        stores.replace(f"{bucket}/photos/{name}", name.encode())
    stores.replace(f"{bucket}/photos2/x.jpg", b"x")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("inside.jpg", b"x")
    stores.replace(f"{bucket}/photos/2020/05/x.zip", buffer.getvalue())
    globs = [Source(f"{bucket}/photos/{pattern}", "glob") for pattern in ("**.jpg", "**")]
    for source in (Source(f"{bucket}/photos", "folder"), *globs):
        parts = list(ranges.parts(source))
        assert 8 < len(parts) < 200
        found = [list(listing.list_source(part, ListOptions())) for part in parts]
        assert list(itertools.chain.from_iterable(found)) == list(listing.list_source(source, ListOptions()))
        assert max(map(len, found)) < len(names) / 2
    assert f"{bucket}/photos/2020/05/x.zip#inside.jpg" in {ref.photo for ref in listing.list_photos([globs[1].uri])}


def test_an_archive_in_a_bucket_is_captioned_into_a_bucket(bucket, tmp_path, tiny_bundle, make_photo, capsys):
    for index in range(5):
        stores.replace(f"{bucket}/photos/{index}.jpg", make_photo(tmp_path / f"{index}.jpg").read_bytes())
    stores.replace(f"{bucket}/photos/text.jpg", b"not a photo")
    arguments = ["caption", "--input", f"{bucket}/photos", "--output", f"{bucket}/out", "--bundle", str(tiny_bundle)]
    assert cli.main(arguments) == 0
    assert "listed 6 = skipped 0 + taken over 0 + captioned 5 + failed 1" in capsys.readouterr().out
    (path,) = layout.committed_files(f"{bucket}/out")
    assert sorted(rows.read_table(path)["error"].drop_null().to_pylist()) == ["not_an_image"]
    assert cli.main(arguments) == 0
    assert "listed 6 = skipped 6 + taken over 0 + captioned 0 + failed 0" in capsys.readouterr().out


def test_photos_that_moved_between_a_disk_and_a_bucket_keep_their_captions(
    bucket, tmp_path, tiny_bundle, make_photo, monkeypatch
):
    photos = [make_photo(tmp_path / "photos" / f"{index}.jpg") for index in range(5)]
    given = {"output": f"{bucket}/out", "bundle": tiny_bundle}
    assert beamscribe.caption(tmp_path / "photos", **given).captioned == 5
    upload(photos, f"{bucket}/photos")

    def refuse(*_):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(captioning, "CaptionModel", refuse)
    report = beamscribe.caption(f"{bucket}/photos", **given)
    assert (report.listed, report.taken_over, report.gone) == (5, 5, 0)
    # Renamed within the bucket.
    for path in photos:
        stores.replace(f"{bucket}/photos/2026/{path.name}", path.read_bytes())
        stores.delete(f"{bucket}/photos/{path.name[-5]}/{path.name}")
    report = beamscribe.caption(f"{bucket}/photos", **given)
    assert (report.listed, report.taken_over, report.gone) == (5, 5, 5)
    found = beamscribe.read(f"{bucket}/out", ["photo", "caption"]).to_pylist()
    captions = collections.defaultdict(set)
    for row in found:
        captions[row["photo"].rpartition("/")[2]].add(row["caption"])
    assert len(found) == 10 and all(len(of_photo) == 1 for of_photo in captions.values())
