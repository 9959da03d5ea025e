"""Ends a run early, on any runner: a file in its folder, at whose sight workers take no more shards."""

import json

from beamscribe.pipelines import stores


def stop(folder: str, reason: str) -> None:
    """Asks a run to end.

    Args:
      folder: of the run.
      reason: for whoever looks at the run afterwards.
    """
    stores.create(_path(folder), json.dumps({"reason": reason}).encode())


def reason(folder: str) -> str | None:
    """Why a run was asked to end; None where it was not."""
    path = _path(folder)
    return json.loads(stores.read(path))["reason"] if stores.exists(path) else None


def is_asked(folder: str) -> bool:
    """Whether a run was asked to end."""
    return stores.exists(_path(folder))


def _path(folder: str) -> str:
    return stores.join(folder, "stop.json")
