"""Jobs that go on where their launcher has ended, and how to ask their runners about them."""

from typing import Any


def describe(run: str, beam_options: Any) -> dict[str, str] | None:
    """Where the job of a run can be asked for; None where it ends with the launcher.

    Args:
      run: its id.
      beam_options: Beam's options of the job, which is given a name of its own where it has none.
    """
    from apache_beam.options.pipeline_options import GoogleCloudOptions, StandardOptions

    from jobs import flink_runner

    cloud = beam_options.view_as(GoogleCloudOptions)
    runner = beam_options.view_as(StandardOptions).runner
    if cloud.job_name is None:
        cloud.job_name = f"beamscribe-{run.lower()}"
    if runner == "FlinkRunner" and (address := flink_runner.rest_address(beam_options)):
        return {"runner": runner, "name": cloud.job_name, "address": address}
    if runner == "DataflowRunner":
        return {
            "runner": runner,
            "name": cloud.job_name,
            "project": cloud.project,
            "region": cloud.region,
            "endpoint": cloud.dataflow_endpoint,
        }
    return None


def is_running(job: dict[str, str]) -> bool:
    """Whether a job that `describe` gave has begun and not ended; False where its runner can't be asked."""
    from jobs import dataflow_runner, flink_runner

    if job["runner"] == "FlinkRunner":
        return flink_runner.is_running(job["address"], job["name"])
    return dataflow_runner.is_running(job["project"], job["region"], job["endpoint"], job["name"])
