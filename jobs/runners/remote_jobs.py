"""Jobs that go on where their launcher has ended, and how to ask their runners about them."""

import socket
import urllib.parse
from typing import Any


def describe(run: str, beam_options: Any) -> dict[str, str] | None:
    """Where a runner can be asked about the job of a run; None where the job ends with its launcher.

    Args:
      run: its id.
      beam_options: Beam's options of the job, changed so that no other job has its name.
    """
    from apache_beam.options.pipeline_options import GoogleCloudOptions, StandardOptions

    from beamscribe.jobs.runners import flink_runner

    cloud = beam_options.view_as(GoogleCloudOptions)
    runner = beam_options.view_as(StandardOptions).runner
    if runner == "FlinkRunner" and (address := flink_runner.rest_address(beam_options)):
        # A cluster may have many jobs of one name.
        cloud.job_name = f"{cloud.job_name or 'beamscribe'}-{run.lower()}"
        return {"runner": runner, "name": cloud.job_name, "address": address, "host": socket.gethostname()}
    if runner == "DataflowRunner":
        return {
            "runner": runner,
            "name": cloud.job_name,
            "project": cloud.project,
            "region": cloud.region,
            "endpoint": cloud.dataflow_endpoint,
        }
    return None


def is_running(job: dict[str, str]) -> bool | None:
    """Whether a job that `describe` gave has begun and not ended; None where its runner can't be asked from here."""
    from beamscribe.jobs.runners import dataflow_runner, flink_runner

    if job["runner"] == "DataflowRunner":
        return dataflow_runner.is_running(job["project"], job["region"], job["endpoint"], job["name"])
    is_local = urllib.parse.urlsplit(job["address"]).hostname in ("localhost", "127.0.0.1", "::1")
    if is_local and job["host"] != socket.gethostname():
        return None
    return flink_runner.is_running(job["address"], job["name"])
