"""Stops a run early, on any runner: workers take no new shards once `stop.json` exists in the run's folder."""

from beamscribe.pipelines import stores
from beamscribe.pipelines.output import layout
from beamscribe.pipelines.output.run_documents import StopRequest


def stop(folder: str, reason: str) -> None:
    """Asks a run to stop.

    Args:
      folder: folder of the run.
      reason: why the run is stopped, for people who look at the run later.

    Raises:
      OSError: the store reported an error.
    """
    stores.create(_path(folder), StopRequest(reason=reason).to_json())


def reason(folder: str) -> str | None:
    """Why a run was asked to stop; None if it was not.

    Args:
      folder: folder of the run.

    Raises:
      DocumentError: `stop.json` is damaged, or a newer version wrote it.
      OSError: the store reported an error.
    """
    path = _path(folder)
    return StopRequest.from_json(stores.read(path), path).reason if stores.exists(path) else None


def is_asked(folder: str) -> bool:
    """Whether a run was asked to stop."""
    return stores.exists(_path(folder))


def _path(folder: str) -> str:
    return stores.join(folder, layout.STOP)
