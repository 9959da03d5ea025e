"""The direct runner's workers that are processes: what happens where one dies, and where what they log goes."""

import concurrent.futures
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import apache_beam as beam
import psutil
import pytest

import beamscribe
from beamscribe.jobs.runners import beam_runner, worker_logs
from beamscribe.model.errors import RunError
from beamscribe.pipelines import failures
from beamscribe.pipelines.failures import Stage
from beamscribe.pipelines.output import layout
from tests.test_crash import wait_for_none

TWO = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
THREADS = ("--direct_num_workers=2", "--direct_running_mode=multi_threading")


@pytest.fixture
def photos(tmp_path, make_photo) -> Path:
    for index in range(100):
        make_photo(tmp_path / "photos" / f"{index:03d}.jpg")
    return tmp_path / "photos"


def workers_of(launcher: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in launcher.children():
        try:
            # Until the shell has become the worker, it is none.
            if "beamscribe.jobs.runners.worker_process" in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found


def kill_one(launcher: psutil.Process, output: Path, commits: int, number: int = signal.SIGKILL) -> psutil.Process:
    """Kills a worker once so many shards are committed; returns the other one."""
    end = time.monotonic() + 120
    while len(workers := workers_of(launcher)) < 2 or len(layout.committed_files(str(output))) < commits:
        assert time.monotonic() < end
        time.sleep(0.02)
    workers[0].send_signal(number)
    return workers[1]


@pytest.mark.parametrize("commits", [0, 2])
def test_a_worker_that_dies_ends_its_run_and_no_more(photos, tmp_path, tiny_bundle, capfd, commits):
    def caption():
        return beamscribe.caption(
            photos, tmp_path / "out", bundle=tiny_bundle, shard_size=4, batch_size=4, beam_options=TWO
        )

    hook, own = threading.excepthook, subprocess.Popen(["sleep", "600"])
    with concurrent.futures.ThreadPoolExecutor() as executor:
        other = executor.submit(kill_one, psutil.Process(), tmp_path / "out", commits)
        began = time.monotonic()
        with pytest.raises(RunError) as error:
            caption()
        assert time.monotonic() - began < 60
    expected = (
        "the job stopped: a worker process died of SIGKILL; committed captions stay, run it again to go on (details"
    )
    assert str(error.value).startswith(expected) and "\n" not in str(error.value)
    assert threading.excepthook is hook
    assert not other.result().is_running() and workers_of(psutil.Process()) == []
    assert own.poll() is None
    own.kill()
    own.wait()
    # The thread that ran the pipeline has ended, too.
    assert [thread.name for thread in threading.enumerate() if thread.name in ("pipeline", "worker process")] == []
    report = caption()
    assert report.captioned + report.skipped == 100 and bool(report.skipped) == bool(commits)
    assert capfd.readouterr().err == ""


def test_the_command_ends_with_one_line(photos, tmp_path, tiny_bundle):
    given = [
        "--input",
        photos,
        "--output",
        tmp_path / "out",
        "--bundle",
        tiny_bundle,
        "--shard-size",
        "4",
        "--quiet",
        *TWO,
    ]
    command = [sys.executable, "-m", "beamscribe", "caption", *map(str, given)]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    kill_one(psutil.Process(job.pid), tmp_path / "out", 1, signal.SIGSEGV)
    out, error = job.communicate(timeout=60)
    assert job.returncode == 1 and out == ""
    assert error.startswith("beamscribe caption: the job stopped: a worker process died of SIGSEGV; ")
    assert error.count("\n") == 1
    wait_for_none(job.pid)


class Steps(beam.PTransform):
    """Runs a function of this module on numbers, in all workers."""

    def __init__(self, function):
        super().__init__()
        self._function = function

    def expand(self, root):
        return root | beam.Create(range(40)) | beam.Reshuffle() | beam.Map(self._function)


def log_much(number: int) -> None:
    # Both workers have to take part.
    time.sleep(0.05)
    logging.getLogger("beamscribe.pipelines.x").warning("number %d of process %d", number, os.getpid())
    logging.getLogger("other").warning("a warning of a library")
    logging.getLogger("other").error("an error of a library")
    failures.of_error(Stage.CAPTION, MemoryError("too many photos"))
    try:
        raise TypeError(f"a fault\nof two lines: {number}")
    except TypeError as error:
        failures.of_fault(Stage.CAPTION, error)


def fail(number: int) -> None:
    raise OSError(f"the disk\nis full: {number}")


@pytest.fixture
def importable(monkeypatch):
    """Lets workers import this module."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


@pytest.fixture
def logged():
    """The records that this process logs: pytest's own handlers keep the filters that the command gives them."""
    found: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = found.append
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    yield found
    root.removeHandler(handler)


def messages(records: list[logging.LogRecord]) -> list[str]:
    return [record.getMessage() for record in records]


def test_logs_of_workers_are_those_of_one_process(importable, logged, capfd):
    beam_runner.run(Steps(log_much), beam_runner.pipeline_options(TWO))
    by_name = {record.name: record for record in logged}
    assert set(by_name) == {"beamscribe.pipelines.x", "other", "beamscribe.pipelines.failures"}
    said = messages(logged)
    assert len({message.split()[-1] for message in said if message.startswith("number ")}) == 2
    assert said.count("an error of a library") == 40 and "a warning of a library" not in said
    faults = [record for record in logged if record.name == "beamscribe.pipelines.failures"]
    warning, fault = sorted(faults, key=lambda record: record.levelno)
    assert warning.getMessage() == "the model failed on photos: MemoryError: too many photos"
    assert fault.getMessage().startswith(
        "a fault of Beamscribe in the stage caption: TypeError: a fault of two lines: "
    )
    text = logging.Formatter().format(fault)
    assert text.splitlines()[1] == "Traceback (most recent call last):" and ", in log_much\n    raise TypeError" in text
    assert capfd.readouterr().err == ""


def test_who_wants_to_know_more_is_told_more(importable, logged):
    logging.getLogger().setLevel(logging.INFO)
    beam_runner.run(Steps(log_much), beam_runner.pipeline_options(TWO))
    assert messages(logged).count("a warning of a library") == 40
    assert any(record.name.startswith("apache_beam.") and record.process != os.getpid() for record in logged)


@pytest.mark.parametrize("options", [TWO, THREADS, ()])
def test_an_error_is_raised_and_not_logged(importable, logged, capfd, options):
    with pytest.raises(Exception, match="the disk") as error:
        beam_runner.run(Steps(fail), beam_runner.pipeline_options(options))
    assert "the disk is full: " in beam_runner.reason(error.value)
    assert logged == [] and capfd.readouterr().err == ""
    logging.getLogger().setLevel(logging.INFO)
    with pytest.raises(Exception, match="the disk"):
        beam_runner.run(Steps(fail), beam_runner.pipeline_options(options))
    assert "is full" in " ".join(messages(logged))


def test_the_users_options_stay_as_they_are(importable):
    options = beam_runner.pipeline_options(TWO)
    for _ in range(2):
        beam_runner.run(Steps(str), options)
        assert options.get_all_options()["direct_running_mode"] == "multi_processing"


@pytest.mark.parametrize("options", [TWO, THREADS, ()])
def test_each_run_logs_each_kind_of_fault(importable, logged, options):
    for runs in (1, 2):
        beam_runner.run(Steps(log_much), beam_runner.pipeline_options(options))
        assert sum("a fault of Beamscribe" in message for message in messages(logged)) == runs


def test_a_job_that_does_not_end_after_a_death_is_left_alone(monkeypatch):
    monkeypatch.setattr(beam_runner, "_UNWIND_SECONDS", 0.1)
    left = threading.Event()

    def hang(died):
        died("a worker died")
        left.wait()

    with pytest.raises(RuntimeError, match="a worker died"):
        beam_runner._run_in_thread(hang, None)
    left.set()


def test_a_record_passes_whole():
    try:
        raise ValueError("wrong")
    except ValueError:
        record = logging.LogRecord("x.y", logging.ERROR, "/a.py", 7, "%s\n%d", ("a", 2), sys.exc_info(), "f")
    got = []
    logger = logging.getLogger("x.y")
    logger.addFilter(got.append)
    try:
        worker_logs.Replay()(worker_logs.packed(record))
    finally:
        logger.removeFilter(got.append)
    (found,) = got
    assert found.getMessage() == "a\n2" and (found.levelno, found.lineno, found.funcName) == (logging.ERROR, 7, "f")
    assert found.exc_text.startswith("Traceback (most recent call last):\n") and found.exc_text.endswith("wrong")
