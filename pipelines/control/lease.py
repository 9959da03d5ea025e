"""Leases: a job that writes to an output folder holds the folder's lease, so that only one job writes at a time.

A lease is a numbered file in the folder. It is created exclusively, so if two jobs want the next number, one of them
gets it, on any store with exclusive creation. The lease with the highest number counts. Its holder proves that it is
alive by a heartbeat: it increments a counter in a second file. No clocks are compared, since clocks differ between
machines.
"""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator

from beamscribe.model.documents import DamagedDocumentError
from beamscribe.model.errors import BeamscribeError, OutputInUse, one_line
from beamscribe.pipelines import stores
from beamscribe.pipelines.control import closing
from beamscribe.pipelines.control.holder import Holder
from beamscribe.pipelines.output import layout

# Seconds between two heartbeats, and without a heartbeat until the holder counts as dead. The latter leaves time to
# retry a request that stalls.
BEAT_SECONDS = 5.0
DEAD_SECONDS = 27.0
_POLL_SECONDS = 0.5

_LOGGER = logging.getLogger(__name__)

# Asks a runner whether a job is still running; None if the runner can't be reached.
IsRunning = Callable[[dict[str, str]], bool | None]


@contextlib.contextmanager
def hold(
    output: str,
    purpose: str,
    lost: Callable[[str], None] = lambda _: None,
    job: dict[str, str] | None = None,
    is_running: IsRunning = lambda _: False,
    run: str = "",
) -> Iterator["Heartbeat"]:
    """Holds the lease of an output folder, and closes the earlier runs that did not end by their own hand.

    Args:
      output: the folder that holds the captions of all runs.
      purpose: what this process does, shown to users of other jobs.
      lost: called once, from another thread, with a reason: another job took the lease because this process seemed
        dead, or may take it because no heartbeat could be written for `DEAD_SECONDS`. What it raises is logged.
      job: the job that this process starts on a runner that continues without it; the lease then outlives the process.
      is_running: asks a runner whether a job is still running.
      run: id of the run that this process writes, without its number.

    Yields:
      What is known of the heartbeats of this job, and the number of its lease.

    Raises:
      OutputInUse: another job holds the lease, or may hold it.
      BeamscribeError: the folder's store can't create files exclusively, or a newer version of Beamscribe took the
        lease.
      OSError: the folder is not writable.
    """
    stores.check_exclusive(output)
    folder = layout.leases_folder(output)
    number = acquire(folder, Holder.myself(purpose, job), is_running, run)
    ended = threading.Event()
    heartbeat = Heartbeat(number, folder)
    beating = threading.Thread(target=_beat, args=(folder, number, ended, lost, heartbeat), name="lease", daemon=True)
    beating.start()
    try:
        close_earlier(folder, heartbeat)
        yield heartbeat
    finally:
        ended.set()
        beating.join()
        try:
            if job is None or is_running(job) is False:
                stores.replace(layout.lease_file(folder, number, "released"), b"")
        except OSError as error:
            # The next job finds out from the missing heartbeat that this one has ended.
            _LOGGER.warning(
                "can't release the lease in %s: %s; the next job may wait %.0f s for it",
                folder,
                one_line(error),
                DEAD_SECONDS,
            )


def holder_of(output: str, is_running: IsRunning = lambda _: False) -> Holder | None:
    """The live holder of an output folder's lease, or None.

    It may take `DEAD_SECONDS` to find out whether a holder on another machine is alive.

    Args:
      output: the folder that holds the captions of all runs.
      is_running: asks a runner whether a job is still running.

    Raises:
      OutputInUse: the holder's runner can't be asked.
      NewerDocumentError: a newer version of Beamscribe took the lease.
      OSError: the store reported an error.
    """
    return _latest_holder(layout.leases_folder(output), is_running)[1]


def acquire(folder: str, myself: Holder, is_running: IsRunning, run: str = "") -> int:
    """Takes the next lease, and returns its number; arguments and errors are those of `hold`."""
    while True:
        number, holder = _latest_holder(folder, is_running)
        if holder:
            raise OutputInUse(
                f"{stores.folder_of(folder)} is in use: {holder} writes to it; wait until it ends, or ask it to with "
                "`beamscribe stop`"
            )
        # The leases may have been lost, and with them the numbers that earlier runs have.
        number = max(number, layout.greatest_number(stores.folder_of(folder))) + 1
        path = layout.lease_file(folder, number, "json")
        if layout.lease_number(path) is None:
            raise BeamscribeError(f"{folder} is damaged: a lease or a run has the number {number - 1}; delete it")
        named = myself.model_copy(update={"run": layout.numbered(run, number)} if run else {})
        if stores.create(path, named.to_json()):
            if layout.latest_lease(folder) > number:
                # Meanwhile a job took and released this number, and the holder of the next one deleted the old files.
                stores.delete(path)
                continue
            return number


def close_earlier(folder: str, heartbeat: "Heartbeat", own: str = "") -> None:
    """Closes the runs of earlier leases; only then deletes the leases, which may be all that names those runs."""
    holders = {}
    for path in stores.within(folder, "*.json"):
        earlier = layout.lease_number(path)
        if earlier is None or earlier >= heartbeat.number:
            continue
        try:
            holder = Holder.from_json(stores.read(path), path)
        except FileNotFoundError:
            continue
        except DamagedDocumentError as error:
            _LOGGER.warning("a lease is taken for one that has ended, and deleted: %s %s", path, error.problem)
            continue
        is_over = stores.exists(layout.lease_file(folder, earlier, "released")) or _is_over(holder)
        # A compaction that is over needs no closing: only itself knows the places that it writes to.
        if holder.run and not (is_over and layout.is_compaction(holder.run)):
            holders[holder.run] = is_over
    closing.close_earlier(stores.folder_of(folder), heartbeat.number, holders, heartbeat.is_held, own)
    _clean_up(folder, heartbeat.number - 1)


def _is_over(holder: Holder) -> bool:
    # Elsewhere than on Linux, workers may outlive their launcher for a while.
    return sys.platform == "linux" and holder.job is None and holder.has_died() is True


def _latest_holder(folder: str, is_running: IsRunning) -> tuple[int, Holder | None]:
    """The number of the latest lease, and its live holder or None."""
    while True:
        number = layout.latest_lease(folder)
        try:
            holder = holder_named(folder, number)
            return number, holder if holder and _lives(folder, number, holder, is_running) else None
        except FileNotFoundError:
            # Another job has just taken the next lease and deleted the old files.
            continue


def holder_named(folder: str, number: int) -> Holder | None:
    """The job that took a lease; None if there is none, or it released the lease.

    Raises:
      NewerDocumentError: a newer version of Beamscribe took the lease.
    """
    if not number or stores.exists(layout.lease_file(folder, number, "released")):
        return None
    path = layout.lease_file(folder, number, "json")
    try:
        return Holder.from_json(stores.read(path), path)
    except DamagedDocumentError:
        # A damaged file does not tell whose heartbeat to wait for.
        return None


def _lives(folder: str, number: int, holder: Holder, is_running: IsRunning) -> bool:
    died = holder.has_died()
    if died is False:
        return True
    if died is None:
        before = _count(folder, number)
        end = time.monotonic() + DEAD_SECONDS
        while time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
            if holder_named(folder, number) is None:
                return False
            if (count := _count(folder, number)) is not None and before is not None and count != before:
                return True
            before = count if before is None else before
    running = is_running(holder.job) if holder.job else False
    if running is None:
        path = layout.lease_file(folder, number, "json")
        raise OutputInUse(
            f"{stores.folder_of(folder)} may be in use: {holder}; the process that started the job has ended, and the "
            f"runner can't be asked whether the job is still running; try again, or delete {path} if the job has ended"
        )
    return running


class Heartbeat:
    """The heartbeats of a job, as far as they could be written.

    Attributes:
      number: number of the lease, which is that of the run.
      failure: why the last heartbeat could not be written; None where it could.
    """

    def __init__(self, number: int, folder: str) -> None:
        self.number, self._folder = number, folder
        self._written: float | None = None
        self._began = time.monotonic()
        self.failure: Exception | None = None

    def note(self, failure: Exception | None = None) -> None:
        """Notes that a heartbeat was written, or why it was not."""
        self.failure = failure
        if failure is None:
            self._written = time.monotonic()

    def is_held(self) -> bool:
        """Looks whether no other job has taken the lease since.

        Raises:
          OSError: the store reported an error.
        """
        return layout.latest_lease(self._folder) <= self.number

    @property
    def is_late(self) -> bool:
        """Whether another job may take the lease, since none has been written for long."""
        return time.monotonic() - (self._written or self._began) >= DEAD_SECONDS

    @property
    def problem(self) -> str | None:
        """Why heartbeats can't be written; None where they can, or may soon be again."""
        if self.failure is None or not (self._written is None or self.is_late):
            return None
        return one_line(self.failure)


def _beat(folder: str, number: int, ended: threading.Event, lost: Callable[[str], None], heartbeat: Heartbeat) -> None:
    """Writes heartbeats until the lease has ended or is lost.

    Args:
      folder: the folder of the leases.
      number: number of the lease.
      ended: set when the lease ends.
      lost: called with a reason, once, if another job has taken the lease or may take it.
      heartbeat: notes how the heartbeats went.
    """
    count = 0
    while not ended.wait(BEAT_SECONDS if count else 0.0):
        count += 1
        try:
            stores.replace(layout.lease_file(folder, number, "beat"), str(count).encode())
            latest = layout.latest_lease(folder)
        except Exception as error:  # noqa: BLE001 - whatever has failed, the next heartbeat may work
            if heartbeat.failure is None:
                _log_failure(folder, error)
            heartbeat.note(error)
            if heartbeat.is_late:
                _tell(lost, f"its heartbeat can't be written: {one_line(error)}")
                return
            continue
        if heartbeat.failure:
            _LOGGER.info("the heartbeat of the lease in %s works again", folder)
        heartbeat.note()
        if latest > number:
            _tell(lost, f"{_taker(folder, latest)} took over, because this job seemed dead")
            return


def _log_failure(folder: str, error: Exception) -> None:
    # An error of the store may pass; anything else is a fault of Beamscribe, which only its traceback explains.
    fault = None if isinstance(error, OSError) else error
    _LOGGER.warning("the heartbeat of the lease in %s fails: %s", folder, one_line(error), exc_info=fault)


def _tell(lost: Callable[[str], None], reason: str) -> None:
    """Calls `lost`. What it raises is logged: nobody waits for the result of this thread."""
    _LOGGER.warning("the lease is lost: %s", reason)
    try:
        lost(reason)
    except Exception:
        _LOGGER.exception("can't stop the job, which has lost its lease")


def _taker(folder: str, number: int) -> str:
    """The job that took a lease, for users; it may have ended already, or be one of a newer version."""
    try:
        holder = holder_named(folder, number)
    except (OSError, BeamscribeError):
        holder = None
    return str(holder or "another job")


def _count(folder: str, number: int) -> bytes | None:
    """The counter of the heartbeat; empty before the first beat, None if it can't be read at the moment."""
    try:
        return stores.read(layout.lease_file(folder, number, "beat"))
    except FileNotFoundError:
        return b""
    except OSError:
        return None


def _clean_up(folder: str, until: int) -> None:
    """Deletes the files of leases up to a number."""
    for path in stores.within(folder, "*"):
        number = layout.lease_number(path)
        if number is not None and number <= until:
            # A file that can't be deleted does no harm: only the lease with the highest number counts.
            with contextlib.suppress(OSError):
                stores.delete(path)
