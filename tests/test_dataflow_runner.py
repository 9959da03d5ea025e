"""What is filled in for Dataflow, what is refused, and the account that a job without a launcher keeps."""

import dataclasses
import json
import re
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DebugOptions, GoogleCloudOptions, WorkerOptions

import beamscribe
from beamscribe.jobs import cli
from beamscribe.jobs.runners import beam_runner, dataflow_runner
from beamscribe.model import bundle
from beamscribe.model.caption_settings import CaptionSettings
from beamscribe.model.errors import InputError, OutputInUse, RunError
from beamscribe.pipelines import control
from beamscribe.pipelines.caption_archive import CaptionArchive
from beamscribe.pipelines.caption_options import CaptionOptions
from beamscribe.pipelines.control import lease
from beamscribe.pipelines.output.run_documents import BundleName
from tests import made

JOB = CaptionOptions(
    inputs=("gs://archive/photos",),
    output="gs://captions/all",
    run=made.RUN,
    bundle="",
    model="0123456789abcdef",
    settings=CaptionSettings(3, 20),
)
DATAFLOW = ("--runner", "DataflowRunner", "--project", "proj-123", "--region", "us-central1")
IMAGE = ("--sdk_container_image", "europe-docker.pkg.dev/proj-123/images/worker:1")


def filled(*arguments: str, job: CaptionOptions = JOB, gpu: str | None = None):
    options = beam_runner.pipeline_options(arguments)
    dataflow_runner.fill(options, dataclasses.replace(job, accelerator=dataflow_runner.accelerator(gpu, options)))
    return options


def test_what_is_not_said_is_filled_in():
    options = filled(*DATAFLOW, *IMAGE, gpu="nvidia-l4")
    cloud, workers = options.view_as(GoogleCloudOptions), options.view_as(WorkerOptions)
    assert cloud.job_name == "beamscribe-20260102t030405-abcdef"
    assert cloud.temp_location == "gs://captions/beamscribe-temp"
    assert (workers.machine_type, workers.disk_size_gb) == (dataflow_runner.MACHINE, 50)
    assert options.view_as(DebugOptions).number_of_worker_harness_threads == 4
    assert options.view_as(DebugOptions).experiments == ["no_use_multiple_sdk_containers"]


def test_other_runners_are_left_alone():
    options = filled("--direct_num_workers", "2")
    assert options.view_as(GoogleCloudOptions).job_name is None
    assert options.view_as(WorkerOptions).machine_type is None


@pytest.mark.parametrize("runner", ["DataflowRunner", "dataflow", "apache_beam.runners.dataflow.DataflowRunner"])
def test_dataflow_is_known_by_each_of_its_names(runner):
    assert dataflow_runner.is_chosen(beam_runner.pipeline_options(["--runner", runner]))


@pytest.mark.parametrize("gpu", [*dataflow_runner.GPU_MACHINES, "nvidia-rtx-pro-6000:g4-standard-48"])
def test_a_gpu_is_asked_for_with_its_machine(gpu):
    hint = dataflow_runner.accelerator(gpu, beam_runner.pipeline_options(DATAFLOW))
    assert re.fullmatch("type:nvidia-[a-z0-9-]+;count:1;machine_type:[a-z0-9-]+;install-nvidia-driver", hint)


@pytest.mark.parametrize(
    ("arguments", "changes", "gpu", "message"),
    [
        (DATAFLOW[:4] + IMAGE, {}, None, "--region: Dataflow needs the region to run in"),
        (DATAFLOW[:2] + DATAFLOW[4:] + IMAGE, {}, None, "--project: Dataflow needs the project to run in"),
        (
            (*DATAFLOW, *IMAGE, "--temp_location", "/tmp"),
            {},
            None,
            "--temp_location: Dataflow's workers can't reach /tmp",
        ),
        (DATAFLOW + IMAGE, {"output": "/captions"}, None, "`output`: Dataflow's workers can't reach /captions"),
        (DATAFLOW + IMAGE, {"inputs": ("gs://a/b", "/c")}, None, "`inputs`: Dataflow's workers can't reach /c"),
        (DATAFLOW + IMAGE, {"bundle": "/b"}, None, "`bundle`: Dataflow's workers can't reach /b"),
        (
            DATAFLOW,
            {},
            "nvidia-l4",
            "--sdk_container_image: `gpu` needs an image with Beamscribe and CUDA; .*docker build",
        ),
        (DATAFLOW, {}, None, "--sdk_container_image: Dataflow's workers need an image with Beamscribe; "),
        (DATAFLOW + IMAGE, {}, "l4", "`gpu` l4: choose one of nvidia-l4, "),
        (DATAFLOW + IMAGE, {}, "nvidia-h300", "`gpu` nvidia-h300: choose one of .*give its machine, too"),
        (DATAFLOW + IMAGE, {}, "nvidia-l4;count:8", "`gpu` nvidia-l4;count:8: choose one of "),
        ((*DATAFLOW, *IMAGE, "--flexrs_goal", "COST_OPTIMIZED"), {}, "nvidia-l4", "--flexrs_goal: "),
        (
            (*DATAFLOW, *IMAGE, "--dataflow_service_options", "worker_accelerator=type:nvidia-l4;count:1"),
            {},
            "nvidia-l4",
            "--dataflow_service_options: worker_accelerator excludes `gpu`",
        ),
        ((), {}, "nvidia-l4", "`gpu`: only Dataflow takes it"),
    ],
)
def test_what_can_not_work_is_refused_in_a_line(arguments, changes, gpu, message):
    with pytest.raises(InputError, match=message) as error:
        filled(*arguments, job=dataclasses.replace(JOB, **changes), gpu=gpu)
    assert "\n" not in str(error.value)


def test_the_command_refuses_too(tmp_path, make_photo, capsys):
    make_photo(tmp_path / "photos" / "1.jpg")
    photos = ["--input", str(tmp_path / "photos"), "--output", str(tmp_path / "out")]
    assert cli.main(["caption", *photos, *DATAFLOW, *IMAGE]) == 2
    assert f"--input: Dataflow's workers can't reach {tmp_path}/photos" in capsys.readouterr().err
    assert cli.main(["caption", *photos, "--gpu", "nvidia-l4"]) == 2
    assert "--gpu: only Dataflow takes it" in capsys.readouterr().err


@pytest.fixture
def unattended(tmp_path, make_photo, tiny_bundle):
    """A job as a template holds it, but on local files."""
    for index in range(3):
        make_photo(tmp_path / "photos" / f"{index}.jpg")
    found = bundle.describe(tiny_bundle)
    job = dataclasses.replace(
        JOB,
        inputs=(str(tmp_path / "photos"),),
        output=str(tmp_path / "out"),
        bundle=str(tiny_bundle),
        model=found.fingerprint,
        settings=found.settings,
    )
    config = made.config(
        inputs=job.inputs,
        output=job.output,
        bundle=BundleName(found.name, found.fingerprint),
        settings=job.settings_fingerprint,
        runner="DataflowRunner",
    )
    return dataflow_runner.Unattended(CaptionArchive(job), config)


def test_a_job_without_a_launcher_keeps_its_own_account(unattended, tmp_path):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | unattended
    folder = tmp_path / "out" / "runs" / JOB.run
    report = json.loads((folder / "report.json").read_text())
    assert (report["listed"], report["captioned"], report["balanced"]) == (3, 3, True)
    assert json.loads((folder / "config.json").read_text())["run"] == JOB.run
    assert (folder / "_SUCCESS").exists() and (folder / "report.html").exists()


def test_a_template_takes_its_number_with_its_plan_and_renews_its_lease(unattended, tmp_path):
    output = str(tmp_path / "out")
    with lease.hold(output, "me"):
        pass
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | unattended
    assert json.loads((tmp_path / "out" / "runs" / JOB.run / "plan.json").read_text())["run_number"] == 2
    assert set(beamscribe.read(output)["run_number"].to_pylist()) == {2}
    assert (tmp_path / "out" / "leases" / "00000002.beat").exists()
    # It has given the lease back.
    with lease.hold(output, "me") as held:
        assert held.number == 3
    assert not (tmp_path / "out" / "runs" / JOB.run / "closed.json").exists()


def test_a_template_does_not_begin_where_another_job_writes(unattended, tmp_path):
    with (
        lease.hold(str(tmp_path / "out"), "the other job"),
        pytest.raises(Exception, match="is in use: the other job"),
        beam.Pipeline(runner="FnApiRunner") as pipeline,
    ):
        pipeline | unattended
    assert not (tmp_path / "out" / "runs" / JOB.run / "plan.json").exists()


def test_an_attempt_that_comes_again_keeps_the_number(tmp_path):
    output = str(tmp_path)
    assert control.unattended.take(output, "x") == control.unattended.take(output, "x") == 1
    control.unattended.release(output, "y")
    with pytest.raises(OutputInUse), lease.hold(output, "me"):
        pass
    control.unattended.release(output, "x")
    assert control.unattended.take(output, "x") == 2


def test_such_a_job_fails_where_a_photo_has_no_row(unattended, tmp_path, monkeypatch):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | unattended
    for file in tmp_path.glob("out/captions/run=*/shard-*.parquet"):
        file.unlink()
    with pytest.raises(RunError, match=r"some photos have no row: .*0\.jpg"):
        dataflow_runner.write_report(unattended.config)


def test_every_gpu_is_in_the_documentation_with_its_machine():
    text = (Path(__file__).parents[1] / "docs" / "dataflow.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `nvidia-")]
    for gpu, machine in dataflow_runner.GPU_MACHINES.items():
        assert sum(f"`{gpu}`" in row and row.endswith(f"| `{machine}` |") for row in rows) == 1
