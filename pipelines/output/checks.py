"""Checks the committed rows: each file, each run against its plan and report, and all rows against a listing."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple

import numpy as np

from beamscribe.model.documents import DamagedDocumentError
from beamscribe.model.errors import one_line
from beamscribe.pipelines import stores
from beamscribe.pipelines.output import (
    compaction,
    current,
    folding,
    frozen_plan,
    layout,
    listed,
    report,
    row_index,
    rows,
)
from beamscribe.pipelines.output.current import Chosen
from beamscribe.pipelines.output.row_index import FileContent, RowIndex
from beamscribe.pipelines.output.run_documents import Compaction, Config, Report, document_kinds
from beamscribe.pipelines.photos import CAPTIONED, FAILED, GONE, TAKEN_OVER, PhotoRef

# The maximum number of photos that are named per kind of finding; others are only counted.
MAX_NAMED = 20

_RESTORE = "restore it from a backup, or delete it and run `beamscribe caption` and then `beamscribe compact`"
_RESTORE_MISSING = "restore it from a backup, or run `beamscribe caption` and then `beamscribe compact`"
_HISTORY = (
    "restore it from a backup; the captions do not depend on it, and after `beamscribe compact` nothing else does"
)
_COMPACT = "run `beamscribe compact`, which keeps only the rows that may still count"
_CAPTION = "run `beamscribe caption`"
_CAPTION_MOVED = f"{_CAPTION}, which takes its caption over"


class Finding(NamedTuple):
    """A problem in an output folder.

    Attributes:
      subject: the file or photo that has the problem.
      problem: what is wrong with it; continues the sentence that starts with the subject.
      remedy: what to do.
    """

    subject: str
    problem: str
    remedy: str


class Result(NamedTuple):
    """The result of a check.

    Attributes:
      findings: problems.
      notes: facts that are no problems.
      files, runs, rows: numbers of committed files, of their runs and of their rows.
      photos: number of different photos among the rows.
    """

    findings: list[Finding]
    notes: list[str]
    files: int
    runs: int
    rows: int
    photos: int


def verify(output: str, listing: Iterable[PhotoRef] | None = None) -> Result:
    """Checks an output folder.

    Args:
      output: the folder that holds the captions of all runs.
      listing: the photos that exist now; None to skip the comparison.

    Raises:
      OSError: the store reported an error while the folder was listed.
      BeamscribeError: a newer version of Beamscribe wrote a file of the folder.
    """
    paths = layout.committed_files(output)
    findings: list[Finding] = []
    records = _read_records(output, findings)
    files, table, problems = row_index.read_files(paths)
    findings.extend(Finding(path, problem, _RESTORE) for path, several in problems.items() for problem in several)
    compactions = {run for run in map(layout.run_of, paths) if layout.is_compaction(run)}
    compactions |= {record.run for record in records}
    findings.extend(_twice_in_a_run(table, compactions))
    findings.extend(_captioned_again(output, table, compactions))

    folded = {run for record in records for run in record.runs}
    finished = report.finished_runs(output)
    by_run = {run: set(of_run) for run, of_run in itertools.groupby(paths, layout.run_of)}
    for run in sorted(finished - folded):
        findings.extend(_check_run(output, run, by_run.get(run, set()), files))
    for record in compaction.live(records):
        findings.extend(_check_compaction(output, record, by_run.get(record.run, set()), files))

    named = {finding.subject for finding in findings}
    findings.extend(finding for finding in _documents(output) if finding.subject not in named)

    unfinished = by_run.keys() - folded - finished - {record.run for record in records}
    chosen = current.choose(table.columns.photos, table.columns.keys)
    notes = [
        *_unfinished(run for run in unfinished if not layout.edit_number(run)),
        *_copies(table),
        *_to_look_at(table, chosen),
        *_temporary(output),
    ]
    if listing is not None:
        compared = listed.compare(table, chosen, listing, MAX_NAMED)
        findings.extend(_without_caption(compared))
        notes.append(_summary(compared))
    return Result(findings, notes, len(paths), len(by_run), len(table), len(chosen.current))


def _read_records(output: str, findings: list[Finding]) -> list[Compaction]:
    records = []
    for path in layout.run_files(output, layout.COMPACTION):
        try:
            records.append(compaction.read_record(path))
        except (OSError, DamagedDocumentError) as error:
            findings.append(Finding(path, _problem(error), "restore it from a backup"))
    return records


def _documents(output: str) -> Iterator[Finding]:
    """Finds the JSON files of runs that are damaged."""
    for name, kind in document_kinds().items():
        for path in layout.run_files(output, name):
            try:
                kind.from_json(stores.read(path), path)
            except (OSError, DamagedDocumentError) as error:
                yield Finding(path, _problem(error), _HISTORY)


def _twice_in_a_run(table: RowIndex, compactions: Set[str]) -> Iterator[Finding]:
    """Finds the photos that have several rows in one run; in a compaction, of one run and time."""
    photos, keys, runs = table.columns.photos, table.columns.keys, table.runs
    order = np.lexsort((keys.kinds, keys.written_at, keys.run_numbers, runs, photos))
    _, later = _equal_neighbours(order, photos, runs)
    _, same = _equal_neighbours(order, photos, runs, keys.run_numbers, keys.written_at, keys.kinds)
    may_be_several = np.array([layout.run_of(path) in compactions for path in table.paths], bool)
    later = later[~may_be_several[table.files(later)] | np.isin(later, same)]
    for photo, path in table.names(later[:MAX_NAMED]):
        yield Finding(photo, f"has two rows in run {layout.run_of(path)}, the second one in {path}", _COMPACT)
    yield from _and_more(len(later), "photos have two rows in one run", _COMPACT)


def _captioned_again(output: str, table: RowIndex, compactions: Set[str]) -> Iterator[Finding]:
    """Finds the photos that a run captioned although a row for the same bytes, model and settings existed."""
    photos, keys, models, is_made = table.columns
    order = current.by_precedence(keys)
    # The numbers of edits are none of runs.
    order = order[(keys.kinds[order] & current.IS_EDIT) == 0]
    order = order[np.argsort(photos[order], kind="stable")]
    earlier, later = _equal_neighbours(order, photos, keys.etags, models)
    # Rows with the same number and time are copies: a compaction writes them before it deletes the old files.
    again = (keys.written_at[earlier] != keys.written_at[later]) | (
        keys.run_numbers[earlier] != keys.run_numbers[later]
    )
    again &= is_made[earlier] & is_made[later]
    earlier, later = earlier[again], later[again]
    runs = table.runs
    is_other = runs[earlier] != runs[later]
    earlier, later = earlier[is_other], later[is_other]

    # The configurations of the runs that a compaction merged are not compared: they may no longer exist.
    of_files = table.files(later)
    asked = {
        file
        for file in set(of_files.tolist())
        if layout.run_of(table.paths[file]) in compactions or _was_asked_for_all(output, table.paths[file])
    }
    wrong = ~np.isin(of_files, list(asked))
    earlier, later = earlier[wrong], later[wrong]
    names = zip(table.names(earlier[:MAX_NAMED]), table.names(later[:MAX_NAMED]), strict=True)
    for (photo, first), (_, second) in names:
        problem = f"was captioned twice by the same model with the same settings: in {first} and in {second}"
        yield Finding(photo, problem, _COMPACT)
    yield from _and_more(len(later), "photos were captioned twice by the same model with the same settings", _COMPACT)


def _was_asked_for_all(output: str, path: str) -> bool:
    """Whether the run of a file was asked to caption everything again."""
    config = layout.run_file(output, layout.run_of(path), layout.CONFIG)
    try:
        return "all" in Config.from_json(stores.read(config), config).recaption
    except (OSError, DamagedDocumentError):
        return False


def _equal_neighbours(order: np.ndarray, *columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the pairs of adjacent rows, in an order, that are equal in some columns.

    Returns:
      `[pairs]`, indices of the first rows, and `[pairs]`, indices of the second rows.
    """
    earlier, later = order[:-1], order[1:]
    equal = np.logical_and.reduce([column[earlier] == column[later] for column in columns])
    return earlier[equal], later[equal]


def _and_more(count: int, problem: str, remedy: str) -> Iterator[Finding]:
    if count > MAX_NAMED:
        yield Finding(f"{count - MAX_NAMED:,} more", problem, remedy)


def _check_run(output: str, run: str, paths: Set[str], files: Mapping[str, FileContent]) -> Iterator[Finding]:
    """Compares the files of a finished run with its plan and, if they agree, with its report."""
    folder = layout.run_folder(output, run)
    try:
        planned = frozen_plan.read(folder)
        problem = "is missing"
    except (OSError, DamagedDocumentError) as error:
        planned, problem = None, _problem(error)
    if planned is None:
        yield Finding(frozen_plan.path_of(folder), problem, _HISTORY)
        return
    expected = {layout.shard_file(output, run, shard.index): shard.photos for shard in planned.shards}
    findings = [*_compare_files(expected, paths, files)]
    unplanned = sorted(paths - expected.keys())
    remedy = "delete it if you put it there"
    findings += [Finding(path, "is not in the plan of its run", remedy) for path in unplanned]
    yield from findings
    if not findings and files.keys() >= expected.keys():
        yield from _check_report(folder, [files[path] for path in expected])


def _compare_files(expected: Mapping[str, int], paths: Set[str], files: Mapping[str, FileContent]) -> Iterator[Finding]:
    """Finds the files that are missing, or have another number of rows than expected."""
    for path, count in expected.items():
        if path not in paths:
            yield Finding(path, f"is missing, with {count:,} rows", _RESTORE_MISSING)
        elif path in files and files[path].rows != count:
            yield Finding(path, f"has {files[path].rows:,} rows instead of {count:,}", _RESTORE)


def _check_report(folder: str, files: Sequence[FileContent]) -> Iterator[Finding]:
    path = stores.join(folder, layout.REPORT)
    try:
        report = Report.from_json(stores.read(path), path)
    except (OSError, DamagedDocumentError) as error:
        yield Finding(path, _problem(error), _HISTORY)
        return
    said = {
        TAKEN_OVER: report.taken_over,
        CAPTIONED: report.captioned,
        FAILED: report.failed,
        GONE: report.gone,
    }
    for status, number in said.items():
        count = sum(file.statuses.get(status, 0) for file in files)
        if number != count:
            name = status.replace("_", " ")
            problem = f"states {number:,} {name} photos, but the shards hold {count:,} {name} rows"
            yield Finding(path, problem, _HISTORY)
    if report.listed != report.skipped + report.taken_over + report.captioned + report.failed:
        yield Finding(
            path,
            f"does not add up: listed {report.listed:,} is not skipped {report.skipped:,} + taken over "
            f"{report.taken_over:,} + captioned {report.captioned:,} + failed {report.failed:,}",
            _HISTORY,
        )


def _problem(error: Exception) -> str:
    """What is wrong with a JSON file that could not be read."""
    if isinstance(error, FileNotFoundError):
        return "is missing"
    return error.problem if isinstance(error, DamagedDocumentError) else f"can't be read ({one_line(error)})"


def _check_compaction(
    output: str, record: Compaction, paths: Set[str], files: Mapping[str, FileContent]
) -> Iterator[Finding]:
    """Compares the files of a compaction with its record, and with the old files that are left."""
    sources, tombstones = (
        sorted(files.keys() & {stores.join(output, file.file) for file in of_kind})
        for of_kind in (record.sources, record.gone)
    )
    try:
        problem = folding.not_folded(output, record, sources, tombstones)
    except (OSError, rows.UnreadableFileError):
        # The damaged file has a finding of its own.
        problem = None
    if problem:
        path = layout.run_file(output, record.run, layout.COMPACTION)
        yield Finding(path, f"does not fit the files that it names as new: {problem}", "delete it")
    results = {stores.join(output, file.file): file for file in record.results}
    yield from _compare_files({path: file.rows for path, file in results.items()}, paths, files)
    for path, file in results.items():
        if path in files and files[path].rows == file.rows and files[path].digest != file.digest:
            yield Finding(path, "holds other values than those that were written", _RESTORE)


def _unfinished(runs: Iterable[str]) -> Iterator[str]:
    for run in sorted(runs):
        yield f"run {run} is not finished: it is still running, or it was stopped; its committed rows count"


def _copies(table: RowIndex) -> Iterator[str]:
    photos, keys, models, _ = table.columns
    runs, columns = table.runs, (models, keys.etags, keys.kinds, keys.written_at, keys.run_numbers, photos)
    earlier, later = _equal_neighbours(np.lexsort(columns), *columns)
    copies = int((runs[earlier] != runs[later]).sum())
    if copies:
        yield f"{copies:,} rows exist twice, since a compaction was interrupted; `beamscribe compact` completes it"


def _to_look_at(table: RowIndex, chosen: Chosen) -> Iterator[str]:
    """Names photos that a person has captioned, and whose picture has changed since."""
    found = chosen.person[chosen.to_look_at]
    if len(found):
        names = ", ".join(photo for photo, _ in table.names(found[:MAX_NAMED]))
        more = f" and {len(found) - MAX_NAMED:,} more" if len(found) > MAX_NAMED else ""
        yield (
            f"photos whose picture has changed since a person captioned them, so that the person's caption does not "
            f"stand: {len(found):,}; look at {names}{more}"
        )


def _temporary(output: str) -> Iterator[str]:
    left = layout.temporary_files(output)
    if left:
        yield (
            f"temporary files that killed writers left: {len(left):,}, for example {left[0]}; "
            "`beamscribe compact` deletes them"
        )


def _without_caption(compared: listed.Comparison) -> Iterator[Finding]:
    """Names listed photos that need a caption."""
    problems = {
        "new": (compared.new, "has no row"),
        "changed": (compared.changed, "changed after its row was written"),
        "returned": (compared.back, "is there again after it was gone"),
    }
    for name, (group, problem) in problems.items():
        yield from (Finding(photo, problem, _CAPTION) for photo in group.named)
        yield from _and_more(group.photos, f"{name} photos", _CAPTION)
    for photo, origin in zip(compared.moved.named, compared.origins, strict=True):
        yield Finding(photo, f"seems to have been moved from {origin}", _CAPTION_MOVED)
    yield from _and_more(compared.moved.photos, "moved photos", _CAPTION_MOVED)


def _summary(compared: listed.Comparison) -> str:
    moved, back = compared.moved.photos, compared.back.photos
    return (
        f"listed {compared.listed:,} photos: {compared.new.photos:,} without a row, "
        + (f"{moved:,} moved, " if moved else "")
        + f"{compared.changed.photos:,} changed after their row was written"
        + (f", {back:,} there again after they were gone" if back else "")
        + f"; {compared.unlisted:,} photos with rows are not listed"
    )
