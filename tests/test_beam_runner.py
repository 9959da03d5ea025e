"""What is set for a runner, and how its jobs are asked for."""

import dataclasses
import http.server
import json
import os
import socket
import subprocess
import sys
import threading

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)

from beamscribe.jobs.runners import beam_runner, remote_jobs
from beamscribe.model.errors import BeamscribeError, InputError


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
        with pytest.raises(BeamscribeError, match="--flink_master: no Flink job manager answers at http://localhost"):
            beam_runner.pipeline_options(["--runner=flink", f"--flink_master=localhost:{mute.getsockname()[1]}"])
    for address in ("localhost:abc", "nowhere.invalid:8081"):
        with pytest.raises(BeamscribeError, match=f"no Flink job manager answers at http://{address}"):
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


@pytest.mark.parametrize("arguments", [["here"], ["--direct_num_workers=2", "here"]])
def test_what_no_option_takes_is_one_line(arguments):
    with pytest.raises(BeamscribeError) as error:
        beam_runner.pipeline_options(arguments)
    assert str(error.value) == "unexpected argument here: no option before it takes a value"


def test_a_runner_that_beam_has_not_is_one_line():
    with pytest.raises(BeamscribeError) as error:
        beam_runner.pipeline_options(["--runner", "Nope"])
    assert str(error.value).startswith("--runner: Beam has no runner Nope; choose one of ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--direct_num_workers", "x"], "--direct_num_workers x: must be a whole number"),
        (
            ["--direct_num_workers=-5"],
            "--direct_num_workers -5: must be a whole number from 1 on, or 0 for one on each processor",
        ),
        (["--direct_num_workers"], "--direct_num_workers: expected one argument"),
        (
            ["--direct_running_mode", "foo"],
            "--direct_running_mode foo: must be one of in_memory, multi_threading, multi_processing",
        ),
        (["--max_num_workers=many"], "--max_num_workers many: must be a whole number"),
        (
            ["--parallelism=0"],
            "--parallelism 0: must be a whole number from 1 on, or -1 for what the cluster is set to",
        ),
        (["--direct_test_splits={"], "--direct_test_splits {: must be JSON"),
        (["--streaming=7"], "--streaming: ignored explicit argument '7'"),
        (
            ["--gcs_custom_audit_entries=x"],
            "an option of Beam has a value that it can't have: Expecting value: line 1 column 1 (char 0)",
        ),
        (5, "`beam_options` 5: must be a list of texts, one for each option"),
        ([5], "`beam_options` [5]: must be a list of texts, one for each option"),
    ],
)
def test_a_value_that_an_option_can_not_have_is_one_line(arguments, line, capfd):
    with pytest.raises(InputError) as error:
        beam_runner.pipeline_options(arguments)
    assert str(error.value) == line and capfd.readouterr() == ("", "")
    if isinstance(arguments, list) and isinstance(arguments[0], str):
        with pytest.raises(InputError) as error:
            beam_runner.pipeline_options(PipelineOptions(arguments))
        assert str(error.value) == line and capfd.readouterr() == ("", "")


def test_help_of_beam_ends_nothing():
    with pytest.raises(InputError, match="unknown option --help"):
        beam_runner.pipeline_options(["--help"])


@pytest.mark.parametrize("value", ["3", True, -1, 1.5])
def test_options_that_were_not_given_as_texts_are_checked_too(value):
    with pytest.raises(InputError, match=f"^--direct_num_workers {value}: must be a whole number"):
        beam_runner.pipeline_options(PipelineOptions([], direct_num_workers=value))
    with pytest.raises(InputError, match=f"^--direct_running_mode {value}: must be one of"):
        beam_runner.pipeline_options(PipelineOptions([], direct_running_mode=value))


def test_no_number_of_workers_is_one_on_each_processor():
    assert beam_runner.workers(beam_runner.pipeline_options(["--direct_num_workers=0"])) == os.cpu_count()


# As it comes from a worker process: the first error, and another in handling it.
TRACEBACK = """Traceback (most recent call last):
  File "common.py", line 9, in process
KeyError: 3

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "x.py", line 1, in f
    f()
OSError: the disk is full [while running 'Write']

"""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a\n  b [while running 'Read/Photos (1)']"), "a b"),
        (ValueError(), "ValueError"),
        (ValueError(" [while running 'Read']"), "ValueError"),
        (RuntimeError(TRACEBACK), "OSError: the disk is full"),
        (RuntimeError(TRACEBACK.replace("the disk", "the disk\n\n  of\nall")), "OSError: the disk of all is full"),
    ],
)
def test_what_beam_raises_is_one_line(error, line):
    assert beam_runner.reason(error) == line


def test_a_long_error_is_cut():
    assert len(beam_runner.reason(ValueError("x " * 1000))) <= 300


def test_a_job_that_ends_with_its_launcher_is_not_asked_for():
    assert remote_jobs.describe("1", beam_runner.pipeline_options([])) is None
    local = beam_runner.pipeline_options(["--runner=flink", "--flink_master=[local]"])
    assert remote_jobs.describe("1", local) is None


@dataclasses.dataclass
class StartPython(beam.PTransform):
    """Starts Python, and writes to a file whether it searches the current folder."""

    path: str

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection[int]:
        return root | beam.Create([self.path]) | beam.Map(self._start)

    @staticmethod
    def _start(path: str) -> int:
        return subprocess.call(
            [sys.executable, "-c", f"import sys; open({path!r}, 'w').write(str(sys.flags.safe_path))"]
        )


@pytest.mark.parametrize(("options", "is_safe"), [([], "True"), (["--setup_file", "./setup.py"], "False")])
def test_programs_that_beam_starts_do_not_search_the_current_folder(tmp_path, monkeypatch, options, is_safe):
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    path = tmp_path / "found"
    beam_runner.run(StartPython(str(path)), beam_runner.pipeline_options(options))
    assert path.read_text() == is_safe
    assert "PYTHONSAFEPATH" not in os.environ
