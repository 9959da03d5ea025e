"""A captioning job that is interrupted or fails, and what is shown of an output when there was nothing to caption."""

import dataclasses
import datetime

import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beamscribe.jobs import caption_job
from beamscribe.jobs.caption_job import CaptionJob
from beamscribe.model.caption_settings import CaptionSettings
from beamscribe.model.errors import BeamscribeError
from beamscribe.pipelines.caption_options import CaptionOptions
from beamscribe.pipelines.control import stopping
from beamscribe.pipelines.output import layout
from beamscribe.pipelines.photos import CAPTIONED, FAILED, CaptionRow, caption_table
from tests import made

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


@pytest.fixture
def job(tmp_path) -> CaptionJob:
    options = CaptionOptions(
        inputs=("/photos",),
        output=str(tmp_path / "out"),
        run=made.RUN,
        bundle="",
        model="0123456789abcdef",
        settings=CaptionSettings(3, 20),
    )
    config = made.config(output=options.output, settings=options.settings_fingerprint)
    return CaptionJob(options, config, PipelineOptions([]))


@pytest.fixture
def ends_with(monkeypatch):
    """Has the pipeline end with an error."""

    def end(error: BaseException) -> None:
        def run(*_: object) -> None:
            raise error

        monkeypatch.setattr(caption_job.beam_runner, "run", run)

    return end


@pytest.mark.parametrize("remote", [None, {"runner": "FlinkRunner", "name": "x", "address": "http://x", "host": "x"}])
def test_an_interruption_stops_a_job_that_would_go_on(job, ends_with, monkeypatch, remote):
    monkeypatch.setattr(caption_job.remote_jobs, "is_running", lambda _: False)
    ends_with(KeyboardInterrupt())
    job = dataclasses.replace(job, remote=remote)
    with pytest.raises(KeyboardInterrupt):
        caption_job.run(job)
    assert stopping.reason(job.options.folder) == ("its launcher was interrupted" if remote else None)


def test_a_job_that_fails_is_one_line_and_its_traceback_is_kept(job, ends_with):
    ends_with(ValueError("the runner\nis gone"))
    begun = []
    with pytest.raises(BeamscribeError) as error:
        caption_job.run(job, begun=lambda: begun.append(1))
    details = layout.run_file(job.options.output, job.options.run, layout.ERROR)
    assert str(error.value) == (
        f"the job stopped: the runner is gone; committed captions stay, run it again to go on (details: {details})"
    )
    with open(details) as file:
        assert "ValueError: the runner" in file.read()
    assert begun == [1]


def test_a_job_that_lists_nothing_has_failed(job, monkeypatch):
    monkeypatch.setattr(caption_job.beam_runner, "run", lambda *_: None)
    with pytest.raises(BeamscribeError, match="the job has ended without listing anything"):
        caption_job.run(job)
