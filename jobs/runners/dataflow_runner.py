"""What a job on Google Cloud's Dataflow needs, filled in where the user does not say it.

docs/dataflow.md has each choice with the source that it rests on.
"""

import dataclasses
import datetime
import os
import re
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.pvalue import AsIter

from beamscribe.jobs.runners import beam_internals
from beamscribe.model.errors import InputError, Stopped
from beamscribe.pipelines import stores
from beamscribe.pipelines.caption_archive import CaptionArchive
from beamscribe.pipelines.caption_options import CaptionOptions
from beamscribe.pipelines.control import stopping, unattended, verdict
from beamscribe.pipelines.output import layout, report
from beamscribe.pipelines.output.run_documents import Config
from beamscribe.pipelines.stores import retries

# Each GPU that Dataflow has and TensorFlow can use, and a machine that carries one of it.
GPU_MACHINES = {
    "nvidia-l4": "g2-standard-8",
    "nvidia-tesla-t4": "n1-standard-8",
    "nvidia-tesla-p4": "n1-standard-8",
    "nvidia-tesla-p100": "n1-standard-8",
    "nvidia-tesla-v100": "n1-standard-8",
    "nvidia-tesla-a100": "a2-highgpu-1g",
    "nvidia-a100-80gb": "a2-ultragpu-1g",
    "nvidia-h100-80gb": "a3-highgpu-1g",
}
# For the workers without a GPU: image processes and the model use every processor of a machine, and 2 GB of memory.
MACHINE = "n2-standard-4"
# The least that Dataflow's documentation recommends, since images with CUDA are large.
GPU_DISK_GB = 50
# Shards that a worker has in hand: while the photos of one are captioned, the first of another are read.
THREADS = 4
# One process per worker, so that there is one model on a GPU, and one pool of image processes for the processors.
ONE_PROCESS = "no_use_multiple_sdk_containers"

# Seconds in which Dataflow answers which jobs it has.
PATIENCE = 20.0

BUILD_IMAGE = "docs/dataflow.md says how; docker build --file jobs/dataflow/Dockerfile --target worker . builds one"


def is_chosen(options: PipelineOptions) -> bool:
    """Whether the runner is Dataflow's."""
    runner: Any = options.view_as(StandardOptions).runner
    return runner == "DataflowRunner"


def accelerator(gpu: str | None, options: PipelineOptions) -> str | None:
    """The resource hint of the step that needs a GPU.

    Args:
      gpu: `nvidia-l4`, say, or with the machine to use, `nvidia-l4:g2-standard-32`; None for none.
      options: Beam's.

    Raises:
      InputError: the runner gives its workers no GPUs, or has none of that name, as far as is known.
    """
    if gpu is None:
        return None
    if not is_chosen(options):
        raise InputError("`gpu`: only Dataflow takes it; leave it out: elsewhere, workers use the GPU of their machine")
    name, _, machine = gpu.partition(":")
    if not re.fullmatch("nvidia-[a-z0-9-]+(:[a-z0-9-]+)?", gpu) or not (machine or name in GPU_MACHINES):
        raise InputError(
            f"`gpu` {gpu}: choose one of {', '.join(GPU_MACHINES)}; for another GPU, give its machine, too: GPU:MACHINE"
        )
    return f"type:{name};count:1;machine_type:{machine or GPU_MACHINES[name]};install-nvidia-driver"


def fill(options: PipelineOptions, job: CaptionOptions) -> None:
    """Sets what a job on Dataflow needs, where the user did not; leaves one on other runners alone.

    Args:
      options: Beam's, as the user gave them; changed.
      job: what to caption.

    Raises:
      InputError: an option is missing that can't be guessed, or names a place that the workers can't reach.
    """
    if not is_chosen(options):
        return
    cloud: Any = options.view_as(GoogleCloudOptions)
    workers: Any = options.view_as(WorkerOptions)
    debug: Any = options.view_as(DebugOptions)
    _check(options, job)
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        beam_internals.look_for_no_credentials()
    name = re.sub("[^a-z0-9-]", "-", job.run.lower())
    cloud.job_name = cloud.job_name or f"beamscribe-{name}"
    cloud.labels = cloud.labels or [f"beamscribe-run={name}"]
    cloud.temp_location = cloud.temp_location or f"{_bucket(job.output)}/beamscribe-temp"
    workers.machine_type = workers.machine_type or MACHINE
    if job.accelerator:
        workers.disk_size_gb = workers.disk_size_gb or GPU_DISK_GB
    debug.number_of_worker_harness_threads = debug.number_of_worker_harness_threads or THREADS
    if not {ONE_PROCESS, "use_multiple_sdk_containers"} & set(debug.experiments or ()):
        debug.add_experiment(ONE_PROCESS)


def _check(options: PipelineOptions, job: CaptionOptions) -> None:
    cloud: Any = options.view_as(GoogleCloudOptions)
    for name in ("project", "region"):
        if not getattr(cloud, name):
            raise InputError(f"--{name}: Dataflow needs the {name} to run in; give --{name} …")
    places = [("`inputs`", uri) for uri in job.inputs] + [("`output`", job.output)]
    places += [("`bundle`", job.bundle)] if job.bundle else []
    places += [(f"--{name}", getattr(cloud, name) or job.output) for name in ("temp_location", "staging_location")]
    for option, uri in places:
        if not uri.startswith("gs://"):
            raise InputError(f"{option}: Dataflow's workers can't reach {uri}; give a URI of Cloud Storage: gs://…")
    setup: Any = options.view_as(SetupOptions)
    workers: Any = options.view_as(WorkerOptions)
    image = workers.sdk_container_image or workers.worker_harness_container_image
    if job.accelerator and not image:
        raise InputError(f"--sdk_container_image: `gpu` needs an image with Beamscribe and CUDA; {BUILD_IMAGE}")
    if not (image or setup.setup_file or setup.extra_packages):
        raise InputError(
            f"--sdk_container_image: Dataflow's workers need an image with Beamscribe; {BUILD_IMAGE}"
            " (from a checkout, --setup_file ./setup.py works without an image, but starts more slowly)"
        )
    if job.accelerator and cloud.flexrs_goal:
        raise InputError("--flexrs_goal: FlexRS can't give GPUs to single steps; leave out either it or `gpu`")
    if job.accelerator and any("worker_accelerator" in option for option in cloud.dataflow_service_options or ()):
        raise InputError("--dataflow_service_options: worker_accelerator excludes `gpu`; leave out one of the two")


def _bucket(uri: str) -> str:
    return "/".join(uri.split("/")[:3])


def template(options: PipelineOptions) -> str | None:
    """Where the job is to be written as a template, to run later and without its launcher; None where it runs now."""
    cloud: Any = options.view_as(GoogleCloudOptions)
    return cloud.template_location if is_chosen(options) else None


def console(options: PipelineOptions) -> str | None:
    """Where a job on Dataflow can be looked at; None where it is not one."""
    cloud: Any = options.view_as(GoogleCloudOptions)
    if not is_chosen(options):
        return None
    return f"{cloud.job_name}, on https://console.cloud.google.com/dataflow/jobs?project={cloud.project}"


def is_running(project: str, region: str, endpoint: str, name: str) -> bool | None:
    """Whether Dataflow has a job of that name which has not ended; None where it can't be asked."""
    from google.api_core.client_options import ClientOptions
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import dataflow

    # As Beam's own client tells a stand-in from the service.
    local = "localhost" in endpoint
    try:
        client = dataflow.JobsV1Beta3Client(
            credentials=AnonymousCredentials() if local else None,
            client_options=ClientOptions(api_endpoint=endpoint if local else endpoint.removeprefix("https://")),
            transport="rest" if local else None,
        )
        request = dataflow.ListJobsRequest(
            project_id=project, location=region, name=name, filter=dataflow.ListJobsRequest.Filter.ACTIVE
        )
        return any(job.name == name for job in client.list_jobs(request, timeout=PATIENCE))
    except Exception:  # noqa: BLE001 - errors of credentials, of the network and of the service have no common base
        return None


@dataclasses.dataclass
class Unattended(beam.PTransform):
    """A job whose launcher does not wait for it, so that the job itself writes the configuration and the report.

    Attributes:
      job: what to do.
      config: of its run.
    """

    job: CaptionArchive
    config: Config

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection[None]:
        """From nothing to one None, when the report is written."""
        _ = root | "Config" >> beam.Create([self.config]) | "WriteConfig" >> beam.Map(write_config)
        committed = root | "CaptionArchive" >> self.job
        # The side input makes it wait for the last commit.
        return (
            root
            | "Run" >> beam.Create([self.config])
            | "AfterCommits" >> beam.Map(lambda config, _: config, AsIter(committed))
            | "WriteReport" >> beam.Map(write_report)
        )


def write_config(config: Config) -> None:
    """Writes a run's `config.json`, where there is none."""
    stores.create(layout.run_file(config.output, config.run, layout.CONFIG), config.to_json())


def write_report(config: Config) -> None:
    """Writes a run's report.

    Raises:
      BeamscribeError: the run has not succeeded; the job then fails. A run that was stopped on purpose has not failed.
    """
    write_config(config)
    finished = datetime.datetime.now(datetime.UTC)
    result = report.collect(config.output, config.run, finished, retries.take())
    request = stopping.request(layout.run_folder(config.output, config.run))
    error = verdict.error_of(result, request, allow_empty=config.allow_empty)
    report.write(result, config.output, success=error is None)
    unattended.release(config.output, config.run)
    if error and not isinstance(error, Stopped):
        raise error
