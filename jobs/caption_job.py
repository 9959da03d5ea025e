"""A captioning job from the lease to the report; what the command line says of it is in `commands/caption.py`."""

import contextlib
import dataclasses
import datetime
import traceback
from collections.abc import Callable, Iterator

from apache_beam.options.pipeline_options import PipelineOptions

from beamscribe.jobs.runners import beam_runner, remote_jobs
from beamscribe.jobs.runners.dataflow_runner import Unattended
from beamscribe.model.errors import BeamscribeError, one_line
from beamscribe.pipelines import stores
from beamscribe.pipelines.caption_archive import CaptionArchive
from beamscribe.pipelines.caption_options import CaptionOptions
from beamscribe.pipelines.control import history, lease, stopping
from beamscribe.pipelines.control.progress import Limit, Progress
from beamscribe.pipelines.output import frozen_plan, layout, report, rows
from beamscribe.pipelines.output.run_documents import Config, Report, StopCause
from beamscribe.pipelines.stores import retries

# How many captions are shown when a job has ended.
SHOWN_CAPTIONS = 5


@dataclasses.dataclass(frozen=True)
class CaptionJob:
    """What a run captions, and on what it runs.

    Attributes:
      options: of the pipeline.
      config: of the run, as `config.json` keeps it.
      beam_options: Beam's own; whoever makes the job has set in them what the runner needs.
      remote: where a runner can be asked about the job if that goes on without this process; None if it does not.
      max_failures: how many photos may fail before the job is stopped; None for any number.
    """

    options: CaptionOptions
    config: Config
    beam_options: PipelineOptions
    remote: dict[str, str] | None = None
    max_failures: Limit | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Attributes:
      report: of its run.
      captions: some photos with their captions: of the run, or of earlier ones where the run had nothing to caption.
      stopped: why the run was asked to end early; None where it was not.
    """

    report: Report
    captions: list[tuple[str, str]]
    stopped: str | None


def run(job: CaptionJob, begun: Callable[[], None] = lambda: None) -> Outcome:
    """Runs a job to its end, and writes its report.

    Args:
      job: what to run.
      begun: called when the job holds the lease of its output, before any photo is listed.

    Raises:
      BeamscribeError: another job writes to the output, the output can't be written to, or the job has failed.
    """
    try:
        with _held(job):
            begun()
            _run_pipeline(job)
            return _account(job)
    except OSError as error:
        raise BeamscribeError(f"--output: can't write to {job.options.output}: {one_line(error)}") from None


@contextlib.contextmanager
def _held(job: CaptionJob) -> Iterator[None]:
    """Holds the lease of the output; an interruption asks a job to end that would go on without this process."""
    folder = job.options.folder
    with lease.hold(
        job.options.output,
        f"run {job.options.run}",
        lambda why: stopping.stop(folder, why, StopCause.TAKEN_OVER),
        job.remote,
        remote_jobs.is_running,
    ):
        try:
            yield
        except KeyboardInterrupt:
            if job.remote:
                with contextlib.suppress(OSError):
                    stopping.stop(folder, "its launcher was interrupted")
            raise


def _run_pipeline(job: CaptionJob) -> None:
    history.stop_earlier(job.options.output)
    options = dataclasses.replace(job.options, since=history.unfinished_since(job.config))
    stores.replace(layout.run_file(options.output, options.run, layout.CONFIG), job.config.to_json())
    try:
        with Progress(options.output, options.run, job.max_failures):
            beam_runner.run(CaptionArchive(options), job.beam_options)
    except Exception as error:  # noqa: BLE001 - each runner raises errors of its own kinds
        details = _write_traceback(options)
        raise BeamscribeError(
            f"the job stopped: {beam_runner.reason(error)}; committed captions stay, run it again to go on{details}"
        ) from None


def _write_traceback(options: CaptionOptions) -> str:
    """Keeps the traceback of the present error in the run's folder, and says where, if it could be kept."""
    path = layout.run_file(options.output, options.run, layout.ERROR)
    try:
        stores.replace(path, traceback.format_exc().encode())
    except OSError:
        return ""
    return f" (details: {path})"


def _account(job: CaptionJob) -> Outcome:
    """Writes the report of a job that has ended."""
    options = job.options
    if not stores.exists(frozen_plan.path_of(options.folder)):
        raise BeamscribeError("the job has ended without listing anything; the runner's own log says why")
    finished = datetime.datetime.now(datetime.UTC)
    result = report.collect(options.output, options.run, finished, retries.take())
    report.write(result, options.output)
    captions = [(sample.photo, sample.caption) for sample in result.samples[:SHOWN_CAPTIONS]]
    return Outcome(result, captions or latest_captions(options.output), stopping.reason(options.folder))


def latest_captions(output: str) -> list[tuple[str, str]]:
    """Some photos with the captions that the newest runs have given them, each photo once."""
    seen: set[str] = set()
    captions: list[tuple[str, str]] = []
    for path in reversed(layout.committed_files(output)):
        for table in rows.read_batches([path], ["photo", "caption"]):
            for photo, caption in zip(table["photo"].to_pylist(), table["caption"].to_pylist(), strict=True):
                if photo not in seen and caption is not None:
                    captions.append((photo, caption))
                if len(captions) == SHOWN_CAPTIONS:
                    return captions
                # A photo that failed last has no caption, whatever an earlier run has written.
                seen.add(photo)
    return captions


def write_template(job: CaptionJob, place: str) -> None:
    """Writes a job as a template, to be run later, or by others; leaves the output as it is.

    Raises:
      BeamscribeError: another job writes to the output, or the template can't be written.
    """
    output = job.options.output
    if holder := lease.holder_of(output, remote_jobs.is_running):
        raise BeamscribeError(f"{output} is in use: {holder} writes to it; wait for its end, or stop it")
    options = dataclasses.replace(job.options, since=history.unfinished_since(job.config))
    try:
        beam_runner.run(Unattended(CaptionArchive(options), job.config), job.beam_options)
    except Exception as error:  # noqa: BLE001 - each runner raises errors of its own kinds
        raise BeamscribeError(f"--template_location: can't write {place}: {beam_runner.reason(error)}") from None
