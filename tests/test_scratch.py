"""Temporary folders of jobs, and what killed jobs leave of them."""

import errno
import os
import signal
import subprocess
import sys
import tempfile

import pytest

from beamscribe.jobs.runners import scratch
from beamscribe.model import folder_lock

HOLDER = """
import time
from beamscribe.jobs.runners import scratch
from beamscribe.model import folder_lock
with scratch.folder() as path:
    open(path + "/file", "w").close()
    print(path, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_a_folder_goes_with_its_block_and_only_its_user_can_open_it(temporary):
    with scratch.folder() as path:
        assert os.path.dirname(path) == str(temporary)
        assert os.stat(path).st_mode & 0o777 == 0o700
    assert not list(temporary.iterdir())


def test_what_a_killed_job_has_left_goes_with_the_next_one(temporary):
    holders = [subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    killed, alive = (holder.stdout.readline().strip() for holder in holders)
    (temporary / "others").mkdir()
    holders[0].send_signal(signal.SIGKILL)
    holders[0].wait()
    assert os.path.exists(killed)
    with scratch.folder() as path:
        # That of a job that runs is left alone.
        assert not os.path.exists(killed) and os.path.exists(os.path.join(alive, "file"))
        assert sorted(os.listdir(temporary)) == sorted(["others", os.path.basename(alive), os.path.basename(path)])
    holders[1].kill()
    holders[1].wait()


def test_where_the_filesystem_has_no_locks_a_folder_is_made_all_the_same(temporary, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder_lock.fcntl, "flock", flock)
    with scratch.folder() as first, scratch.folder() as second:
        # Neither is taken for a left-over.
        assert os.path.isdir(first) and os.path.isdir(second)
    assert not list(temporary.iterdir())
