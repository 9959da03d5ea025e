"""The job as Dataflow gets it: Beam's own client, and a server that answers as the service does, and runs nothing."""

import http.server
import json
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import threading
import urllib.parse
import uuid
from pathlib import Path

import google.auth
import pyarrow.parquet as pq
import pytest
from apache_beam import coders
from apache_beam.internal.gcp import auth
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2

from beamscribe.jobs import cli
from beamscribe.jobs.runners import dataflow_runner
from beamscribe.pipelines import stores
from beamscribe.pipelines.caption_shard import CaptionHandler
from beamscribe.pipelines.control import lease
from beamscribe.pipelines.inference import PhotoStream
from beamscribe.pipelines.photos import PhotoRef, Shard
from beamscribe.pipelines.stores import gcs
from tests.test_caption import options_for

ROOT = Path(__file__).parents[2]
IMAGE = "europe-docker.pkg.dev/proj-123/images/beamscribe:1"
GPU = "type:nvidia-l4;count:1;machine_type:g2-standard-8;install-nvidia-driver"
ACCELERATOR = "beam:resources:accelerator:v1"


@pytest.fixture
def bucket(object_store, monkeypatch, make_photo, tmp_path) -> str:
    """URI of a bucket with a folder of three photos."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", object_store)
    # As the server knows no account, nobody may look for one.
    monkeypatch.setattr(auth._Credentials, "_credentials_init", False)
    monkeypatch.setattr(google.auth, "default", lambda *_, **__: pytest.fail("looks for credentials"))
    gcs._client.cache_clear()
    place = f"gs://dataflow-{uuid.uuid4().hex}"
    gcs._client().create_bucket(place.removeprefix("gs://"))
    for index in range(3):
        stores.replace(f"{place}/photos/{index}.jpg", make_photo(tmp_path / f"{index}.jpg").read_bytes())
    yield place
    gcs._client.cache_clear()


class Service(http.server.ThreadingHTTPServer):
    """Takes jobs, and says of each that it is done."""

    def __init__(self):
        super().__init__(("localhost", 0), _Handler)
        self.jobs: list[dict] = []
        self.begin = self.state = "JOB_STATE_DONE"

    @property
    def address(self) -> str:
        return f"http://localhost:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Service

    def do_POST(self):
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.jobs.append({"path": self.path.partition("?")[0], **job})
        created = {**self._job(job["name"]), "currentState": self.server.begin}
        self._answer({**created, "clientRequestId": job["clientRequestId"]})

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path.endswith("/messages"):
            text = {"id": "1", "messageImportance": "JOB_MESSAGE_ERROR", "messageText": "no machine has such a GPU"}
            failed = self.server.state == "JOB_STATE_FAILED"
            self._answer({"jobMessages": [{**text, "time": "2026-01-01T00:00:00Z"}] if failed else []})
        elif path.endswith("/jobs"):
            (wanted,) = urllib.parse.parse_qs(query).get("filter", ["ALL"])
            ended = wanted in ("ACTIVE", "3") and self.server.state != "JOB_STATE_RUNNING"
            self._answer({"jobs": [] if ended else [self._job(job["name"]) for job in self.server.jobs]})
        else:
            self._answer(self._job(self.server.jobs[-1]["name"]))

    def _job(self, name: str) -> dict:
        return {"id": "2026-01-01_1", "name": name, "currentState": self.server.state}

    def _answer(self, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def service():
    with Service() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def caption(bucket: str, service: Service, *options: str) -> int:
    """Runs `beamscribe caption` on Dataflow."""
    return cli.main(
        [
            *("caption", "--input", f"{bucket}/photos", "--output", f"{bucket}/out"),
            *("--runner", "DataflowRunner", "--project", "proj-123", "--region", "us-central1", "--no_auth"),
            *("--temp_location", f"{bucket}/temp", "--sdk_container_image", IMAGE),
            *("--dataflow_endpoint", service.address, *options),
        ]
    )


def staged(bucket: str) -> beam_runner_api_pb2.Pipeline:
    """The pipeline that the last job consists of."""
    paths = stores.within(f"{bucket}/temp", "**", "pipeline.pb")
    return beam_runner_api_pb2.Pipeline.FromString(stores.read(max(paths)))


def by_name(pipeline: beam_runner_api_pb2.Pipeline) -> dict[str, beam_runner_api_pb2.PTransform]:
    """Its steps that run on workers."""
    steps = pipeline.components.transforms.values()
    return {step.unique_name: step for step in steps if step.environment_id and not step.subtransforms}


def hints(pipeline: beam_runner_api_pb2.Pipeline, step: beam_runner_api_pb2.PTransform) -> dict[str, str]:
    found = pipeline.components.environments[step.environment_id].resource_hints
    return {urn: value.decode() for urn, value in found.items()}


def test_the_job_asks_for_a_gpu_where_the_model_runs_and_nowhere_else(bucket, service, tmp_path, capsys):
    copy = tmp_path / "job.json"
    assert caption(bucket, service, "--gpu", "nvidia-l4", "--dataflow_job_file", str(copy)) == 1
    output = capsys.readouterr()
    assert output.err.splitlines()[-1].startswith("beamscribe caption: the job has ended without listing anything"), (
        output.err
    )
    assert "Traceback" not in output.err

    pipeline = staged(bucket)
    steps = by_name(pipeline)
    with_gpu = {name for name, step in steps.items() if hints(pipeline, step).get(ACCELERATOR)}
    assert with_gpu == {"CaptionArchive/CaptionShards/BeamML_RunInference"}
    assert {hints(pipeline, steps[name])[ACCELERATOR] for name in with_gpu} == {GPU}
    for environment in pipeline.components.environments.values():
        assert environment.urn == common_urns.environments.DOCKER.urn
        assert beam_runner_api_pb2.DockerPayload.FromString(environment.payload).container_image == IMAGE

    (job,) = service.jobs
    assert json.loads(copy.read_text())["name"] == job["name"]
    assert job["path"] == "/v1b3/projects/proj-123/locations/us-central1/jobs"
    assert re.fullmatch(r"beamscribe-\d{8}t\d{6}-[0-9a-f]{6}", job["name"])
    assert {"beamscribe-run": job["name"].removeprefix("beamscribe-")} == job["labels"]
    environment = job["environment"]
    assert {"use_runner_v2", "no_use_multiple_sdk_containers"} <= set(environment["experiments"])
    assert "use_multiple_sdk_containers" not in environment["experiments"]
    (pool,) = environment["workerPools"]
    assert pool["machineType"] == dataflow_runner.MACHINE
    assert pool["diskSizeGb"] == 50
    assert pool["numThreadsPerWorker"] == 4
    images = pool["sdkHarnessContainerImages"]
    assert len(images) == 2 and {image["containerImage"] for image in images} == {IMAGE}
    # Workers get the package with the image: nothing of it is uploaded.
    names = {path.rpartition("/")[2] for path in stores.within(f"{bucket}/temp", "**")}
    assert names == {"pipeline.pb", "submission_environment_dependencies.txt"}


def test_no_pixels_pass_from_step_to_step(bucket, service):
    caption(bucket, service, "--gpu", "nvidia-l4")
    pipeline = staged(bucket)
    components = pipeline.components
    steps = {step.unique_name: step for step in components.transforms.values()}
    shuffle = common_urns.primitives.GROUP_BY_KEY.urn
    chain = [steps[f"CaptionArchive/{name}"] for name in ("OpenShard", "CaptionShards")]
    # One takes what the other gives, and neither shuffles.
    assert set(chain[0].outputs.values()) == set(chain[1].inputs.values())
    inside = [step for name, step in steps.items() if name.startswith("CaptionArchive/CaptionShards")]
    assert inside and not any(step.spec.urn == shuffle for step in [*chain, *inside])
    # What they pass on are Python objects: `test_what_passes_is_small` looks into them.
    kinds = {components.coders[components.pcollections[c].coder_id].spec.urn for s in chain for c in s.inputs.values()}
    assert kinds <= {common_urns.coders.BYTES.urn, "beam:coder:pickled_python:v1"}


def test_what_passes_is_small(tiny_bundle, tmp_path, make_photo):
    paths = [make_photo(tmp_path / f"{index:06d}.jpg", 400, 300) for index in range(64)]
    stream = PhotoStream(Shard(7, tuple(PhotoRef(str(path), f"{path.stat().st_size}-1") for path in paths)))
    handler = CaptionHandler(options_for(tmp_path, tmp_path / "out", tiny_bundle))
    (committed,) = handler.run_inference(stream, handler.load_model())
    assert pq.read_table(committed)["status"].to_pylist() == ["captioned"] * len(paths)
    for kind, element in ((PhotoStream, stream), (str, committed)):
        encoded = coders.registry.get_coder(kind).encode(element)
        # One photo's pixels, at the size that this model takes, are 12 kB.
        assert len(encoded) < len(paths) * 600


def test_what_the_user_says_counts(bucket, service):
    chosen = ("--machine_type", "n2-highmem-8", "--disk_size_gb", "80", "--number_of_worker_harness_threads", "7")
    others = ("--job_name", "mine", "--labels", "team=photos", "--experiments", "use_multiple_sdk_containers")
    caption(bucket, service, "--gpu", "nvidia-h200:a3-ultragpu-8g", *chosen, *others)
    (job,) = service.jobs
    assert (job["name"], job["labels"]) == ("mine", {"team": "photos"})
    assert "no_use_multiple_sdk_containers" not in job["environment"]["experiments"]
    (pool,) = job["environment"]["workerPools"]
    assert (pool["machineType"], pool["diskSizeGb"], pool["numThreadsPerWorker"]) == ("n2-highmem-8", 80, 7)
    pipeline = staged(bucket)
    found = {hints(pipeline, step).get(ACCELERATOR) for step in by_name(pipeline).values()}
    assert found == {None, "type:nvidia-h200;count:1;machine_type:a3-ultragpu-8g;install-nvidia-driver"}


def test_without_a_gpu_no_step_asks_for_anything(bucket, service):
    caption(bucket, service)
    pipeline = staged(bucket)
    assert not any(hints(pipeline, step) for step in by_name(pipeline).values())
    (pool,) = service.jobs[0]["environment"]["workerPools"]
    assert "diskSizeGb" not in pool and pool["workerHarnessContainerImage"] == IMAGE


def test_a_template_is_written_and_nothing_else(bucket, service, capsys):
    place = f"{bucket}/templates/caption"
    assert caption(bucket, service, "--gpu", "nvidia-l4", "--template_location", place) == 0
    assert f"template: {place}" in capsys.readouterr().out
    assert not service.jobs
    assert not list(stores.within(f"{bucket}/out", "**"))
    template = json.loads(stores.read(place))
    assert template["environment"]["workerPools"][0]["machineType"] == dataflow_runner.MACHINE
    pipeline = staged(bucket)
    steps = by_name(pipeline)
    assert {"Unattended/WriteConfig", "Unattended/WriteReport"} <= {*steps}
    with_gpu = {name for name, step in steps.items() if hints(pipeline, step).get(ACCELERATOR)}
    assert with_gpu == {"Unattended/CaptionArchive/CaptionShards/BeamML_RunInference"}


def test_a_detached_job_is_left_running(bucket, service, capsys):
    service.begin = service.state = "JOB_STATE_RUNNING"
    assert caption(bucket, service, "--detach") == 0
    assert re.search(r"^running:  beamscribe-\S+; `beamscribe stop` asks", capsys.readouterr().out, re.MULTILINE)
    assert len(service.jobs) == 1
    assert {"Unattended/WriteConfig", "Unattended/WriteReport"} <= {*by_name(staged(bucket))}
    # It holds the output.
    assert caption(bucket, service) == 4
    assert caption(bucket, service, "--detach", "--max-failures", "1") == 2


def test_no_template_is_begun_where_another_job_writes(bucket, service, capsys):
    with lease.hold(f"{bucket}/out", "run 1"):
        assert caption(bucket, service, "--template_location", f"{bucket}/template") == 4
    assert f"{bucket}/out is in use: run 1 " in capsys.readouterr().err
    assert not stores.exists(f"{bucket}/template")


def test_a_job_that_fails_says_why(bucket, service, capsys):
    service.begin, service.state = "JOB_STATE_PENDING", "JOB_STATE_FAILED"
    assert caption(bucket, service) == 1
    error = capsys.readouterr().err
    last = error.splitlines()[-1]
    assert "the job stopped: Dataflow pipeline failed. State: FAILED, Error: no machine has such a GPU;" in last, error
    assert "Traceback" not in error


def test_whether_a_job_still_runs_can_be_asked(bucket, service):
    caption(bucket, service, "--job_name", "mine")
    ask = ("proj-123", "us-central1", service.address)
    assert not dataflow_runner.is_running(*ask, "mine")
    service.state = "JOB_STATE_RUNNING"
    assert dataflow_runner.is_running(*ask, "mine") and not dataflow_runner.is_running(*ask, "others")
    assert not dataflow_runner.is_running("proj-123", "us-central1", "http://localhost:9", "mine")


def test_the_package_can_travel_with_the_job(bucket, service, tmp_path):
    # As users without an image do it.
    setup = ("--sdk_container_image", "", "--setup_file", str(ROOT / "setup.py"))
    caption(bucket, service, *setup)
    (package,) = (path for path in stores.within(f"{bucket}/temp", "**") if path.endswith("workflow.tar.gz"))
    (tmp_path / "package").write_bytes(stores.read(package))
    with tarfile.open(tmp_path / "package") as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {
        f"beamscribe/{name}"
        for name in ("jobs/cli.py", "model/default_bundle/bundle.json", "pipelines/sources/tars.py")
    } <= names


def test_a_flex_template_begins_the_job(bucket, service, object_store, tmp_path):
    main = ROOT / "jobs" / "dataflow" / "main.py"
    place = f"{bucket}/launches/1/job_object"
    # As Dataflow's launcher starts it.
    given = ["--runner=DataflowRunner", "--project=proj-123", "--region=us-central1", f"--template_location={place}"]
    given += [f"--temp_location={bucket}/temp", f"--staging_location={bucket}/staging", "--job_name=nightly"]
    given += ['--labels={"goog-dataflow-provided-template-type": "flex"}', "--max_num_workers=20", "--no_auth"]
    given += [f"--dataflow_endpoint={service.address}"]
    parameters = [
        f"--input={bucket}/photos",
        f"--output={bucket}/out",
        "--gpu=nvidia-l4",
        "--beam_width=5",
        "--bundle=",
    ]
    environment = {"STORAGE_EMULATOR_HOST": object_store, "BEAMSCRIBE_WORKER_IMAGE": IMAGE, "NO_GCE_CHECK": "true"}
    command = [sys.executable, str(main), *given, *parameters]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    template = json.loads(stores.read(place))
    assert template["name"] == "nightly" and template["labels"] == {"goog-dataflow-provided-template-type": "flex"}
    (pool,) = template["environment"]["workerPools"]
    assert {image["containerImage"] for image in pool["sdkHarnessContainerImages"]} == {IMAGE}
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 20


@pytest.mark.skipif(not shutil.which("gcloud"), reason="Google's command is not installed")
def test_the_specification_is_what_gcloud_would_write(tmp_path):
    metadata = ROOT / "jobs" / "dataflow" / "metadata.json"
    command = ["gcloud", "dataflow", "flex-template", "build", "gs://bucket/template.json", "--image", IMAGE]
    command += ["--sdk-language", "PYTHON", "--metadata-file", str(metadata), "--print-only", "--project", "proj-123"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    written = json.loads(done.stdout.removeprefix("|-\n"))
    script = runpy.run_path(str(metadata.with_name("template.py")))
    assert written == script["specification"](json.loads(metadata.read_text()), IMAGE)
