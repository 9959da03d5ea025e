"""The report of a run, which is counted from the committed rows."""

import collections
import dataclasses
import datetime
import hashlib
import heapq
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beamscribe.model.documents import DocumentError
from beamscribe.pipelines import stores
from beamscribe.pipelines.output import frozen_plan, layout, report_page, rows
from beamscribe.pipelines.output.run_documents import Config, Example, Plan, Report, Sample
from beamscribe.pipelines.photos import CAPTIONED, FAILED, GONE, TAKEN_OVER, PhotoRef, is_closing, retries_of

MAX_EXAMPLES = 20
MAX_SAMPLES = 12
MAX_MISSING = 20

_COLUMNS = ("photo", "status", "caption", "score", "stage", "error", "message", "taken_from", "bytes")


def collect(output: str, run: str, finished_at: datetime.datetime, retries: int = 0) -> Report:
    """Counts the committed rows of a run and compares them with the run's plan.

    Args:
      output: the folder that holds the captions of all runs.
      run: id of the run.
      finished_at: when the job ended, with a time zone.
      retries: number of retried requests outside of shards, which list, compare and commit.

    Raises:
      OSError: a file of the run can't be read.
      DocumentError: `config.json` or `plan.json` is damaged, or a newer version wrote it.
    """
    config_path, plan_path = (layout.run_file(output, run, name) for name in (layout.CONFIG, layout.PLAN))
    config = Config.from_json(stores.read(config_path), config_path)
    planned = Plan.from_json(stores.read(plan_path), plan_path)
    seconds = max((finished_at - config.started_at).total_seconds(), 0.0)

    files = layout.committed_files(output, run)
    counts = {}
    closed = planned.closed_by is not None or stores.exists(layout.run_file(output, run, layout.CLOSED))
    statuses: collections.Counter[str] = collections.Counter()
    failures: collections.Counter[str] = collections.Counter()
    examples: dict[str, list[Example]] = collections.defaultdict(list)
    samples: list[Sample] = []
    for path, table in zip(files, rows.read_tables(files, _COLUMNS), strict=True):
        counts[layout.index_of(path)] = table.num_rows
        retries += retries_of(table)
        closed = closed or is_closing(table)
        statuses.update(statuses_of(table))
        for row in _with_status(table, FAILED, Example):
            failures[row["error"]] += 1
            if len(examples[row["error"]]) < MAX_EXAMPLES:
                examples[row["error"]].append(Example(**row))
        made = table.filter(pc.is_null(table["taken_from"]))
        captioned = (Sample(**row) for row in _with_status(made, CAPTIONED, Sample))
        samples = heapq.nsmallest(MAX_SAMPLES, itertools.chain(samples, captioned), key=_sampling_key)

    missing = tuple(itertools.islice(_without_row(planned, counts, files), MAX_MISSING))
    written = statuses[TAKEN_OVER] + statuses[CAPTIONED] + statuses[FAILED]
    return Report(
        run=run,
        inputs=config.inputs,
        output=output,
        bundle=config.bundle.name,
        fingerprint=config.bundle.fingerprint,
        settings=config.settings,
        runner=config.runner,
        version=config.version,
        started_at=config.started_at,
        finished_at=finished_at,
        seconds=round(seconds, 1),
        listed=planned.listed,
        skipped=planned.skipped,
        outdated=planned.outdated,
        duplicates=planned.duplicates,
        ignored=planned.ignored,
        empty_inputs=tuple(uri for uri, photos in planned.inputs.items() if not photos),
        taken_over=statuses[TAKEN_OVER],
        captioned=statuses[CAPTIONED],
        failed=statuses[FAILED],
        gone=statuses[GONE],
        vanished=planned.vanished,
        to_look_at=_to_look_at(output) if planned.edited else (),
        photos_per_second=round(written / seconds, 2) if seconds else 0.0,
        retries=retries,
        failures=dict(failures.most_common()),
        examples=_some_of_each(examples),
        samples=tuple(sorted(samples, key=lambda sample: sample.photo)),
        missing=missing,
        balanced=planned.listed == planned.skipped + written and not missing and planned.closed_by is None,
        closed=closed,
    )


def statuses_of(table: pa.Table) -> list[str]:
    """What became of the photos of rows, in this run: the statuses, and `taken_over` for captions of earlier rows.

    Args:
      table: rows with the columns `status` and `taken_from`.
    """
    is_taken_over = pc.and_(pc.equal(table["status"], CAPTIONED), pc.is_valid(table["taken_from"]))
    return pc.if_else(is_taken_over, TAKEN_OVER, table["status"]).to_pylist()


def _to_look_at(output: str) -> tuple[str, ...]:
    """Examples of photos that a person has captioned, and whose picture has changed since."""
    return tuple(itertools.islice(rows.to_look_at(layout.committed_files(output)), MAX_MISSING))


def write(report: Report, output: str, success: bool) -> None:
    """Writes `report.json`, `report.html` and, for a run that has succeeded, `_SUCCESS`, in that order.

    Args:
      report: the report.
      output: the folder that holds the captions of all runs.
      success: whether the run has succeeded, as `control.verdict` says.

    Raises:
      OSError: the store reported an error.
    """
    folder = layout.run_folder(output, report.run)
    stores.replace(stores.join(folder, layout.REPORT), report.to_json())
    stores.replace(stores.join(folder, layout.PAGE), report_page.render(report, _refs(report, folder)).encode())
    if success:
        stores.replace(stores.join(folder, layout.SUCCESS), b"")


def finished_runs(output: str, runs: str = "*") -> set[str]:
    """The ids of the runs that have accounted for every photo, whether they have succeeded or not.

    Args:
      output: the folder that holds the captions of all runs.
      runs: id of the only run to look at; all by default.

    Raises:
      OSError: the store reported an error.
    """
    finished = {layout.run_of_file(path) for path in layout.run_files(output, layout.SUCCESS, runs)}
    reports = layout.run_files(output, layout.REPORT, runs)
    others = [path for path in reports if layout.run_of_file(path) not in finished]
    for path, data in rows.read_ahead(stores.read, others):
        try:
            balanced = Report.from_json(data.result(), path).balanced
        except DocumentError:
            balanced = False
        finished |= {layout.run_of_file(path)} if balanced else set()
    return finished


def _refs(report: Report, folder: str) -> dict[str, PhotoRef]:
    """Finds the references to those sampled photos that may be in containers, from the plan."""
    wanted = {sample.photo for sample in report.samples if "#" in sample.photo}
    planned = frozen_plan.read(folder)
    refs = (
        itertools.chain.from_iterable(frozen_plan.read_shard(shard).photos for shard in planned.shards if wanted)
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


def _with_status(table: pa.Table, status: str, kind: type) -> list[dict[str, Any]]:
    """Selects the rows with a status, and the columns that are fields of the dataclass `kind`."""
    columns = [field.name for field in dataclasses.fields(kind)]
    return table.filter(pc.equal(table["status"], status)).select(columns).to_pylist()


def _sampling_key(sample: Sample) -> bytes:
    """A pseudorandom key of a photo, the same in every run: the photos with the lowest keys are a random sample."""
    return hashlib.blake2b(sample.photo.encode(), digest_size=8).digest()


def _some_of_each(examples: Mapping[str, Sequence[Example]]) -> tuple[Example, ...]:
    """Selects at most `MAX_EXAMPLES` examples, taking turns between the codes, and sorts them by code."""
    rounds = itertools.zip_longest(*(examples[code] for code in sorted(examples)))
    in_turn = (example for one_of_each in rounds for example in one_of_each if example)
    return tuple(sorted(itertools.islice(in_turn, MAX_EXAMPLES), key=lambda example: (example.error, example.photo)))


def _without_row(planned: Plan, counts: Mapping[int, int], files: Iterable[str]) -> Iterator[str]:
    """Yields the planned photos without a row; reads only the shards with an unexpected number of rows."""
    paths = {layout.index_of(path): path for path in files}
    for shard in planned.shards:
        if shard.is_gone or counts.get(shard.index) == shard.photos:
            continue
        expected = collections.Counter(ref.photo for ref in frozen_plan.read_shard(shard).photos)
        if shard.index in paths:
            (table,) = rows.read_tables([paths[shard.index]], ["photo"])
            expected -= collections.Counter(table["photo"].to_pylist())
        yield from expected.elements()
