"""A captioning job from the lease to the report, or to its submission; `caption_function` makes it of arguments."""

import contextlib
import dataclasses
import datetime
import logging
import threading
import traceback
from collections.abc import Callable, Iterator

from apache_beam.options.pipeline_options import PipelineOptions

from beamscribe.jobs.runners import beam_runner, dataflow_runner, remote_jobs
from beamscribe.jobs.runners.dataflow_runner import Unattended
from beamscribe.model.errors import BeamscribeError, InputError, OutputInUse, RunError, Stopped, one_line
from beamscribe.pipelines import stores
from beamscribe.pipelines.caption_archive import CaptionArchive
from beamscribe.pipelines.caption_options import CaptionOptions
from beamscribe.pipelines.control import closing, history, lease, stopping, verdict
from beamscribe.pipelines.control.lease import Heartbeat
from beamscribe.pipelines.control.progress import Follower, Limit, Progress
from beamscribe.pipelines.output import frozen_plan, layout, report
from beamscribe.pipelines.output.run_documents import Config, Report, StopCause
from beamscribe.pipelines.stores import retries

_LOGGER = logging.getLogger(__name__)

# Seconds between two attempts to ask the workers to stop.
_RETRY_SECONDS = 5.0


@dataclasses.dataclass
class CaptionJob:
    """What a run captions, and on what it runs. The run gets its number, and an id that says it, when it begins.

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

    def begin(self, number: int) -> None:
        """Gives the run the number that was taken with the lease."""
        run = layout.numbered(self.options.run, number)
        self.options = dataclasses.replace(self.options, run=run, run_number=number)
        self.config = self.config.model_copy(update={"run": run, "run_number": number})


def run(
    job: CaptionJob, progress: Callable[[Progress], None] | None = None, stop: threading.Event | None = None
) -> Report:
    """Runs a job to its end, and writes and returns its report.

    Args:
      job: what to run.
      progress: called, from another thread, with each change of how far the job is.
      stop: an event that stops the run early once it is set.

    Raises:
      OutputInUse: another job writes to the output, or has taken it over.
      NoPhotos, TooManyFailures, Stopped, RunError: see `control.verdict`; an error of the pipeline is a `RunError`.
      BeamscribeError: the output can't be written to.
    """
    with _writable(job), _held(job) as heartbeat:
        if stop and stop.is_set():
            raise Stopped("stopped before any photo was captioned; run it again to go on")
        _announce(job)
        _run_pipeline(job, progress, stop)
        return _account(job, heartbeat)


@contextlib.contextmanager
def _writable(job: CaptionJob) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BeamscribeError(f"`output`: can't write to {job.options.output}: {one_line(error)}") from error


@contextlib.contextmanager
def _held(job: CaptionJob) -> Iterator[Heartbeat]:
    """Holds the lease of the output. Where an exception interrupts the launcher, workers take no more shards."""
    ended = threading.Event()

    def lost(why: str) -> None:
        # Where the store is gone for a while, this request can't be written either.
        while not _is_stopped(job.options.folder, why, StopCause.TAKEN_OVER) and not ended.wait(_RETRY_SECONDS):
            pass

    run = job.options.run
    with lease.hold(job.options.output, f"run {run}", lost, job.remote, remote_jobs.is_running, run) as heartbeat:
        job.begin(heartbeat.number)
        try:
            yield heartbeat
        except KeyboardInterrupt:
            _interrupt(job.options.folder)
            raise
        finally:
            ended.set()


def _interrupt(folder: str) -> None:
    _is_stopped(folder, "its launcher was interrupted", StopCause.ASKED)


def _is_stopped(folder: str, why: str, cause: StopCause) -> bool:
    """Asks a run to stop; returns whether the request could be written, and logs why not."""
    try:
        stopping.stop(folder, why, cause)
    except OSError as error:
        _LOGGER.warning("can't ask the workers to stop: %s", one_line(error))
        return False
    return True


def _announce(job: CaptionJob) -> None:
    if console := dataflow_runner.console(job.beam_options):
        _LOGGER.info("job: %s", console)


def _run_pipeline(job: CaptionJob, progress: Callable[[Progress], None] | None, stop: threading.Event | None) -> None:
    options = dataclasses.replace(job.options, since=history.unfinished_since(job.config))
    stores.replace(layout.run_file(options.output, options.run, layout.CONFIG), job.config.to_json())
    try:
        with Follower(options.output, options.run, job.max_failures, stop, progress):
            beam_runner.run(CaptionArchive(options), job.beam_options, lambda: _interrupt(options.folder))
    except Exception as error:
        if closing.is_closed(options.output, options.run):
            raise OutputInUse(verdict.taken_over(options.output)) from error
        details = _write_traceback(options)
        _LOGGER.debug("the job stopped", exc_info=error)
        raise RunError(
            f"the job stopped: {beam_runner.reason(error)}; committed captions stay, run it again to go on{details}"
        ) from error


def _write_traceback(options: CaptionOptions) -> str:
    """Keeps the traceback of the present error in the run's folder, and says where, if it could be kept."""
    path = layout.run_file(options.output, options.run, layout.ERROR)
    try:
        stores.replace(path, traceback.format_exc().encode())
    except OSError:
        return ""
    return f" (details: {path})"


def _account(job: CaptionJob, heartbeat: Heartbeat) -> Report:
    """Writes and returns the report of a job that has ended; raises where the run has not succeeded."""
    options = job.options
    if not stores.exists(frozen_plan.path_of(options.folder)):
        raise RunError("the job has ended without listing anything; the runner's own log says why")
    finished = datetime.datetime.now(datetime.UTC)
    result = report.collect(options.output, options.run, finished, retries.take())
    request = stopping.request(options.folder)
    error = verdict.error_of(result, request, job.max_failures, job.config.allow_empty, heartbeat.problem)
    report.write(result, options.output, success=error is None)
    if error:
        raise error
    return result


def submit(job: CaptionJob) -> None:
    """Starts a job that goes on without this process, and that writes its own report.

    Raises:
      InputError: the job's runner runs no job without its launcher.
      OutputInUse: another job writes to the output.
      RunError: the job could not be started.
      BeamscribeError: the output can't be written to.
    """
    if not job.remote:
        raise InputError("`detach`: only jobs on Flink and Dataflow go on without this process; leave it out")
    if job.max_failures:
        raise InputError("`max_failures`: nobody counts the failures of a job with `detach`; leave one of them out")
    with _writable(job), _held(job):
        _announce(job)
        try:
            beam_runner.submit(_unattended(job), job.beam_options, lambda: remote_jobs.is_running(job.remote or {}))
        except Exception as error:
            raise RunError(f"the job could not be started: {beam_runner.reason(error)}") from error


def write_template(job: CaptionJob, place: str) -> None:
    """Writes a job as a template, to be run later, or by others; leaves the output as it is.

    Raises:
      InputError: an option needs a launcher, which a template's job does not have.
      OutputInUse: another job writes to the output.
      BeamscribeError: the template can't be written.
    """
    if job.max_failures:
        raise InputError("`max_failures`: a template's job has no launcher that counts its failures; leave it out")
    output = job.options.output
    if holder := lease.holder_of(output, remote_jobs.is_running):
        raise OutputInUse(f"{output} is in use: {holder} writes to it; wait for its end, or stop it")
    try:
        beam_runner.run(_unattended(job), job.beam_options)
    except Exception as error:
        raise BeamscribeError(f"--template_location: can't write {place}: {beam_runner.reason(error)}") from error


def _unattended(job: CaptionJob) -> Unattended:
    options = dataclasses.replace(job.options, since=history.unfinished_since(job.config))
    return Unattended(CaptionArchive(options), job.config)
