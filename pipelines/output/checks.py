"""Checks what is committed: every file by itself, the runs against their plans and reports, and all against a listing.

Millions of photos fit in memory: a row is three digests of 16 bytes, a time, and where it is.
"""

import collections
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beamscribe.pipelines import plan, stores
from beamscribe.pipelines.failures import ErrorCode
from beamscribe.pipelines.output import compaction, digests, rows
from beamscribe.pipelines.output.compaction import Compaction
from beamscribe.pipelines.photos import CAPTION_SCHEMA, CAPTIONED, FAILED, PhotoRef

# Photos that are named of each kind of finding that may concern all of them.
MAX_NAMED = 20

_CODES = [code.value for code in ErrorCode]
_LISTED_AT_ONCE = 10_000

# What damaged JSON raises, and JSON that says something else.
_NOT_JSON = (ValueError, KeyError, TypeError)

_RESTORE = "restore it from a copy, or delete it, run `beamscribe caption` again and then `beamscribe compact`"
_RESTORE_MISSING = "restore it from a copy, or run `beamscribe caption` again and then `beamscribe compact`"
_HISTORY = (
    "restore it from a copy; the captions themselves do not need it, nor does anything after `beamscribe compact`"
)
_COMPACT = "run `beamscribe compact`, which keeps the latest row"
_CAPTION = "run `beamscribe caption`"


class Finding(NamedTuple):
    """Something that is wrong: the file, run or photo, what is wrong with it, and what to do."""

    subject: str
    problem: str
    remedy: str


class Result(NamedTuple):
    """What a check came to.

    Attributes:
      findings: what is wrong.
      notes: what is worth knowing.
      files, runs, rows: how many are committed.
      photos: how many different ones the rows are of.
    """

    findings: list[Finding]
    notes: list[str]
    files: int
    runs: int
    rows: int
    photos: int


class _File(NamedTuple):
    """What was read of one file: rows of each status and of all, the total of their digests, and what is wrong."""

    captioned: int
    failed: int
    rows: int
    digest: str
    problems: tuple[str, ...]


def verify(output: str, listing: Iterable[PhotoRef] | None = None) -> Result:
    """Checks an output folder.

    Args:
      output: the folder that holds the captions of all runs.
      listing: the photos that there are now; None not to compare with them.

    Raises:
      OSError: the folder can't be listed.
    """
    paths = rows.committed_files(output)
    findings: list[Finding] = []
    records = _read_records(output, findings)
    files, table = _read_files(paths, findings)
    findings.extend(_twice_in_a_run(table))
    findings.extend(_captioned_again(output, table, {record.run for record in records}))

    folded = {run for record in records for run in record.runs}
    finished = rows.finished_runs(output)
    by_run = {run: set(of_run) for run, of_run in itertools.groupby(paths, rows.run_of)}
    for run in sorted(finished - folded):
        findings.extend(_check_run(output, run, by_run.get(run, set()), files))
    for record in compaction.live(records):
        findings.extend(_check_compaction(output, record, by_run.get(record.run, set()), files))

    notes = [
        *_unfinished(by_run.keys() - folded - finished - {record.run for record in records}),
        *_copies(table),
        *_temporary(output),
    ]
    if listing is not None:
        notes.append(_compare(table, listing, findings))
    return Result(findings, notes, len(paths), len(by_run), len(table.photos), len(np.unique(table.photos)))


class _Table(NamedTuple):
    """All rows, as arrays of the same length.

    Attributes:
      paths: the files; the other fields are about rows.
      photos: digests of the photos' names.
      versions: digests of name and etag.
      work: digests of what a caption is made once for: name, etag, model and settings.
      times: of writing.
      captioned: whether there is a caption.
      files: index of the file.
      runs: number of the run.
      places: where in the file.
    """

    paths: Sequence[str]
    photos: np.ndarray
    versions: np.ndarray
    work: np.ndarray
    times: np.ndarray
    captioned: np.ndarray
    files: np.ndarray
    runs: np.ndarray
    places: np.ndarray

    def path(self, index: int) -> str:
        """The file of a row."""
        return self.paths[self.files[index]]

    def names(self, indices: Iterable[int]) -> Iterator[tuple[str, str]]:
        """Name and file of some rows."""
        for index in indices:
            path = self.path(index)
            yield rows.read_table(path, ["photo"])["photo"][int(self.places[index])].as_py(), path


def _read_records(output: str, findings: list[Finding]) -> list[Compaction]:
    records = []
    for path in compaction.record_files(output):
        try:
            records.append(compaction.read_record(path))
        except (OSError, ValueError) as error:
            findings.append(Finding(path, f"can't be read ({error})", "restore it from a copy"))
    return records


def _read_files(paths: Sequence[str], findings: list[Finding]) -> tuple[dict[str, _File], _Table]:
    """Reads all files; what is wrong with one by itself becomes a finding."""
    runs = {run: number for number, run in enumerate(sorted({rows.run_of(path) for path in paths}))}
    files: dict[str, _File] = {}
    parts = [_no_rows()]
    for index, (path, data) in enumerate(rows.read_ahead(stores.read, paths)):
        try:
            files[path], of_file = _read_file(data.result(), index, runs[rows.run_of(path)])
        except (OSError, pa.ArrowException) as error:
            findings.append(Finding(path, f"can't be read ({' '.join(str(error).split())[:200]})", _RESTORE))
            continue
        parts.extend(of_file)
        findings.extend(Finding(path, problem, _RESTORE) for problem in files[path].problems)
    return files, _Table(paths, *(np.concatenate(column) for column in zip(*parts, strict=True)))


def _read_file(data: bytes, index: int, run: int) -> tuple[_File, list[tuple[np.ndarray, ...]]]:
    """Reads one file.

    Args:
      data: its bytes.
      index: of its path.
      run: number of its run.

    Returns:
      What it holds, and its rows as parts of the arrays of `_Table`.

    Raises:
      OSError, pa.ArrowException: it is damaged.
    """
    file = rows.open_file(data)
    if not file.schema_arrow.equals(CAPTION_SCHEMA):
        raise pa.ArrowInvalid(_difference(file.schema_arrow))
    parts = []
    problems: collections.Counter[str] = collections.Counter()
    captioned = failed = count = digest = 0
    for table in rows.batches(file):
        table.validate(full=True)
        parts.append(_as_arrays(table, index, run, count))
        problems.update(_insane(table))
        captioned += _count(pc.equal(table["status"], CAPTIONED))
        failed += _count(pc.equal(table["status"], FAILED))
        count += len(table)
        digest = digests.add(digest, digests.total(digests.of_rows(table)))
    lines = tuple(f"{wrong:,} {problem}" for problem, wrong in problems.items() if wrong)
    return _File(captioned, failed, count, f"{digest:016x}", lines), parts


def _as_arrays(table: pa.Table, index: int, run: int, start: int) -> tuple[np.ndarray, ...]:
    """The arrays of `_Table` for some rows of a file, of which `start` is the first one's place."""
    return (
        digests.of_rows(table, ["photo"]),
        digests.of_rows(table, ["photo", "etag"]),
        digests.of_rows(table, ["photo", "etag", "model", "settings"]),
        table["written_at"].cast(pa.int64()).to_numpy(),
        pc.equal(table["status"], CAPTIONED).to_numpy(),
        np.full(len(table), index, np.int32),
        np.full(len(table), run, np.int32),
        np.arange(start, start + len(table), dtype=np.int32),
    )


def _no_rows() -> tuple[np.ndarray, ...]:
    return _as_arrays(CAPTION_SCHEMA.empty_table(), 0, 0, 0)


def _difference(schema: pa.Schema) -> str:
    """What is the first thing that differs from the columns of captions."""
    for found, wanted in itertools.zip_longest(schema, CAPTION_SCHEMA):
        if found is None or wanted is None or not found.equals(wanted):
            return f"its columns are not those of captions: {_field(found)} where {_field(wanted)} should be"
    return "its columns are not those of captions"


def _field(field: pa.Field | None) -> str:
    return f"{field.name} ({field.type}{'' if field.nullable else ' not null'})" if field is not None else "nothing"


def _insane(table: pa.Table) -> dict[str, int]:
    """What is wrong with the values of some rows, and in how many of them."""
    captioned, failed = pc.equal(table["status"], CAPTIONED), pc.equal(table["status"], FAILED)
    has_caption, has_code = pc.is_valid(table["caption"]), pc.is_in(table["error"], value_set=pa.array(_CODES))
    wrong = {
        "rows with a status that is neither captioned nor failed": pc.invert(pc.or_(captioned, failed)),
        "captioned rows without a caption": pc.and_not(captioned, has_caption),
        "failed rows with a caption": pc.and_(failed, has_caption),
        "failed rows without a known error code": pc.and_not(failed, has_code),
    }
    return {problem: _count(mask) for problem, mask in wrong.items()}


def _count(mask: pa.ChunkedArray) -> int:
    return pc.sum(mask).as_py() or 0


def _twice_in_a_run(table: _Table) -> Iterator[Finding]:
    """Photos of which one run has several rows."""
    _, later = _equal_neighbours(np.lexsort((table.runs, table.photos)), table.photos, table.runs)
    for photo, path in table.names(later[:MAX_NAMED]):
        yield Finding(photo, f"is twice in run {rows.run_of(path)}, the second time in {path}", _COMPACT)
    yield from _and_more(len(later), "photos are twice in a run", _COMPACT)


def _captioned_again(output: str, table: _Table, compactions: Set[str]) -> Iterator[Finding]:
    """Photos that a run has captioned though their latest row was of the same bytes, model and settings."""
    earlier, later = _equal_neighbours(np.lexsort((table.times, table.photos)), table.photos, table.work)
    # Rows of the same moment are copies: a compaction makes them before it deletes what it folded.
    again = (table.times[earlier] != table.times[later]) & (table.runs[earlier] != table.runs[later])
    again &= table.captioned[earlier] & table.captioned[later]
    earlier, later = earlier[again], later[again]

    # What a compaction holds is of runs of which it is not known any more what they were asked for.
    asked = {
        path for path in {table.path(row) for row in later} if rows.run_of(path) in compactions or _all(output, path)
    }
    wrong = np.array([table.path(row) not in asked for row in later], bool)
    earlier, later = earlier[wrong], later[wrong]
    names = zip(table.names(earlier[:MAX_NAMED]), table.names(later[:MAX_NAMED]), strict=True)
    for (photo, first), (_, second) in names:
        yield Finding(photo, f"was captioned in {first} and again, in the same way, in {second}", _COMPACT)
    yield from _and_more(len(later), "photos were captioned twice in the same way", _COMPACT)


def _all(output: str, path: str) -> bool:
    """Whether the run of a file was asked to caption everything again."""
    try:
        config = json.loads(stores.read(stores.join(output, "runs", rows.run_of(path), "config.json")))
        return "all" in config.get("recaption", [])
    except (OSError, AttributeError, *_NOT_JSON):
        return False


def _equal_neighbours(order: np.ndarray, *columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows that follow one another in an order and are equal in some columns: the first ones, the second."""
    earlier, later = order[:-1], order[1:]
    equal = np.logical_and.reduce([column[earlier] == column[later] for column in columns])
    return earlier[equal], later[equal]


def _and_more(count: int, problem: str, remedy: str) -> Iterator[Finding]:
    if count > MAX_NAMED:
        yield Finding(f"{count - MAX_NAMED:,} more", problem, remedy)


def _check_run(output: str, run: str, paths: Set[str], files: Mapping[str, _File]) -> Iterator[Finding]:
    """Compares a finished run's files with its plan, and with its report where they are as planned."""
    folder = stores.join(output, "runs", run)
    try:
        planned = plan.read(folder)
    except (OSError, *_NOT_JSON):
        planned = None
    if planned is None:
        yield Finding(plan.path_of(folder), "is not there or can't be read", _HISTORY)
        return
    expected = {
        stores.join(output, "captions", f"run={run}", f"shard-{shard.index:05d}.parquet"): shard.photos
        for shard in planned.shards
    }
    findings = [*_compare_files(expected, paths, files)]
    unplanned = sorted(paths - expected.keys())
    findings += [Finding(path, "is not in the plan of its run", "delete it if you put it there") for path in unplanned]
    yield from findings
    if not findings and files.keys() >= expected.keys():
        yield from _check_report(folder, [files[path] for path in expected])


def _compare_files(expected: Mapping[str, int], paths: Set[str], files: Mapping[str, _File]) -> Iterator[Finding]:
    """Files that are not there, or have another number of rows than expected."""
    for path, count in expected.items():
        if path not in paths:
            yield Finding(path, f"is missing, with {count:,} rows", _RESTORE_MISSING)
        elif path in files and files[path].rows != count:
            yield Finding(path, f"has {files[path].rows:,} rows, and should have {count:,}", _RESTORE)


def _check_report(folder: str, files: Sequence[_File]) -> Iterator[Finding]:
    path = stores.join(folder, "report.json")
    try:
        report = json.loads(stores.read(path))
        said = {status: int(report[status]) for status in (CAPTIONED, FAILED)}
        listed, skipped = int(report["listed"]), int(report["skipped"])
    except (OSError, *_NOT_JSON):
        yield Finding(path, "is not there or can't be read", _HISTORY)
        return
    found = {CAPTIONED: sum(file.captioned for file in files), FAILED: sum(file.failed for file in files)}
    for status, count in found.items():
        if said[status] != count:
            yield Finding(path, f"says {said[status]:,} {status}, but {count:,} rows are", _HISTORY)
    if listed != skipped + sum(said.values()):
        yield Finding(path, f"does not add up: listed {listed:,}, skipped {skipped:,}, {said}", _HISTORY)


def _check_compaction(
    output: str, record: Compaction, paths: Set[str], files: Mapping[str, _File]
) -> Iterator[Finding]:
    """Compares the files that others were folded into with the record of it."""
    results = {stores.join(output, file.file): file for file in record.results}
    yield from _compare_files({path: file.rows for path, file in results.items()}, paths, files)
    for path, file in results.items():
        if path in files and files[path].rows == file.rows and files[path].digest != file.digest:
            yield Finding(path, "holds other values than were written", _RESTORE)


def _unfinished(runs: Iterable[str]) -> Iterator[str]:
    for run in sorted(runs):
        yield f"run {run} is under way or was stopped; what it has committed counts"


def _copies(table: _Table) -> Iterator[str]:
    earlier, later = _equal_neighbours(np.lexsort((table.times, table.work)), table.work, table.times)
    copies = int((table.runs[earlier] != table.runs[later]).sum())
    if copies:
        yield f"{copies:,} rows are there twice, as copies; `beamscribe compact` goes on where it was stopped"


def _temporary(output: str) -> Iterator[str]:
    left = rows.temporary_files(output)
    if left:
        yield f"{len(left):,} temporary files of killed writers, {left[0]} for one; `beamscribe compact` deletes them"


def _compare(table: _Table, listing: Iterable[PhotoRef], findings: list[Finding]) -> str:
    """Compares the rows with the photos that there are; says how many there are, and finds those without a row."""
    photos, versions = np.unique(table.photos), np.unique(table.versions)
    seen = np.zeros(len(photos), bool)
    listed = 0
    without: dict[str, dict[bytes, str]] = {"new": {}, "changed": {}}
    for refs in _chunks(listing):
        listed += len(refs)
        listed_table = pa.table({"photo": [ref.photo for ref in refs], "etag": [ref.etag for ref in refs]})
        names = digests.of_rows(listed_table, ["photo"])
        known = digests.contains(photos, names)
        current = digests.contains(versions, digests.of_rows(listed_table, ["photo", "etag"]))
        seen[np.searchsorted(photos, names[known])] = True
        for index in np.flatnonzero(~current):
            kind = without["changed" if known[index] else "new"]
            # Inputs may overlap, so a photo may come twice; only those that are named keep their names.
            kind.setdefault(bytes(names[index]), refs[index].photo if len(kind) < MAX_NAMED else "")
    problems = {"new": "has no row", "changed": "has changed since its row was written"}
    for name, problem in problems.items():
        named = [photo for photo in without[name].values() if photo]
        findings.extend(Finding(photo, problem, _CAPTION) for photo in named)
        findings.extend(_and_more(len(without[name]), f"{name} photos", _CAPTION))
    return (
        f"listed {listed:,} photos: {len(without['new']):,} without a row, {len(without['changed']):,} changed since;"
        f" {int((~seen).sum()):,} photos with rows are not listed"
    )


def _chunks(listing: Iterable[PhotoRef]) -> Iterator[list[PhotoRef]]:
    refs = iter(listing)
    while chunk := list(itertools.islice(refs, _LISTED_AT_ONCE)):
        yield chunk
