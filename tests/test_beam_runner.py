"""What is set for a runner, and how its jobs are asked for."""

import http.server
import json
import socket
import threading

import pytest
from apache_beam.options.pipeline_options import DebugOptions, GoogleCloudOptions, PortableOptions, StandardOptions

from beamscribe.jobs.runners import beam_runner, remote_jobs
from beamscribe.model.errors import UserError


@pytest.fixture
def job_manager():
    """Address of a server that answers as Flink's REST interface does, and its jobs by name and state."""
    jobs: dict[str, str] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            overview = {"jobs": [{"name": name, "state": state} for name, state in jobs.items()]}
            body = json.dumps({"/overview": {"taskmanagers": 2}, "/jobs/overview": overview}[self.path]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"localhost:{server.server_address[1]}", jobs
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        (None, "FnApiRunner"),
        ("direct", "FnApiRunner"),
        ("DirectRunner", "FnApiRunner"),
        ("prism", "PrismRunner"),
        ("dataflow", "DataflowRunner"),
        ("apache_beam.runners.dataflow.dataflow_runner.DataflowRunner", "DataflowRunner"),
    ],
)
def test_a_runner_has_one_name(spelled, name):
    options = beam_runner.pipeline_options([f"--runner={spelled}"] if spelled else [])
    assert options.view_as(StandardOptions).runner == name


def test_workers_on_flink_stay_for_the_next_stage(job_manager):
    address, _ = job_manager
    options = beam_runner.pipeline_options(["--runner=flink", f"--flink_master={address}"])
    assert options.view_as(PortableOptions).environment_cache_millis == 10_000
    # Beam would stage a list of what is installed, through a folder that task managers need not have.
    assert options.view_as(DebugOptions).lookup_experiment("disable_logging_submission_environment")
    own = beam_runner.pipeline_options(["--runner=flink", "--flink_master=[local]", "--environment_cache_millis=5"])
    assert int(own.view_as(PortableOptions).environment_cache_millis) == 5


def test_what_is_no_flink_is_one_line():
    with socket.socket() as mute:
        mute.bind(("localhost", 0))
        with pytest.raises(UserError, match="--flink_master: no Flink answers at http://localhost"):
            beam_runner.pipeline_options(["--runner=flink", f"--flink_master=localhost:{mute.getsockname()[1]}"])
    for address in ("localhost:abc", "nowhere.invalid:8081"):
        with pytest.raises(UserError, match=f"no Flink answers at http://{address}"):
            beam_runner.pipeline_options(["--runner=flink", f"--flink_master={address}"])


def test_a_job_is_asked_for_by_a_name_of_its_own(job_manager):
    address, jobs = job_manager
    options = beam_runner.pipeline_options(["--runner=flink", f"--flink_master={address}", "--job_name=nightly"])
    job = json.loads(json.dumps(remote_jobs.describe("20260102T030405-abcdef", options)))
    assert options.view_as(GoogleCloudOptions).job_name == job["name"] == "nightly-20260102t030405-abcdef"
    jobs["nightly-of-another"] = "RUNNING"
    assert remote_jobs.is_running(job) is False
    jobs[job["name"]] = "RESTARTING"
    assert remote_jobs.is_running(job) is True
    jobs[job["name"]] = "FAILED"
    assert remote_jobs.is_running(job) is False
    # Its own cluster is none of this machine's.
    assert remote_jobs.is_running({**job, "host": "elsewhere"}) is None
    assert remote_jobs.is_running({**job, "address": "http://localhost:1"}) is None


def test_a_job_that_ends_with_its_launcher_is_not_asked_for():
    assert remote_jobs.describe("1", beam_runner.pipeline_options([])) is None
    local = beam_runner.pipeline_options(["--runner=flink", "--flink_master=[local]"])
    assert remote_jobs.describe("1", local) is None
