"""The lease of a run that has no launcher, such as a template's: its own steps take it, renew it and release it."""

import contextlib
import logging
import uuid
from collections.abc import Iterator

from beamscribe.model.errors import BeamscribeError, one_line
from beamscribe.model.ticker import Ticker
from beamscribe.pipelines import stores
from beamscribe.pipelines.control import lease
from beamscribe.pipelines.control.holder import Holder
from beamscribe.pipelines.output import layout

_LOGGER = logging.getLogger(__name__)


def take(output: str, run: str) -> int:
    """Takes the lease for a run; an attempt that comes again gets the number that the first one took.

    Args:
      output: the folder that holds the captions of all runs.
      run: id of the run.

    Returns:
      The number of the lease, which is that of the run.

    Raises:
      OutputInUse: another job holds the lease, or may hold it.
      BeamscribeError, OSError: see `lease.hold`.
    """
    number, holder = _latest(output)
    if holder and holder.run == run:
        return number
    stores.check_exclusive(output)
    # Another runner can't be asked from here.
    myself = Holder.myself(f"run {run}").model_copy(update={"run": run})
    number = lease.acquire(layout.leases_folder(output), myself, lambda _: None)
    lease.close_earlier(layout.leases_folder(output), lease.Heartbeat(number, layout.leases_folder(output)), run)
    return number


@contextlib.contextmanager
def renewed(output: str, number: int) -> Iterator[None]:
    """A block during which the lease with a number is kept alive, by any of the run's workers; 0 is no lease."""
    if not number:
        yield
        return
    path = layout.lease_file(layout.leases_folder(output), number, "beat")

    def beat(_: bool) -> None:
        try:
            # Workers share no counter: what matters is that the content changes.
            stores.replace(path, uuid.uuid4().hex.encode())
        except OSError as error:
            _LOGGER.debug("the heartbeat of the lease in %s fails: %s", output, one_line(error))

    beat(False)
    with Ticker(beat, lease.BEAT_SECONDS, "lease"):
        yield


def release(output: str, run: str) -> None:
    """Releases the lease, if the run holds it.

    Raises:
      OSError: the store reported an error.
    """
    number, holder = _latest(output)
    if holder and holder.run == run:
        stores.replace(layout.lease_file(layout.leases_folder(output), number, "released"), b"")


def _latest(output: str) -> tuple[int, Holder | None]:
    """The number of the latest lease, and its holder, if that has not released it."""
    folder = layout.leases_folder(output)
    number = layout.latest_lease(folder)
    with contextlib.suppress(FileNotFoundError, BeamscribeError):
        return number, lease.holder_named(folder, number)
    return number, None
