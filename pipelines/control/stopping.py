"""Stops a run early, on any runner: workers take no new shards once `stop.json` exists in the run's folder."""

from beamscribe.pipelines import stores
from beamscribe.pipelines.output import layout
from beamscribe.pipelines.output.run_documents import StopCause, StopRequest


def stop(folder: str, reason: str, cause: StopCause = StopCause.ASKED) -> None:
    """Asks a run to stop; the first request stands.

    Args:
      folder: folder of the run.
      reason: why the run is stopped, for people who look at the run later.
      cause: what asks for it.

    Raises:
      OSError: the store reported an error.
    """
    stores.create(_path(folder), StopRequest(reason=reason, cause=cause).to_json())


def request(folder: str) -> StopRequest | None:
    """The request that asked a run to stop; None if there is none.

    Args:
      folder: folder of the run.

    Raises:
      DocumentError: `stop.json` is damaged, or a newer version wrote it.
      OSError: the store reported an error.
    """
    path = _path(folder)
    return StopRequest.from_json(stores.read(path), path) if stores.exists(path) else None


def is_asked(folder: str) -> bool:
    """Whether a run was asked to stop."""
    return stores.exists(_path(folder))


def _path(folder: str) -> str:
    return stores.join(folder, layout.STOP)
