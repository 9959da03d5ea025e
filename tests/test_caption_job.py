"""What is shown of an output when a captioning job had nothing to caption."""

import datetime

import pyarrow.parquet as pq
import pytest

from beamscribe.jobs import caption_job
from beamscribe.pipelines.output import layout
from beamscribe.pipelines.photos import CAPTIONED, FAILED, CaptionRow, caption_table

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def row(photo: str, caption: str | None) -> CaptionRow:
    return CaptionRow(
        photo=photo,
        etag="1-2",
        sha256=None,
        width=4,
        height=3,
        status=CAPTIONED if caption else FAILED,
        caption=caption,
        score=-0.5 if caption else None,
        alternatives=(),
        stage=None if caption else "read",
        error=None if caption else "empty",
        message=None if caption else "no bytes",
        model="f1",
        settings="beam_width=3",
        written_at=NOW,
    )


@pytest.fixture
def commit(tmp_path):
    def write(run: str, index: int, **captions: str | None) -> None:
        path = layout.shard_file(str(tmp_path), run, index)
        (tmp_path / "captions" / f"run={run}").mkdir(parents=True, exist_ok=True)
        pq.write_table(caption_table([row(photo, caption) for photo, caption in captions.items()]), path)

    return write


def test_the_newest_captions_are_shown_each_photo_once(commit, tmp_path):
    commit("20260101T000000-aaaaaa", 0, a="an old dog", b="a cat", c="a horse", d="a bird")
    commit("20260102T000000-bbbbbb", 0, a="a dog", c=None)
    commit("20260102T000000-bbbbbb", 1, e="a fish")
    expected = [("e", "a fish"), ("a", "a dog"), ("b", "a cat"), ("d", "a bird")]
    assert caption_job.latest_captions(str(tmp_path)) == expected


def test_no_more_files_are_read_than_must_be(commit, tmp_path):
    commit("20260102T000000-bbbbbb", 0, **dict.fromkeys("abcdefgh", "a dog"))
    path = layout.shard_file(str(tmp_path), "20260101T000000-aaaaaa", 0)
    (tmp_path / "captions" / "run=20260101T000000-aaaaaa").mkdir()
    with open(path, "wb") as file:
        file.write(b"damaged")
    assert caption_job.latest_captions(str(tmp_path)) == [(name, "a dog") for name in "abcde"]


def test_there_may_be_none(tmp_path):
    assert caption_job.latest_captions(str(tmp_path)) == []
