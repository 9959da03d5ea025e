"""What the captioning job needs on Flink, and what Flink says of a job."""

import http.client
import json
import urllib.request
from typing import Any

from apache_beam.options.pipeline_options import DebugOptions, FlinkRunnerOptions, PipelineOptions, PortableOptions
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES, FlinkRunner

from beamscribe.model.errors import UserError

# How long Python workers outlive the last task that needed them, ms. Beam's default of 0 starts workers, and loads
# models, for every stage; but until then Flink also keeps one that has died, so this must pass before a restart.
_WORKERS_STAY = 10_000
# Seconds in which a job manager answers.
_PATIENCE = 10.0
# What asking may raise: of the network, of a server that is none of HTTP, of one that is another.
_NO_ANSWER = (OSError, ValueError, LookupError, TypeError, http.client.HTTPException)
# States that a job does not leave (org.apache.flink.api.common.JobStatus).
_ENDED = ("FINISHED", "CANCELED", "FAILED")


def complete(options: PipelineOptions) -> None:
    """Fills in what the job needs on Flink and the user did not say.

    Raises:
      UserError: no job manager answers.
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
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise UserError(f"--flink_master: no Flink answers at {address}: {reason}") from None


def rest_address(options: PipelineOptions) -> str | None:
    """URL of the job manager's REST interface; None where Flink runs only within the job."""
    flink: Any = options.view_as(FlinkRunnerOptions)
    if flink.flink_master in MAGIC_HOST_NAMES:
        return None
    return FlinkRunner.add_http_scheme(flink.flink_master).rstrip("/")


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
