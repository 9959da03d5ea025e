"""What SIGINT and SIGTERM do to the command: one line, nothing left running, and the process dies by the signal."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

import beamscribe
from beamscribe.jobs import interruption
from beamscribe.jobs.interruption import Interrupted, Interruption

# A command whose model says when it is called, and takes a while for each batch.
SLOW = """
import pathlib, sys, time
from beamscribe.jobs import entry
from beamscribe.model.captioners.exported_model import CaptionModel
caption = CaptionModel.caption
def slowly(*arguments):
    pathlib.Path({called!r}).touch()
    time.sleep({seconds})
    return caption(*arguments)
CaptionModel.caption = slowly
entry.main()
"""


@pytest.fixture
def start(tmp_path, tiny_bundle, make_photo):
    """Starts to caption 60 photos in shards of 4, in a session of its own, as on a terminal."""
    for index in range(60):
        make_photo(tmp_path / "photos" / f"{index:02d}.jpg")

    def run(*more: str, seconds: float = 0.5, wrapper: tuple[str, ...] = ()) -> subprocess.Popen:
        options = ["--input", tmp_path / "photos", "--output", tmp_path / "out", "--bundle", tiny_bundle]
        script = SLOW.format(called=str(tmp_path / "called"), seconds=seconds)
        command = [*wrapper, sys.executable, "-c", script, "caption", *options, "--shard-size", "4"]
        return subprocess.Popen(
            [*map(str, command), *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # A process in the background may have it ignored.
            preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in interruption.SIGNALS],
        )

    return run


def wait_for(folder: Path, pattern: str = "out/captions/*/*.parquet") -> None:
    end = time.monotonic() + 120
    while not list(folder.glob(pattern)):
        assert time.monotonic() < end
        time.sleep(0.05)


def left_in(session: int) -> list[list[str]]:
    """The command lines of the processes of a session that go on; one that is ending gets a moment."""
    end = time.monotonic() + 2
    while (found := _in_session(session)) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def _in_session(session: int) -> list[list[str]]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.cmdline())
        except (psutil.Error, OSError):
            continue
    return found


def check_the_end(process: subprocess.Popen, number: signal.Signals) -> None:
    said = process.communicate(timeout=60)[0]
    assert process.returncode == -number
    line = f"beamscribe caption: stopped by {number.name}; committed captions stay, run the same command again to go on"
    assert said.strip() == line
    assert left_in(process.pid) == []


@pytest.mark.parametrize(
    ("number", "whole_group"),
    [
        (signal.SIGINT, True),
        (signal.SIGINT, False),
        (signal.SIGTERM, True),
        (signal.SIGTERM, False),
        (signal.SIGHUP, True),
    ],
)
def test_open_shards_are_committed(start, tmp_path, number, whole_group):
    process = start()
    wait_for(tmp_path)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    check_the_end(process, number)
    # Every row is that of a whole shard, and no photo was lost to a process that died by the signal.
    table = beamscribe.read(tmp_path / "out", ["status"])
    assert 0 < table.num_rows < 60
    assert set(table["status"].to_pylist()) == {"captioned"}
    (run,) = (tmp_path / "out" / "runs").iterdir()
    assert (run / "report.json").exists() and not (run / "_SUCCESS").exists()


def test_a_worker_process_finishes_its_shard_too(start, tmp_path, make_photo):
    # Worker processes have the model as it is: many photos take a while, too.
    data = make_photo(tmp_path / "photo.jpg").read_bytes()
    for index in range(1000):
        (tmp_path / "photos" / f"more-{index:04d}.jpg").write_bytes(data + index.to_bytes(2, "big"))
    process = start("--direct_num_workers", "2", "--direct_running_mode", "multi_processing", seconds=0.0)
    wait_for(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    check_the_end(process, signal.SIGINT)


def test_a_second_signal_ends_at_once(start, tmp_path):
    process = start(seconds=30.0)
    wait_for(tmp_path, "called")
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1.0)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    check_the_end(process, signal.SIGINT)
    assert time.monotonic() - began < interruption.GRACE_SECONDS


def test_shards_that_take_too_long_are_dropped(start, tmp_path):
    process = start(seconds=60.0)
    wait_for(tmp_path, "called")
    began = time.monotonic()
    process.terminate()
    check_the_end(process, signal.SIGTERM)
    assert interruption.GRACE_SECONDS - 1 < time.monotonic() - began < interruption.GRACE_SECONDS + 5


def test_before_it_has_begun(start):
    process = start()
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGTERM)
    check_the_end(process, signal.SIGTERM)


def can_be_process_1() -> bool:
    command = ["unshare", "--map-root-user", "--pid", "--fork", "true"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not can_be_process_1(), reason="the system allows no namespace of processes")
def test_process_1_exits_with_the_status_of_the_signal(start, tmp_path):
    process = start(wrapper=("unshare", "--map-root-user", "--pid", "--fork", "--mount-proc"))
    wait_for(tmp_path)
    (inside,) = psutil.Process(process.pid).children()
    os.kill(inside.pid, signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM
    assert re.fullmatch(r"beamscribe caption: stopped by SIGTERM;.*\n", said)


def test_other_commands_are_interrupted(tmp_path):
    script = "import sys, time\nfrom beamscribe.jobs import entry\nfrom beamscribe.jobs.commands import recipes\n"
    script += "recipes.run = lambda *_: print('ready', flush=True) or time.sleep(60)\n"
    script += "entry.main(['recipes'])"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "beamscribe recipes: stopped by SIGINT; run the same command again\n"
    assert process.returncode == -signal.SIGINT


DONE_AT_ONCE = """
import os, signal, sys
from beamscribe.jobs import entry
from beamscribe.jobs.commands import recipes
def run(options, _):
    with options.interruption.gently():
        os.kill(os.getpid(), signal.SIGTERM)
    return 0
recipes.run = run
entry.main(["recipes"])
"""


def test_a_signal_that_comes_when_all_is_done_says_so():
    done = subprocess.run([sys.executable, "-c", DONE_AT_ONCE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")
    assert done.stderr == "beamscribe recipes: stopped by SIGTERM; it had done all its work\n"


LATE = """
import atexit, os, signal, sys, time
from beamscribe.jobs import entry
from beamscribe.jobs.commands import recipes
recipes.run = lambda *_: print("done") or {status}
atexit.register(lambda: os.kill(os.getpid(), signal.{number}) or time.sleep(60))
entry.main(["recipes"])
"""


@pytest.mark.parametrize("number", interruption.SIGNALS)
@pytest.mark.parametrize("status", [0, 1])
def test_a_signal_while_the_process_ends_changes_nothing(number, status):
    script = LATE.format(status=status, number=number.name)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, "done\n", "")


def test_ctrl_c_while_modules_are_imported_prints_nothing():
    # The first module that the command line imports.
    script = "import os, signal, sys\nclass Finder:\n def find_spec(self, name, *_):\n"
    script += "  if name == 'argparse': os.kill(os.getpid(), signal.SIGINT)\n"
    script += "sys.meta_path.insert(0, Finder())\nfrom beamscribe.jobs import entry\nentry.main(['recipes'])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


PROGRAM = """
import sys, beamscribe
from beamscribe.model.captioners.exported_model import CaptionModel
caption = CaptionModel.caption
def slowly(*arguments):
    pathlib.Path({called!r}).touch()
    time.sleep(0.3)
    return caption(*arguments)
import pathlib, time
CaptionModel.caption = slowly
try:
    beamscribe.caption({photos!r}, {output!r}, bundle={bundle!r}, shard_size=4)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_in_a_program_is_a_keyboard_interrupt(start, tmp_path, tiny_bundle):
    # The photos are those of `start`.
    names = {"photos": tmp_path / "photos", "output": tmp_path / "out", "bundle": tiny_bundle}
    script = PROGRAM.format(called=str(tmp_path / "called"), **{name: str(path) for name, path in names.items()})
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "interrupted\n"
    assert process.returncode == 0 and left_in(process.pid) == []
    assert 0 < beamscribe.read(tmp_path / "out").num_rows < 60


def test_handlers_are_those_of_before_afterwards():
    before = [signal.getsignal(number) for number in interruption.SIGNALS]
    with Interruption("x", "y"):
        assert all(signal.getsignal(number) not in before for number in interruption.SIGNALS)
    assert [signal.getsignal(number) for number in interruption.SIGNALS] == before


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption("x", "y"):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_command_that_nohup_has_started_goes_on():
    script = "import os, signal; from beamscribe.jobs import entry; from beamscribe.jobs.commands import recipes\n"
    script += "recipes.run = lambda *_: os.kill(os.getpid(), signal.SIGHUP) or 0\nentry.main(['recipes'])"
    assert subprocess.run(["nohup", sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


def test_in_another_thread_no_handlers_are_installed():
    found = []

    def run():
        with Interruption("x", "y"):
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [before]
    assert issubclass(Interrupted, KeyboardInterrupt)


def test_the_library_installs_no_handlers(tmp_path, tiny_bundle, make_photo):
    make_photo(tmp_path / "photos" / "a.jpg")
    before = [signal.getsignal(number) for number in interruption.SIGNALS]
    beamscribe.caption(tmp_path / "photos", tmp_path / "out", bundle=tiny_bundle)
    assert [signal.getsignal(number) for number in interruption.SIGNALS] == before
