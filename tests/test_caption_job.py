"""A captioning job that is interrupted, that fails, and that goes on without its launcher."""

import dataclasses
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beamscribe.jobs import caption_job
from beamscribe.jobs.caption_job import CaptionJob
from beamscribe.model.caption_settings import CaptionSettings
from beamscribe.model.errors import InputError, RunError
from beamscribe.pipelines.caption_options import CaptionOptions
from beamscribe.pipelines.control import stopping
from beamscribe.pipelines.control.progress import Limit
from beamscribe.pipelines.output import layout
from beamscribe.pipelines.output.run_documents import Config
from tests import made


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


REMOTE = {"runner": "FlinkRunner", "name": "x", "address": "http://x", "host": "x"}


@pytest.mark.parametrize("remote", [None, REMOTE])
def test_an_interruption_stops_what_would_go_on(job, ends_with, monkeypatch, remote):
    # Workers are threads of this process, or processes of a cluster.
    monkeypatch.setattr(caption_job.remote_jobs, "is_running", lambda _: False)
    ends_with(KeyboardInterrupt())
    job = dataclasses.replace(job, remote=remote)
    with pytest.raises(KeyboardInterrupt):
        caption_job.run(job)
    assert stopping.request(job.options.folder).reason == "its launcher was interrupted"


def test_a_job_that_fails_is_one_line_and_its_traceback_is_kept(job, ends_with):
    cause = ValueError("the runner\nis gone")
    ends_with(cause)
    with pytest.raises(RunError) as error:
        caption_job.run(job)
    details = layout.run_file(job.options.output, job.options.run, layout.ERROR)
    assert str(error.value) == (
        f"the job stopped: the runner is gone; committed captions stay, run it again to go on (details: {details})"
    )
    assert error.value.__cause__ is cause
    with open(details) as file:
        assert "ValueError: the runner" in file.read()


def test_a_run_has_the_number_of_its_lease(job, ends_with):
    ends_with(ValueError("x"))
    for number in (1, 2):
        one = dataclasses.replace(job)
        with pytest.raises(RunError):
            caption_job.run(one)
        assert one.options.run == one.config.run == f"r{number:08d}-{made.RUN}"
        assert one.options.run_number == one.config.run_number == number
        path = layout.run_file(one.options.output, one.options.run, layout.CONFIG)
        assert Config.from_json(Path(path).read_bytes(), path) == one.config


def test_a_job_that_lists_nothing_has_failed(job, monkeypatch):
    monkeypatch.setattr(caption_job.beam_runner, "run", lambda *_: None)
    with pytest.raises(RunError, match="the job has ended without listing anything"):
        caption_job.run(job)


def test_only_a_job_that_goes_on_without_its_launcher_can_be_left(job):
    with pytest.raises(InputError, match="`detach`: only jobs on Flink and Dataflow"):
        caption_job.submit(job)
    job = dataclasses.replace(job, remote=REMOTE, max_failures=Limit(3))
    with pytest.raises(InputError, match="`max_failures`: nobody counts the failures of a job with `detach`"):
        caption_job.submit(job)
    with pytest.raises(InputError, match="`max_failures`: a template's job has no launcher"):
        caption_job.write_template(job, "gs://templates/x")
