"""The account of a run: how many photos became what, counted from the committed rows themselves."""

import collections
import dataclasses
import datetime
import hashlib
import heapq
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beamscribe.pipelines import plan, stores
from beamscribe.pipelines.output import report_page, rows
from beamscribe.pipelines.photos import CAPTIONED, FAILED, PhotoRef, retries_of
from beamscribe.pipelines.plan import Plan

MAX_EXAMPLES = 20
MAX_SAMPLES = 12
MAX_MISSING = 20

_COLUMNS = ("photo", "status", "caption", "score", "stage", "error", "message")


@dataclasses.dataclass(frozen=True)
class Example:
    """A photo that failed; the fields are columns of `CAPTION_SCHEMA`."""

    photo: str
    stage: str
    error: str
    message: str


@dataclasses.dataclass(frozen=True)
class Sample:
    """A photo that was captioned; the fields are columns of `CAPTION_SCHEMA`."""

    photo: str
    caption: str
    score: float


@dataclasses.dataclass(frozen=True)
class Report:
    """What came of a run; the fields are the keys of `report.json`.

    Attributes:
      run: its id.
      inputs: what was listed.
      output: the folder that holds the captions of all runs.
      bundle: name of the model bundle.
      fingerprint: of the bundle.
      settings: fingerprint of the caption settings.
      runner: the Beam runner's name.
      version: of Beamscribe.
      started_at: when the job began.
      finished_at: when all of it was committed.
      seconds: between the two.
      listed: photos found.
      skipped: photos that earlier runs had done.
      outdated: how many of them another model or other settings captioned.
      duplicates: how many of the others have the bytes of another one, and were not read themselves.
      ignored: how many other files there are of each kind.
      captioned: rows with a caption.
      failed: rows without.
      photos_per_second: rows a second, from start to end.
      retries: requests to remote stores that had to be made again.
      failures: how many rows have each error code, most frequent first.
      examples: some of the failed photos, of every code.
      samples: some of the captioned photos.
      missing: some of the photos that were planned but have no row.
      balanced: whether `listed = skipped + captioned + failed` and nothing is missing.
    """

    run: str
    inputs: tuple[str, ...]
    output: str
    bundle: str
    fingerprint: str
    settings: str
    runner: str
    version: str
    started_at: datetime.datetime
    finished_at: datetime.datetime
    seconds: float
    listed: int
    skipped: int
    outdated: int
    duplicates: int
    ignored: Mapping[str, int]
    captioned: int
    failed: int
    photos_per_second: float
    retries: int
    failures: Mapping[str, int]
    examples: tuple[Example, ...]
    samples: tuple[Sample, ...]
    missing: tuple[str, ...]
    balanced: bool

    def to_json(self) -> bytes:
        """The report as `report.json`; times in ISO 8601."""
        fields = dataclasses.asdict(self)
        return json.dumps(fields, indent=2, ensure_ascii=False, default=datetime.datetime.isoformat).encode()


def collect(output: str, run: str, finished_at: datetime.datetime, retries: int = 0) -> Report:
    """Counts what a run committed and compares it with the run's plan.

    Args:
      output: the folder that holds the captions of all runs.
      run: id of the run.
      finished_at: when the job ended, with a time zone.
      retries: requests that were made again for no shard: to list, to compare, to commit.

    Raises:
      OSError: a file of the run can't be read.
    """
    folder = _folder(output, run)
    config = json.loads(stores.read(stores.join(folder, "config.json")))
    planned = Plan.from_json(stores.read(plan.path_of(folder)))
    started_at = datetime.datetime.fromisoformat(config["started_at"])
    seconds = max((finished_at - started_at).total_seconds(), 0.0)

    files = rows.committed_files(output, run)
    counts = {}
    statuses: collections.Counter[str] = collections.Counter()
    failures: collections.Counter[str] = collections.Counter()
    examples: dict[str, list[Example]] = collections.defaultdict(list)
    samples: list[Sample] = []
    for path, table in zip(files, rows.read_tables(files, _COLUMNS), strict=True):
        counts[_shard_index(path)] = table.num_rows
        retries += retries_of(table)
        statuses.update(table["status"].to_pylist())
        for row in _with_status(table, FAILED, Example):
            failures[row["error"]] += 1
            if len(examples[row["error"]]) < MAX_EXAMPLES:
                examples[row["error"]].append(Example(**row))
        captioned = (Sample(**row) for row in _with_status(table, CAPTIONED, Sample))
        samples = heapq.nsmallest(MAX_SAMPLES, itertools.chain(samples, captioned), key=_chance)

    missing = tuple(itertools.islice(_without_row(planned, counts, files), MAX_MISSING))
    written = statuses[CAPTIONED] + statuses[FAILED]
    return Report(
        run=run,
        inputs=tuple(config["inputs"]),
        output=output,
        bundle=config["bundle"]["name"],
        fingerprint=config["bundle"]["fingerprint"],
        settings=config["settings"],
        runner=config["runner"],
        version=config["version"],
        started_at=started_at,
        finished_at=finished_at,
        seconds=round(seconds, 1),
        listed=planned.listed,
        skipped=planned.skipped,
        outdated=planned.outdated,
        duplicates=planned.duplicates,
        ignored=planned.ignored,
        captioned=statuses[CAPTIONED],
        failed=statuses[FAILED],
        photos_per_second=round(written / seconds, 2) if seconds else 0.0,
        retries=retries,
        failures=dict(failures.most_common()),
        examples=_some_of_each(examples),
        samples=tuple(sorted(samples, key=lambda sample: sample.photo)),
        missing=missing,
        balanced=planned.listed == planned.skipped + written and not missing,
    )


def write(report: Report, output: str) -> None:
    """Writes `report.json`, `report.html` and, where the numbers add up, `_SUCCESS`, in that order.

    Args:
      report: what to write.
      output: the folder that holds the captions of all runs.

    Raises:
      OSError: as the store says.
    """
    folder = _folder(output, report.run)
    stores.replace(stores.join(folder, "report.json"), report.to_json())
    stores.replace(stores.join(folder, "report.html"), report_page.render(report, _refs(report, folder)).encode())
    if report.balanced:
        stores.replace(stores.join(folder, "_SUCCESS"), b"")


def _refs(report: Report, folder: str) -> dict[str, PhotoRef]:
    """Where those of the samples' photos are that may lie in containers, by the plan."""
    wanted = {sample.photo for sample in report.samples if "#" in sample.photo}
    planned = plan.read(folder)
    refs = (
        itertools.chain.from_iterable(plan.read_shard(shard).photos for shard in planned.shards if wanted)
        if planned
        else ()
    )
    found = {}
    for ref in refs:
        if ref.photo in wanted:
            found[ref.photo] = ref
        if len(found) == len(wanted):
            break
    return found


def _folder(output: str, run: str) -> str:
    return stores.join(output, "runs", run)


def _shard_index(path: str) -> int:
    name = path.rpartition("/")[2]
    return int(name.removeprefix("shard-").removesuffix(".parquet"))


def _with_status(table: pa.Table, status: str, kind: type) -> list[dict[str, Any]]:
    """The rows of one status, with the columns that a dataclass has fields for."""
    columns = [field.name for field in dataclasses.fields(kind)]
    return table.filter(pc.equal(table["status"], status)).select(columns).to_pylist()


def _chance(sample: Sample) -> bytes:
    """A number drawn for a photo, the same at every run: the photos with the least of all are a fair sample."""
    return hashlib.blake2b(sample.photo.encode(), digest_size=8).digest()


def _some_of_each(examples: Mapping[str, Sequence[Example]]) -> tuple[Example, ...]:
    """At most `MAX_EXAMPLES`: the first of every code, then the second of every code, and so on; sorted by code."""
    rounds = itertools.zip_longest(*(examples[code] for code in sorted(examples)))
    in_turn = (example for one_of_each in rounds for example in one_of_each if example)
    return tuple(sorted(itertools.islice(in_turn, MAX_EXAMPLES), key=lambda example: (example.error, example.photo)))


def _without_row(planned: Plan, counts: Mapping[int, int], files: Iterable[str]) -> Iterator[str]:
    """The photos of the plan that have no row; opens only the shards whose numbers differ."""
    paths = {_shard_index(path): path for path in files}
    for shard in planned.shards:
        if counts.get(shard.index) == shard.photos:
            continue
        expected = collections.Counter(ref.photo for ref in plan.read_shard(shard).photos)
        if shard.index in paths:
            expected -= collections.Counter(rows.read_table(paths[shard.index], ["photo"])["photo"].to_pylist())
        yield from expected.elements()
