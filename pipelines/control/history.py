"""What earlier runs of an output folder leave for the next one to know."""

import datetime
import json
from typing import Any

# What makes a run go on with another one: with other limits, or another version, what failed may not fail again.
_ALIKE = ("inputs", "bundle", "settings", "recaption", "max_pixels", "version")


def unfinished_since(config: dict[str, Any]) -> datetime.datetime | None:
    """When the first of the unfinished runs began that a run goes on with; None where the last one ended well.

    What they did for the same reasons need not be done again, though `--recaption` asks for all of it.

    Args:
      config: of the run that is to begin, as in its `config.json`.
    """
    from beamscribe.pipelines import stores

    since = None
    # As it will be when it is read.
    wanted = json.loads(json.dumps(config))
    for path in sorted(stores.within(stores.join(config["output"], "runs"), "*", "config.json"), reverse=True):
        try:
            earlier = json.loads(stores.read(path))
        except ValueError:
            # Damaged: what that run was for can't be told.
            break
        alike = all(earlier.get(name) == wanted[name] for name in _ALIKE)
        if not alike or stores.exists(path.replace("config.json", "_SUCCESS")):
            break
        since = datetime.datetime.fromisoformat(earlier["started_at"])
    return since


def stop_earlier(output: str) -> None:
    """Stops what may still be left of runs whose launcher is gone: workers on other machines, that nobody waits for."""
    from beamscribe.pipelines import stores
    from beamscribe.pipelines.control import stopping

    files = [path.rpartition("/")[::2] for path in stores.within(stores.join(output, "runs"), "*", "*.json")]
    ended = {folder for folder, name in files if name in ("report.json", "stop.json", "compaction.json")}
    for folder in {folder for folder, name in files if name == "config.json"} - ended:
        stopping.stop(folder, "a later run took over")
