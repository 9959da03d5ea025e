"""Kills, ends, stops and wakes the job's processes at random moments, and looks at what is left.

KILLS says how often; `make test-crash` does so 120 times with the bundled model, and SEED takes another sequence.
"""

import collections
import itertools
import os
import random
import signal
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from beamscribe.jobs import cli
from beamscribe.pipelines.output import layout, rows

KILLS = int(os.environ.get("KILLS", "4"))
SEED = int(os.environ.get("SEED", "1"))
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGSTOP)
# Seconds that a process is stopped at most before it goes on.
LONGEST_STOP = 40.0 if KILLS > 20 else 1.0
# An attempt that is not killed before ends by itself.
LONGEST = 180.0


@pytest.fixture
def archive(tmp_path, make_photo) -> Path:
    """Photos in a folder, a tar and a zip; some are broken, some equal."""
    folder = tmp_path / "photos"
    for index in range(120):
        make_photo(folder / f"{index:03d}.jpg")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"text")
    (folder / "copy.jpg").write_bytes((folder / "007.jpg").read_bytes())
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar, zipfile.ZipFile(tmp_path / "x.zip", "w") as zipped:
        for index in range(40):
            tar.add(make_photo(tmp_path / "tar" / f"t{index}.jpg"), f"{index}.jpg")
            zipped.write(make_photo(tmp_path / "zip" / f"z{index}.jpg"), f"{index}.jpg")
    return folder


def arguments(archive: Path, output: Path, bundle: Path | None, workers: int) -> list[str]:
    inputs = [str(archive), str(archive.parent / "x.tar.gz"), str(archive.parent / "x.zip")]
    given = ["caption", "--output", str(output), "--shard-size", "8"]
    given += ["--bundle", str(bundle)] if bundle else []
    given[5:5] = [part for uri in inputs for part in ("--input", uri)]
    given += ["--direct_num_workers", str(workers)]
    return given + (["--direct_running_mode", "multi_processing"] if workers > 1 else [])


def start(given: list[str], log: Path) -> psutil.Popen:
    with log.open("ab") as file:
        return psutil.Popen(
            [sys.executable, "-m", "beamscribe", *given], stdout=file, stderr=file, start_new_session=True
        )


def still_running(session: int) -> list[psutil.Process]:
    """The processes of a job that have not ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def wait_for_none(session: int) -> None:
    end = time.monotonic() + 30.0
    while left := still_running(session):
        assert time.monotonic() < end, [process.cmdline() for process in left]
        time.sleep(0.2)


class Struck(NamedTuple):
    """What was done to a job: the signal that a process got, and the role of that process."""

    signal: signal.Signals
    role: str


def role_of(process: psutil.Process, job: psutil.Popen) -> str:
    if process.pid == job.pid:
        return "launcher"
    words = " ".join(process.cmdline())
    return "decoder" if "image_process" in words else "worker" if "worker_process" in words else "other"


def strike_at_random(job: psutil.Popen, output: Path, draw: random.Random) -> Struck | None:
    """Sends one of a job's processes a signal once some more shards are committed; returns None if it was late."""
    before = len(layout.committed_files(str(output)))
    wanted = before + draw.choice((-1, 0, 0, 1, 1, 2, 3, 5, 8))
    # Python itself, while it starts, answers Ctrl-C with a traceback.
    time.sleep(0.5)
    # Before there is anything to count, at any moment of the start.
    time.sleep(draw.uniform(0.0, 8.0) if wanted < before else 0.0)
    end = time.monotonic() + LONGEST
    while len(layout.committed_files(str(output))) < max(wanted, before) and job.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(draw.uniform(0.0, 0.3))
    number = draw.choice(SIGNALS)
    family = still_running(job.pid)
    if job.poll() is not None or not family:
        return None
    victim = job if draw.random() < 0.4 else draw.choice(family)
    try:
        struck = Struck(number, role_of(victim, job))
        victim.send_signal(number)
        if number == signal.SIGSTOP:
            time.sleep(draw.uniform(0.5, LONGEST_STOP))
            victim.send_signal(signal.SIGCONT)
    except psutil.Error:
        return None
    return struck


def statuses(struck: Struck | None) -> set[int]:
    """The exit statuses that a job may have after what was done to it."""
    if struck is None or struck.signal == signal.SIGSTOP or struck.role == "decoder":
        return {0}
    if struck.role == "launcher":
        # It may have been about to end.
        return {0, -struck.signal}
    # Workers leave it to the launcher how a job ends, unless they are killed.
    return {0, 1} if struck.signal == signal.SIGKILL or struck.role == "other" else {0}


def check(output: Path, photos: set[str] | None = None) -> None:
    """Every committed file is whole, and no photo has two rows; of `photos`, where they are given, each has one."""
    found: collections.Counter[str] = collections.Counter()
    for path in layout.committed_files(str(output)):
        table = rows.read_table(path)
        found.update(table["photo"].to_pylist())
        failed = table.filter(table.column("status").to_numpy(zero_copy_only=False) == "failed").to_pylist()
        assert all(row["error"] in ("empty", "not_an_image") for row in failed), failed
    assert not found or max(found.values()) == 1
    assert photos is None or set(found) == photos


def test_nothing_is_lost_and_nothing_done_twice(archive, tmp_path, tiny_bundle):
    draw = random.Random(SEED)
    bundle = None if os.environ.get("REAL_MODEL") else tiny_bundle
    folders = (archive.parent / f"out-{number}" for number in itertools.count())
    photos = {str(path) for path in archive.iterdir()}
    photos |= {f"{archive.parent / name}#{number}.jpg" for name in ("x.tar.gz", "x.zip") for number in range(40)}
    done: collections.Counter[str] = collections.Counter()
    log = tmp_path / "log"
    output = next(folders)
    while done.total() < KILLS:
        job = start(arguments(archive, output, bundle, draw.choice((1, 2))), log)
        struck = strike_at_random(job, output, draw)
        if struck:
            done[f"{struck.signal.name} to {struck.role}"] += 1
        # What was killed may have been a process that the job can do without, and which it replaces.
        status = job.wait(LONGEST)
        assert status in statuses(struck), (struck, status, log.read_text()[-3000:])
        wait_for_none(job.pid)
        check(output, photos if status == 0 else None)
        if status == 0 and done.total() < KILLS:
            output = next(folders)
    print(dict(done))
    assert "Traceback" not in log.read_text()
    assert cli.main(arguments(archive, output, bundle, 1)) == 0
    check(output, photos)
    assert cli.main(["verify", str(output), *arguments(archive, output, bundle, 1)[5:11]]) == 0
