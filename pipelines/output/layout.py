"""The layout of an output folder; no other module builds or parses its paths.

captions/run=<run id>/shard-00012.parquet        rows: captions and failures
captions/run=edit-00000012/shard-00000.parquet   rows that a person has written
exports/<format>/run=<run id>/shard-00012.jsonl  copies in other formats
runs/<run id>/plan/…  plan.json  config.json  report.json  report.html  _SUCCESS  …
leases/00000012.json                             the job that writes to the folder
"""

import datetime
import re
import uuid
from collections.abc import Iterator, Sequence

from beamscribe.pipelines import stores

# The formats of copies, with their file extensions.
EXTENSIONS = {"tfrecord": ".tfrecord.gz", "jsonl": ".jsonl"}

CONFIG = "config.json"
PLAN = "plan.json"
REPORT = "report.json"
PAGE = "report.html"
SUCCESS = "_SUCCESS"
STOP = "stop.json"
ERROR = "error.txt"
COMPACTION = "compaction.json"
CLOSED = "closed.json"

_COMPACTED = "-compacted"

_SHARD = re.compile(r"shard-(\d+)\.")
_SHARD_NAME = re.compile(r"captions/run=(?!\.\.?/)[^/]+/shard-[0-9]+\.parquet")
_RUN = re.compile("[0-9A-Za-z][0-9A-Za-z_-]*")
# More digits would be no number of ours: they would not fit in a column.
_NUMBERED = re.compile("r([0-9]{8,15})-")
_EDIT = re.compile("edit-([0-9]{8,15})")
_LEASE = re.compile(r"([0-9]{8,15})\.[a-z]+")
# Temporary files have hidden names that end with 32 random hexadecimal digits.
_TEMPORARY = f".*.{'?' * 32}"


def new_run(compaction: bool = False) -> str:
    """Makes an id for a run that starts now, or for a compaction."""
    suffix = _COMPACTED if compaction else ""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}{suffix}"


def is_compaction(run: str) -> bool:
    """Whether the id of a run is that of a compaction."""
    return run.endswith(_COMPACTED)


def is_run(text: str) -> bool:
    """Whether a text can be the id of a run: nothing that leads out of the folder of the runs."""
    return bool(_RUN.fullmatch(text))


def numbered(run: str, number: int) -> str:
    """The id of a run whose number is known, such as `r00000012-20260102T030405-abcdef`; sorts by number."""
    return f"r{number:08d}-{run}"


def number_of(run: str) -> int:
    """The number in the id of a run; 0 if it has none."""
    found = _NUMBERED.match(run)
    return int(found[1]) if found else 0


def edit_run(number: int) -> str:
    """The id of the run that an edit is, such as `edit-00000012`."""
    return f"edit-{number:08d}"


def edit_number(run: str) -> int:
    """The number of the edit that a run is; 0 for other runs."""
    found = _EDIT.fullmatch(run)
    return int(found[1]) if found else 0


def greatest_number(output: str) -> int:
    """The greatest number in the ids of all runs of an output folder; 0 if there is none."""
    runs = {run_of_file(path) for path in run_files(output, "*.json", "r*")}
    runs |= {run_of(path) for path in stores.within(output, "captions", "run=r*", "shard-*.parquet")}
    return max(map(number_of, runs), default=0)


def captions_folder(output: str) -> str:
    """The folder of all committed shards."""
    return stores.join(output, "captions")


def runs_folder(output: str) -> str:
    """The folder of the runs' plans and reports."""
    return stores.join(output, "runs")


def run_folder(output: str, run: str) -> str:
    """The folder of a run's plan, configuration and report."""
    return stores.join(output, "runs", run)


def run_file(output: str, run: str, name: str) -> str:
    """The path of a file of a run, such as `PLAN`."""
    return stores.join(output, "runs", run, name)


def run_files(output: str, name: str, runs: str = "*") -> list[str]:
    """The files with a name, such as `PLAN`, in the folders of all runs, or of one, in the order of the runs' ids."""
    return sorted(stores.within(output, "runs", runs, name))


def run_of_file(path: str) -> str:
    """The id of the run that a file from `run_files` belongs to."""
    return path.split("/")[-2]


def plan_file(folder: str, kind: str, digest: str) -> str:
    """The path of a file of a plan, which is named after the digest of its content.

    Args:
      folder: folder of the run.
      kind: `photos` for the photos of a shard, `known` for earlier rows that they may take captions over from, or
        `gone` for rows of photos that are no longer there.
      digest: digest of the content, hexadecimal.
    """
    return stores.join(folder, "plan", f"{kind}-{digest}.parquet")


def kind_of_plan_file(path: str) -> str:
    """The kind of a file of a plan, as for `plan_file`."""
    return path.rpartition("/")[2].partition("-")[0]


def shard_file(output: str, run: str, index: int) -> str:
    """The path to which a shard is committed."""
    return stores.join(output, shard_name(run, index))


def shard_name(run: str, index: int) -> str:
    """The path to which a shard is committed, relative to the output folder."""
    return f"captions/run={run}/shard-{index:05d}.parquet"


def committed_files(output: str, run: str = "*") -> list[str]:
    """The shard files of a run, or of all runs, sorted by run and shard."""
    return sorted(stores.within(output, "captions", f"run={run}", "shard-*.parquet"))


def all_committed_files(output: str) -> str:
    """The glob of the shard files of all runs."""
    return stores.join(output, "captions", "run=*", "shard-*.parquet")


def closed_runs(output: str) -> set[str]:
    """The ids of the runs that a later job has closed."""
    return set(map(run_of_file, run_files(output, CLOSED)))


def closed_file_beside(path: str) -> str:
    """The path of the record that the run of a shard file was closed."""
    output = path.rpartition("/captions/run=")[0]
    return run_file(output, run_of(path), CLOSED)


def run_of(path: str) -> str:
    """The id of the run that a shard file, or a copy of one, belongs to."""
    return path.split("/")[-2].removeprefix("run=")


def index_of(path: str) -> int:
    """The number of a shard file; -1 for a file of another name."""
    found = _SHARD.match(path.rpartition("/")[2])
    return int(found[1]) if found else -1


def is_shard_name(name: str) -> bool:
    """Whether a path relative to the output folder is that of a committed shard."""
    return bool(_SHARD_NAME.fullmatch(name))


def copy_of(output: str, path: str, format: str) -> str:
    """The path of a shard file's copy in another format."""
    name = path.rpartition("/")[2].replace(".parquet", EXTENSIONS[format])
    return stores.join(output, "exports", format, f"run={run_of(path)}", name)


def copies(output: str, format: str) -> Iterator[str]:
    """The paths of all copies in a format."""
    return stores.within(output, "exports", format, "run=*", "*")


def leases_folder(output: str) -> str:
    """The folder of the leases."""
    return stores.join(output, "leases")


def lease_file(folder: str, number: int, kind: str) -> str:
    """The path of a file of a lease.

    Args:
      folder: folder of the leases.
      number: number of the lease.
      kind: `json` for the holder, `beat` for the heartbeat, or `released` for the mark of a released lease.
    """
    return stores.join(folder, f"{number:08d}.{kind}")


def lease_number(path: str) -> int | None:
    """The number of the lease that a file belongs to; None for other files."""
    found = _LEASE.fullmatch(path.rpartition("/")[2])
    return int(found[1]) if found else None


def latest_lease(folder: str) -> int:
    """The number of the latest lease in a folder of leases; 0 if there is none."""
    return max((lease_number(path) or 0 for path in stores.within(folder, "*.json")), default=0)


def next_number(output: str) -> int:
    """The number that the next run of an output folder would have if it began now.

    Raises:
      OSError: the store reported an error.
    """
    return max(latest_lease(leases_folder(output)), greatest_number(output)) + 1


def temporary_files(output: str) -> list[str]:
    """The temporary files that killed writers left on a local disk; readers ignore them."""
    if not stores.is_local(output):
        return []
    return [
        path for folder in ("captions", "exports", "runs") for path in stores.within(output, folder, "**", _TEMPORARY)
    ]


def temporary_files_of(output: str, runs: Sequence[str]) -> list[str]:
    """The temporary files that the killed writers of some runs left on a local disk, without a search of all runs.

    A run copies the shards of earlier runs, too: with any run, the temporary files of all copies are among them.
    """
    if not runs or not stores.is_local(output):
        return []
    places: list[tuple[str, ...]] = [("exports", "*", "run=*")]
    for run in runs:
        places += [("captions", f"run={run}"), ("runs", run), ("runs", run, "plan")]
    return [path for place in places for path in stores.within(output, *place, _TEMPORARY)]
