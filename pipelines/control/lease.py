"""One job at a time on an output folder: whoever writes there holds a lease, which lies in the folder itself.

Leases are numbered files that are created only where there is none, so that of two that want the next one a single one
gets it, on any store that can do this. The highest number counts. Its holder shows that it lives by a heartbeat, a
counter in a file beside it: clocks are not compared, for they differ.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import psutil

from beamscribe.model.errors import UserError
from beamscribe.pipelines import stores

# Seconds between two beats, and without one after which a holder counts as dead: a request to a store that stalls and
# is made again must fit in.
BEAT = 5.0
DEAD = 27.0
_LOOK = 0.5

# Whether a runner has a job that has not ended; None where it can't be asked.
IsRunning = Callable[[dict[str, str]], bool | None]


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Attributes:
      purpose: what it does, for whoever must wait: `caption`, say, and the run's id.
      host: name of the machine.
      machine: tells apart machines of one name, a machine's starts, and what containers on it see of processes.
      pid: of the process.
      started: when the process began, seconds since 1970: process ids are used again.
      job: of a runner that goes on where the process has ended: its name, and where to ask for it.
    """

    purpose: str
    host: str
    machine: str
    pid: int
    started: float
    job: dict[str, str] | None = None

    @classmethod
    def myself(cls, purpose: str, job: dict[str, str] | None = None) -> "Holder":
        """This process."""
        return cls(purpose, socket.gethostname(), _machine(), os.getpid(), psutil.Process().create_time(), job)

    def has_died(self) -> bool | None:
        """Whether the process is gone; None where that can't be told from here."""
        if (self.host, self.machine) != (socket.gethostname(), _machine()):
            return None
        try:
            process = psutil.Process(self.pid)
            # Of another start: another process with its id, or the clock, which starts are computed from, was set.
            if abs(process.create_time() - self.started) >= 5.0:
                return None
            return process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def __str__(self) -> str:
        job = f"; job {self.job['name']} on {self.job['runner']}" if self.job else ""
        return f"{self.purpose} (process {self.pid} on {self.host}{job})"


@contextlib.contextmanager
def hold(
    output: str,
    purpose: str,
    lost: Callable[[str], None] = lambda _: None,
    job: dict[str, str] | None = None,
    is_running: IsRunning = lambda _: False,
) -> Iterator[None]:
    """Holds the lease of an output folder.

    Args:
      output: the folder that holds the captions of all runs.
      purpose: what for, to be shown to others.
      lost: called, from a thread, with a reason, where another took the lease since this process seemed dead to it.
      job: what this process starts on a runner that goes on without it: the lease outlives the process, then.
      is_running: asks a job's runner for it.

    Raises:
      UserError: another job holds it.
      OSError: the folder can't be written to.
    """
    folder = stores.join(output, "leases")
    number = _acquire(folder, Holder.myself(purpose, job), is_running)
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(folder, number, ended, lost), name="lease", daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        # Where that fails the next job finds out by itself that this one has ended.
        with contextlib.suppress(OSError):
            if job is None or is_running(job) is False:
                stores.replace(_path(folder, number, "released"), b"")


def holder_of(output: str, is_running: IsRunning = lambda _: False) -> Holder | None:
    """Who holds the lease of an output folder; None where nobody does who lives. May take `DEAD` seconds."""
    return _latest_holder(stores.join(output, "leases"), is_running)[1]


def _acquire(folder: str, myself: Holder, is_running: IsRunning) -> int:
    while True:
        number, holder = _latest_holder(folder, is_running)
        if holder:
            raise UserError(
                f"{stores.folder_of(folder)} is in use: {holder} writes to it; wait for its end, or stop it"
            )
        if stores.create(_path(folder, number + 1, "json"), json.dumps(vars(myself)).encode()):
            if _latest(folder) > number + 1:
                # It had been taken and given back meanwhile, and the next one taken, whose holder cleaned up.
                stores.delete(_path(folder, number + 1, "json"))
                continue
            _clean_up(folder, number)
            return number + 1


def _latest_holder(folder: str, is_running: IsRunning) -> tuple[int, Holder | None]:
    """The number of the latest lease, and who holds it; None where nobody does who lives."""
    while True:
        number = _latest(folder)
        try:
            holder = _holder(folder, number)
            return number, holder if holder and _lives(folder, number, holder, is_running) else None
        except FileNotFoundError:
            # Somebody else has just taken the next one, and cleaned up.
            continue


def _latest(folder: str) -> int:
    numbers = (path.rpartition("/")[2].removesuffix(".json") for path in stores.within(folder, "*.json"))
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def _holder(folder: str, number: int) -> Holder | None:
    """Who took a lease; None where nobody did, or gave it back."""
    if not number or stores.exists(_path(folder, number, "released")):
        return None
    try:
        return Holder(**json.loads(stores.read(_path(folder, number, "json"))))
    except (ValueError, TypeError):
        # Damaged: whoever wrote it can't be asked.
        return None


def _lives(folder: str, number: int, holder: Holder, is_running: IsRunning) -> bool:
    died = holder.has_died()
    if died is False:
        return True
    if died is None:
        before = _count(folder, number)
        end = time.monotonic() + DEAD
        while time.monotonic() < end:
            time.sleep(_LOOK)
            if _holder(folder, number) is None:
                return False
            if (count := _count(folder, number)) is not None and before is not None and count != before:
                return True
            before = count if before is None else before
    running = is_running(holder.job) if holder.job else False
    if running is None:
        raise UserError(
            f"{stores.folder_of(folder)} was in use: {holder}; its launcher is gone, and the runner can't be asked "
            f"whether the job is; try again, or, where that is gone for good, delete {_path(folder, number, 'json')}"
        )
    return running


def _beat(folder: str, number: int, ended: threading.Event, lost: Callable[[str], None]) -> None:
    count = 0
    while not ended.wait(BEAT if count else 0.0):
        count += 1
        # What fails once may work the next time.
        with contextlib.suppress(Exception):
            stores.replace(_path(folder, number, "beat"), str(count).encode())
            latest = _latest(folder)
            if latest > number:
                lost(f"{_holder(folder, latest) or 'another job'} took over, since this one seemed dead")
                return


def _count(folder: str, number: int) -> bytes | None:
    """The last beat; empty where there was none, None where it can't be read just now."""
    try:
        return stores.read(_path(folder, number, "beat"))
    except FileNotFoundError:
        return b""
    except OSError:
        return None


def _clean_up(folder: str, until: int) -> None:
    """Deletes what earlier holders left."""
    for path in stores.within(folder, "*"):
        number = path.rpartition("/")[2].partition(".")[0]
        if number.isdigit() and int(number) <= until:
            with contextlib.suppress(OSError):
                stores.delete(path)


def _path(folder: str, number: int, kind: str) -> str:
    return stores.join(folder, f"{number:08d}.{kind}")


def _machine() -> str:
    """This start of this machine, and what can be seen of its processes."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{psutil.boot_time():.0f}"
