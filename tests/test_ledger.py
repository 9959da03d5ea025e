import datetime

import apache_beam as beam
import pyarrow.parquet as pq

from pipelines.ledger import Done, ReadLedger, _digest
from pipelines.photos import CaptionRow, PhotoRef, caption_table
from tests.conftest import run_eagerly


def row(photo, etag="1", error=None, model="m", settings="s"):
    return CaptionRow(
        photo=photo,
        etag=etag,
        sha256=None,
        width=None,
        height=None,
        status="failed" if error else "captioned",
        caption=None if error else "a dog",
        score=None,
        alternatives=(),
        stage="read" if error else None,
        error=error,
        message=None,
        model=model,
        settings=settings,
        written_at=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    )


def commit(output, run, *rows):
    folder = output / "captions" / f"run={run}"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(caption_table(rows), folder / f"shard-{len(list(folder.iterdir())):05d}.parquet")


def done_of(output, run="now"):
    output.mkdir(exist_ok=True)
    (done,) = run_eagerly(
        output / "done.pickle", lambda pipeline: pipeline | beam.Create([str(output)]) | ReadLedger(run, "m", "s")
    )
    return [f"{photo}{etag}" for photo in "abcdef" for etag in "12" if PhotoRef(photo, etag) in done]


def test_what_is_done_is_captioned_or_failed_for_good_with_the_same_model_and_settings(tmp_path):
    commit(tmp_path, "one", row("a"), row("b", error="truncated"), row("c", error="unreadable"))
    commit(tmp_path, "one", row("d", model="other"), row("e", settings="other"))
    commit(tmp_path, "two", row("f", etag="2"))
    assert done_of(tmp_path) == ["a1", "b1", "f2"]


def test_the_own_run_does_not_count(tmp_path):
    commit(tmp_path, "now", row("a"))
    commit(tmp_path, "now-2", row("b"))
    assert done_of(tmp_path) == ["b1"]


def test_an_empty_output_has_nothing_done(tmp_path):
    assert done_of(tmp_path / "none") == []


def test_digests_with_equal_halves_are_told_apart():
    digest = _digest("a", "1")
    twin = digest[:8] + bytes(8)
    assert PhotoRef("a", "1") not in Done.of([twin, twin])
    assert PhotoRef("a", "1") in Done.of([twin, digest, twin])
    assert len(Done.of([])) == 0


def test_photo_and_etag_do_not_run_together():
    assert _digest("a1", "2") != _digest("a", "12")


def test_many_digests_are_all_found():
    refs = [PhotoRef(f"photo {i}", str(i)) for i in range(2000)]
    done = Done.of(_digest(ref.photo, ref.etag) for ref in refs)
    assert all(ref in done for ref in refs)
    assert not any(PhotoRef(ref.photo, "changed") in done for ref in refs)
