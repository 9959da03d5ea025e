import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from beamscribe.model.documents import DamagedDocumentError
from beamscribe.model.errors import BeamscribeError
from beamscribe.pipelines import stores
from beamscribe.pipelines.control import holder, lease
from beamscribe.pipelines.control.holder import Holder
from beamscribe.pipelines.output import layout

HOLD = """
import sys, time
from beamscribe.pipelines.control import lease
with lease.hold(sys.argv[1], "the other job"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other_job(tmp_path):
    """Another process that holds the lease."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    # Many beats, so that a busy machine does not make who lives look dead.
    monkeypatch.setattr(lease, "DEAD_SECONDS", 10.0)
    monkeypatch.setattr(lease, "_POLL_SECONDS", 0.05)


def wait_until(happens):
    end = time.monotonic() + 60.0
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.05)


def states_of_threads(pid):
    """A letter each, as Linux gives them: `T` for stopped."""
    # After the command's name, which is in brackets.
    return [path.read_text().rpartition(") ")[2][0] for path in pathlib.Path(f"/proc/{pid}/task").glob("*/stat")]


def elsewhere(monkeypatch):
    """Makes this process look as if it ran on another machine."""
    monkeypatch.setattr(holder, "_machine", lambda: "another start of it")


def test_one_at_a_time(tmp_path, other_job):
    with (
        pytest.raises(BeamscribeError, match=rf"in use: the other job \(process {other_job.pid} on "),
        lease.hold(str(tmp_path), "me"),
    ):
        pass
    assert lease.holder_of(str(tmp_path)).pid == other_job.pid


def test_numbers_go_on_where_leases_were_lost(tmp_path):
    with lease.hold(str(tmp_path), "me") as held:
        assert held.number == 1 and layout.next_number(str(tmp_path)) == 2
    for name in ("runs/r00000007-20260102T030405-abcdef/config.json", "captions/run=r00000009-x/shard-00000.parquet"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")
    # None of these is a number of ours.
    for name in ("runs/r99/config.json", "runs/r99999999999999999999-x/config.json", "runs/x00000099-x/config.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")
    for path in (tmp_path / "leases").iterdir():
        path.unlink()
    (tmp_path / "leases" / "\N{SUPERSCRIPT TWO}.json").write_bytes(b"{}")
    with lease.hold(str(tmp_path), "me") as held:
        assert held.number == 10
    with lease.hold(str(tmp_path), "me") as held:
        assert held.number == 11


def test_what_is_given_back_is_free(tmp_path):
    for _ in range(3):
        with lease.hold(str(tmp_path), "me"):
            assert lease.holder_of(str(tmp_path)) == Holder.myself("me")
        assert lease.holder_of(str(tmp_path)) is None
    assert len(list((tmp_path / "leases").iterdir())) <= 3


@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_holder_of_this_machine_holds_nobody_up(tmp_path, other_job, reaped):
    other_job.send_signal(signal.SIGKILL)
    if reaped:
        other_job.wait()
    else:
        wait_until(lambda: psutil.Process(other_job.pid).status() == psutil.STATUS_ZOMBIE)
    started = time.monotonic()
    with lease.hold(str(tmp_path), "me"):
        assert time.monotonic() - started < lease.DEAD_SECONDS / 2


def test_a_process_id_that_is_used_again_is_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "DEAD_SECONDS", 2.0)
    stranger = Holder.myself("gone").model_copy(update={"started": 1.0})
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases" / "00000004.json").write_text(stranger.to_json().decode())
    with lease.hold(str(tmp_path), "me"):
        assert (tmp_path / "leases" / "00000005.json").exists()
        assert not (tmp_path / "leases" / "00000004.json").exists()


def test_a_clock_that_was_set_ends_no_lease(tmp_path, monkeypatch, quick):
    started = psutil.Process().create_time()
    with lease.hold(str(tmp_path), "me"):
        monkeypatch.setattr(psutil.Process, "create_time", lambda _: started + 3600)
        with pytest.raises(BeamscribeError, match="in use"), lease.hold(str(tmp_path), "other"):
            pass


def test_a_holder_elsewhere_lives_while_its_heart_beats(tmp_path, monkeypatch, quick):
    with lease.hold(str(tmp_path), "me"):
        elsewhere(monkeypatch)
        with pytest.raises(BeamscribeError, match="in use"), lease.hold(str(tmp_path), "other"):
            pass


def test_a_holder_elsewhere_whose_heart_stands_still_is_dead(tmp_path, monkeypatch, other_job):
    wait_until((tmp_path / "leases" / "00000001.beat").exists)
    other_job.send_signal(signal.SIGSTOP)
    # A beat that is being written when the signal comes is still seen.
    wait_until(lambda: all(state == "T" for state in states_of_threads(other_job.pid)))
    elsewhere(monkeypatch)
    monkeypatch.setattr(lease, "DEAD_SECONDS", 2.0)
    started = time.monotonic()
    with lease.hold(str(tmp_path), "me"):
        assert time.monotonic() - started >= 2.0


def test_who_lost_the_lease_learns_it(tmp_path, quick):
    lost = threading.Event()
    with lease.hold(str(tmp_path), "me", lambda _: lost.set()):
        taker = Holder.myself("taker")
        (tmp_path / "leases" / "00000002.json").write_text(taker.to_json().decode())
        assert lost.wait(60.0)


@pytest.fixture
def beat(monkeypatch):
    """Makes heartbeats raise what its item 0 holds, if that is not None."""
    replace, raised = stores.replace, [None]

    def failing(path, data):
        if path.endswith(".beat") and raised[0]:
            raise raised[0]
        replace(path, data)

    monkeypatch.setattr(stores, "replace", failing)
    return raised


def logged(caplog):
    """What the lease has logged: level and message."""
    return [(record.levelname, record.getMessage()) for record in caplog.records if record.name.endswith(".lease")]


def test_a_heartbeat_that_fails_for_a_while_is_logged(tmp_path, quick, beat, caplog):
    caplog.set_level("INFO")
    folder = str(tmp_path / "leases")
    lost = []
    with lease.hold(str(tmp_path), "me", lost.append):
        for count in (1, 3):
            beat[0] = OSError(28, "No space left on device")
            wait_until(lambda count=count: len(logged(caplog)) == count)
            # Several more fail, which is not logged.
            time.sleep(0.5)
            beat[0] = None
            wait_until(lambda count=count: len(logged(caplog)) == count + 1)
    fails = f"the heartbeat of the lease in {folder} fails: No space left on device"
    works = f"the heartbeat of the lease in {folder} works again"
    assert logged(caplog) == [("WARNING", fails), ("INFO", works)] * 2 and not lost


def test_a_heartbeat_that_fails_for_long_loses_the_lease(tmp_path, quick, beat, monkeypatch, caplog):
    monkeypatch.setattr(lease, "DEAD_SECONDS", 0.5)
    beat[0] = OSError(28, "No space left on device")
    lost = []
    with lease.hold(str(tmp_path), "me", lost.append):
        wait_until(lambda: lost)
        time.sleep(0.5)
    assert lost == ["its heartbeat can't be written: No space left on device"]
    assert len([message for _, message in logged(caplog) if "fails" in message]) == 1


def test_a_fault_in_the_heartbeat_is_logged_with_its_traceback(tmp_path, quick, beat, caplog):
    beat[0] = TypeError("no such argument")
    with lease.hold(str(tmp_path), "me"):
        wait_until(lambda: logged(caplog))
    (record,) = (record for record in caplog.records if record.name.endswith(".lease"))
    assert "no such argument" in record.getMessage() and record.exc_info[0] is TypeError


def test_what_the_callback_raises_is_logged(tmp_path, quick, caplog):
    def lost(reason):
        raise OSError("can't stop it")

    with lease.hold(str(tmp_path), "me", lost):
        # Who took it can't be told, either.
        (tmp_path / "leases" / "00000002.json").write_text('{"format_version": 99}')
        wait_until(lambda: len(logged(caplog)) == 2)
    lost_line = "the lease is lost: another job took over, because this job seemed dead"
    assert logged(caplog)[0] == ("WARNING", lost_line)
    assert "can't stop it" in caplog.text


def test_a_lease_that_can_not_be_released_is_told(tmp_path, monkeypatch, caplog):
    replace = stores.replace

    def failing(path, data):
        if path.endswith(".released"):
            raise OSError(28, "No space left on device")
        replace(path, data)

    monkeypatch.setattr(stores, "replace", failing)
    with lease.hold(str(tmp_path), "me"):
        pass
    ((level, message),) = logged(caplog)
    assert level == "WARNING" and message.startswith(f"can't release the lease in {tmp_path}/leases: No space left")


def test_a_number_that_others_had_and_cleaned_up_is_not_taken_again(tmp_path, monkeypatch):
    create = stores.create

    def create_late(path, data):
        if "leases" not in path:
            return create(path, data)
        # Two others come before it, of whom one has gone.
        monkeypatch.setattr(stores, "create", create)
        create(path.replace("00000001", "00000002"), Holder.myself("third").to_json())
        return create(path, data)

    monkeypatch.setattr(stores, "create", create_late)
    with pytest.raises(BeamscribeError, match="in use: third"), lease.hold(str(tmp_path), "first"):
        pass
    assert [path.name for path in (tmp_path / "leases").iterdir()] == ["00000002.json"]


def test_of_many_only_one_gets_it(tmp_path):
    held, refused = [], []
    together = threading.Barrier(8)

    def take(number):
        together.wait()
        try:
            with lease.hold(str(tmp_path), str(number)):
                held.append(number)
                wait_until(lambda: len(held) + len(refused) == 8)
        except BeamscribeError:
            refused.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1 and len(refused) == 7


def test_a_job_outlives_its_launcher(tmp_path, quick):
    job = {"runner": "FlinkRunner", "name": "beamscribe-1", "address": "http://x", "host": "x"}
    code = f"""
import os
from beamscribe.pipelines.control import holder, lease
with lease.hold({str(tmp_path)!r}, "run 1", job={job!r}, is_running=lambda job: True):
    os._exit(9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    asked = []

    def is_running(job):
        asked.append(job)
        return len(asked) < 3

    with (
        pytest.raises(BeamscribeError, match="can't be asked"),
        lease.hold(str(tmp_path), "2", is_running=lambda _: None),
    ):
        pass
    for _ in range(2):
        with (
            pytest.raises(BeamscribeError, match=r"in use: run 1 .*; job beamscribe-1 on FlinkRunner"),
            lease.hold(str(tmp_path), "run 2", is_running=is_running),
        ):
            pass
    with lease.hold(str(tmp_path), "run 2", is_running=is_running):
        assert asked == [job] * 3


def test_a_job_that_goes_on_keeps_the_lease(tmp_path):
    job = {"runner": "FlinkRunner", "name": "beamscribe-1", "address": "http://x", "host": "x"}
    with contextlib.suppress(KeyboardInterrupt), lease.hold(str(tmp_path), "run 1", job=job, is_running=lambda _: True):
        raise KeyboardInterrupt
    # It lives as long as this process does, whatever its runner says.
    assert lease.holder_of(str(tmp_path)).job == job


def test_a_job_that_can_not_be_asked_for_keeps_the_lease(tmp_path):
    job = {"runner": "FlinkRunner", "name": "beamscribe-1", "address": "http://x", "host": "x"}
    for running in (True, None, False):
        with lease.hold(str(tmp_path / str(running)), "run 1", job=job, is_running=lambda _, running=running: running):
            pass
        released = list((tmp_path / str(running) / "leases").glob("*.released"))
        assert bool(released) == (running is False)


def test_another_takes_it_while_one_waits(tmp_path, quick):
    folder = tmp_path / "leases"
    folder.mkdir()
    gone = Holder.myself("gone").model_copy(update={"machine": "another start of it"})
    (folder / "00000001.json").write_bytes(gone.to_json())

    def take() -> None:
        time.sleep(0.5)
        (folder / "00000002.json").write_text(Holder.myself("the winner").to_json().decode())
        (folder / "00000001.json").unlink()

    winner = threading.Thread(target=take)
    winner.start()
    with pytest.raises(BeamscribeError, match="in use: the winner"), lease.hold(str(tmp_path), "me"):
        pass
    winner.join()


@pytest.mark.parametrize(
    "job",
    [
        {"x": "y"},
        {"runner": "FlinkRunner", "name": "n"},
        {"runner": "FlinkRunner", "name": "n", "host": "h", "address": "http://[::1"},
        {"runner": "DataflowRunner", "name": "n"},
        {"runner": "OtherRunner", "name": "n"},
    ],
)
def test_a_lease_that_does_not_say_where_to_ask_for_its_job_is_damaged(job):
    written = json.loads(Holder.myself("run 1").to_json()) | {"job": job}
    with pytest.raises(DamagedDocumentError, match="is damaged"):
        Holder.from_json(json.dumps(written).encode(), "leases/00000001.json")
