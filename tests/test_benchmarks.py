import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks import pipeline


def test_a_job_that_fails_ends_the_benchmark(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    before = threading.active_count()
    with pytest.raises(SystemExit, match="captioning failed with 1"):
        pipeline.caption(tmp_path, tmp_path, tmp_path)
    assert threading.active_count() == before


def test_an_error_ends_what_watches_the_gpu(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    started = time.monotonic()
    with pytest.raises(ZeroDivisionError), pipeline._gpu_use():
        raise ZeroDivisionError
    assert time.monotonic() - started < 30


def test_how_busy_the_gpu_was(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 40; echo '[N/A]'; echo 60; exec sleep 10\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pipeline._gpu_use() as use:
        time.sleep(2.0)
    assert use == [40, 60]


def test_a_process_does_not_count_its_parents_memory():
    ballast = b"x" * 2**28
    code = "from benchmarks import memory; memory.forget_peak(); x = b'x' * 2**26; print(memory.peak())"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    peak = int(done.stdout)
    assert 2**26 < peak < len(ballast)
