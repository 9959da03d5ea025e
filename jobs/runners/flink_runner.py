"""What the captioning job needs on Flink, and what Flink says of a job."""

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from apache_beam.options.pipeline_options import DebugOptions, FlinkRunnerOptions, PipelineOptions, PortableOptions

from beamscribe.jobs.runners import beam_internals
from beamscribe.model.errors import BeamscribeError, one_line

# How long Python workers outlive the last task that needed them, ms. Beam's default of 0 starts workers, and loads
# models, for every stage. But until this has passed Flink also keeps a worker that has died, so a restart must wait.
_WORKERS_STAY = 10_000
# Seconds in which a job manager answers.
_PATIENCE = 10.0
# What asking may raise: an error of the network, of a server that does not speak HTTP, or of one that is not Flink.
_NO_ANSWER = (OSError, ValueError, LookupError, TypeError, http.client.HTTPException)
# States that a job does not leave (org.apache.flink.api.common.JobStatus).
_ENDED = ("FINISHED", "CANCELED", "FAILED")


def complete(options: PipelineOptions) -> None:
    """Fills in what the job needs on Flink and the user did not say.

    Raises:
      BeamscribeError: no job manager answers.
    """
    portable: Any = options.view_as(PortableOptions)
    if not portable.environment_cache_millis:
        portable.environment_cache_millis = _WORKERS_STAY
    # Nothing is staged then, and the task managers need no folder that the launcher writes to.
    options.view_as(DebugOptions).add_experiment("disable_logging_submission_environment")
    address = rest_address(options)
    if address is None:
        return
    try:
        _get(address, "overview")["taskmanagers"]
    except _NO_ANSWER as error:
        reason = one_line(error.reason if isinstance(error, urllib.error.URLError) else error)
        raise BeamscribeError(
            f"--flink_master: no Flink job manager answers at {address}: {reason}; give HOST:PORT of its REST interface"
        ) from None


def rest_address(options: PipelineOptions) -> str | None:
    """URL of the job manager's REST interface; None where Beam starts a Flink of its own for the job."""
    flink: Any = options.view_as(FlinkRunnerOptions)
    return beam_internals.flink_url(flink.flink_master)


def is_running(address: str, name: str) -> bool | None:
    """Whether a cluster has a job of that name which has not ended; None where it can't be asked."""
    try:
        jobs = _get(address, "jobs/overview")["jobs"]
        return any(job["name"] == name and job["state"] not in _ENDED for job in jobs)
    except _NO_ANSWER:
        return None


def _get(address: str, path: str) -> Any:
    with urllib.request.urlopen(f"{address}/{path}", timeout=_PATIENCE) as response:
        return json.load(response)
