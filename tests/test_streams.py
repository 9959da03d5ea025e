"""Standard streams that are closed or full, whose reader has gone, or that can't express a text."""

import os
import subprocess
import sys

import pytest

COMMANDS = ["--help", "--version", "recipes", "plan --help", "recipes show transformer"]


def run(shell: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a line of the shell in which `B` is the command."""
    line = shell.replace("B ", f"{sys.executable} -m beamscribe ")
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_reads_nothing(command):
    done = run(f"B {command} | true")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_closed_standard_output(command):
    done = run(f"B {command} >&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_standard_output(command):
    done = run(f"B {command} >/dev/full")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("beamscribe") and line.endswith(
        "can't write to the standard output: No space left on device"
    )


@pytest.mark.parametrize("end", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_a_standard_error_that_takes_nothing(end):
    done = run(f"B recipes {end}")
    assert done.returncode == 0 and "transformer" in done.stdout
    # An error can't be said.
    assert run(f"B recipes show none {end}").returncode == 2


def test_all_streams_are_closed():
    assert run("B recipes <&- >&- 2>&-").returncode == 0


def test_a_job_with_streams_that_take_nothing(tmp_path, tiny_bundle, make_photo):
    make_photo(tmp_path / "photos" / "a.jpg")
    job = f"B caption --input {tmp_path}/photos --bundle {tiny_bundle} --output {tmp_path}"
    assert run(f"{job}/1 <&- >&- 2>&-").returncode == 0
    assert run(f"{job}/2 2>/dev/full").returncode == 0
    done = run(f"{job}/3 >/dev/full")
    # The first line says how far the job is.
    assert done.returncode == 1 and "can't write to the standard output" in done.stderr.splitlines()[1]
    for name in "123":
        assert len(list((tmp_path / name / "captions").glob("*/*.parquet"))) == 1
        assert list((tmp_path / name / "runs").glob("*/_SUCCESS"))


def test_what_an_encoding_can_not_express_is_escaped(tmp_path, tiny_bundle, make_photo):
    make_photo(tmp_path / "fôtos" / "ä.jpg")
    job = f"B caption --input {tmp_path}/fôtos --bundle {tiny_bundle} --output {tmp_path}/out"
    done = run(job, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert "\\xe4.jpg" in done.stdout
    assert run("B --help", PYTHONIOENCODING="ascii").returncode == 0
