"""Compacts the rows of many runs to a few files: those that may still count (`current.kept`), sorted by photo.

The new files form a run, so every reader understands them. A compaction writes them, reads them back and compares them
with the old rows. Then it creates `compaction.json`, which commits the new files, and only then deletes the old files.

Whenever the process is killed, each of these rows exists once or twice, and the copies are equal. Without its
`compaction.json`, an interrupted compaction is a run like any other, and the next compaction includes its rows. With
it, the next compaction deletes the old files that are left. A compaction that stood still, and lost its lease, writes
and deletes nothing more.

Photos that are dropped because they are no longer there have many old rows, which are not deleted at once. So that none
of these photos comes back meanwhile, the new run also has files with the row that says that it is gone, which are
deleted last.
"""

import concurrent.futures
import datetime
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beamscribe.model.documents import DamagedDocumentError
from beamscribe.model.errors import BeamscribeError, OutputInUse, one_line
from beamscribe.pipelines import stores
from beamscribe.pipelines.output import copies, current, digests, folding, layout, places, report, rows
from beamscribe.pipelines.output.places import closing_file
from beamscribe.pipelines.output.run_documents import Compaction, FileRecord
from beamscribe.pipelines.output.sorting import KeptByPhoto
from beamscribe.pipelines.photos import SCHEMA_VERSION, versioned_schema

# A new file ends when it reaches either limit.
FILE_ROWS = 1_000_000
FILE_BYTES = 128 << 20
GROUP_ROWS = 100_000

_LOST = "another job has taken the output over, because this one seemed dead; nothing more was deleted, run it again"

# Files that are deleted in parallel: deleting from a remote store is mostly waiting.
_DELETERS = 16


class Outcome(NamedTuple):
    """The result of `compact`.

    Attributes:
      folded: record of the compaction; None if there was nothing to compact.
      left_over: number of old files that an interrupted compaction had left, and that were deleted.
    """

    folded: Compaction | None
    left_over: int


class Lease(NamedTuple):
    """The lease of the output that a compaction works on.

    Attributes:
      number: its number; 0 for none.
      is_held: whether no other job has taken it since.
      run: id of the compaction's run.
    """

    number: int
    is_held: Callable[[], bool]
    run: str

    def check(self) -> None:
        """Looks at the lease.

        Raises:
          OutputInUse: another job has taken it.
        """
        if not self.is_held():
            raise OutputInUse(_LOST)

    @classmethod
    def none(cls) -> "Lease":
        """For an output that no other job can write to."""
        return cls(0, lambda: True, layout.new_run(compaction=True))


def compact(output: str, lost: Sequence[str] = (), lease: Lease | None = None, prune_gone: bool = False) -> Outcome:
    """Compacts all runs of an output folder to one run. The caller must hold the folder's lease.

    Args:
      output: the folder that holds the captions of all runs.
      lost: a list to which another thread adds the reason if this job loses the lease; then nothing is committed.
      lease: the lease, which is looked at before each deletion; None if no other job can write to the folder.
      prune_gone: whether to drop the rows of photos that are no longer there.

    Raises:
      OutputInUse: another job has taken the lease.
      BeamscribeError: a file is damaged; no row that may still count was deleted.
      OSError: the store reported an error.
    """
    lease = lease or Lease.none()
    # The writers of these files were killed, since no other job writes now.
    _delete(layout.temporary_files(output), lease)
    known = live(list(map(read_record, layout.run_files(output, layout.COMPACTION))))
    files = places.to_fold(output)
    left_over = sum(_finish(output, record, files, lease) for record in known)
    files = places.to_fold(output) if left_over else files
    is_compacted = any([stores.join(output, file.file) for file in record.results] == files for record in known)
    if not files or (is_compacted and not (prune_gone and folding.has_gone(files))):
        return Outcome(None, left_over)
    folded = _fold(output, files, known, lost, lease, prune_gone)
    _replace_files(output, folded, files, lease)
    return Outcome(folded, left_over)


def read_record(path: str) -> Compaction:
    """Reads the record of a compaction.

    Args:
      path: path of a `compaction.json`.

    Raises:
      OSError: the store reported an error.
      DocumentError: the record is damaged, or a newer version wrote it.
    """
    record = Compaction.from_json(stores.read(path), path)
    if record.run != layout.run_of_file(path):
        raise DamagedDocumentError(path, f"is damaged: it is of run {record.run}, not of its own", record.REMEDY)
    for file in (*record.sources, *record.results, *record.gone):
        if not layout.is_shard_name(file.file):
            raise DamagedDocumentError(path, f"is damaged: {file.file} is no shard file", record.REMEDY)
    for is_own, files in ((True, (*record.results, *record.gone)), (False, record.sources)):
        for file in files:
            if (layout.run_of(file.file) == record.run) != is_own:
                kind = "new" if is_own else "old"
                raise DamagedDocumentError(path, f"is damaged: {file.file} is no {kind} file of its run", record.REMEDY)
    return record


def live(known: Sequence[Compaction]) -> list[Compaction]:
    """The compactions whose files were not compacted again; only these can have been interrupted."""
    folded = {run for record in known for run in record.runs}
    return [record for record in known if record.run not in folded]


def _finish(output: str, record: Compaction, files: Sequence[str], lease: Lease) -> int:
    """Deletes the old files that an interrupted compaction left, and returns their number."""
    left, tombstones = (_among(output, of_kind, files) for of_kind in (record.sources, record.gone))
    # The new files may have been damaged since they were written, or their record, and soon they will be the only ones.
    problem = None
    if left or tombstones:
        problem = folding.problem_of(output, record) or folding.not_folded(output, record, left, tombstones)
    if problem:
        path = layout.run_file(output, record.run, layout.COMPACTION)
        raise BeamscribeError(
            f"the files of run {record.run} are damaged ({problem}), and no more files were deleted; "
            f"restore them from a backup, or delete {path} and run `beamscribe compact` again"
        )
    _replace_files(output, record, left, lease)
    return len(left) + len(tombstones)


def _among(output: str, records: Iterable[FileRecord], files: Iterable[str]) -> list[str]:
    """Those of some files that are in records."""
    recorded = {stores.join(output, file.file) for file in records}
    return [path for path in files if path in recorded]


def _fold(
    output: str, files: Sequence[str], known: Sequence[Compaction], lost: Sequence[str], lease: Lease, prune_gone: bool
) -> Compaction:
    """Writes the new files, reads them back, checks them, and commits them."""
    sources = []
    kept = _KeptDigests()
    with KeptByPhoto(GROUP_ROWS, prune_gone) as merged:
        for path, data in rows.read_ahead(stores.read, files):
            try:
                sources.append(_add(path, path.removeprefix(f"{output}/"), data.result(), merged, kept))
            except rows.DAMAGE as error:
                raise BeamscribeError(
                    f"can't read {path} ({one_line(error)}), and nothing was deleted; "
                    f"`beamscribe verify {output}` says what to do"
                ) from None
        results = tuple(_write(output, lease, merged.tables()))
        gone = tuple(_write(output, lease, merged.pruned(), len(results)))
    # Runs without files are included: they captioned nothing, or their files are lost.
    runs = {*map(layout.run_of, files), *report.finished_runs(output), *(record.run for record in known)}
    count, digest, pruned = kept.total(prune_gone)
    record = Compaction(
        run=lease.run,
        written_at=datetime.datetime.now(datetime.UTC),
        runs=tuple(sorted(runs)),
        rows=count,
        digest=f"{digest:016x}",
        sources=tuple(sources),
        results=results,
        gone=gone,
        edits=max([kept.edits, *map(layout.edit_number, runs), *(record.edits for record in known)]),
    )
    problem = next(iter(lost), None) or _problem(output, record, pruned)
    if problem:
        # Without their record, readers would take these files for a run.
        _delete((stores.join(output, file.file) for file in (*results, *gone)), lease)
        raise BeamscribeError(f"the new files are not valid ({problem}), and the old files are unchanged; try again")
    lease.check()
    stores.create(layout.run_file(output, lease.run, layout.COMPACTION), record.to_json())
    return record


def _problem(output: str, record: Compaction, pruned: int) -> str | None:
    """What is wrong with new files, of which nothing is known to be right; None if nothing is.

    Args:
      output: the folder that holds the captions of all runs.
      record: their record.
      pruned: number of photos that the rule drops.
    """
    if record.pruned != pruned:
        return f"{record.pruned:,} photos were dropped instead of {pruned:,}"
    problem = folding.problem_of(output, record)
    if problem or not record.gone:
        return problem
    try:
        return folding.not_folded(output, record, (), [stores.join(output, file.file) for file in record.gone])
    except rows.UnreadableFileError as error:
        return error.problem


def _add(path: str, name: str, data: bytes, merged: KeptByPhoto, kept: "_KeptDigests") -> FileRecord:
    """Adds one old file, of any schema version. The digest in its record covers the columns that it has."""
    file = rows.ShardFile(data, path)
    file.check_columns()
    digest = 0
    for table in file.batches():
        table.validate(full=True)
        of_rows = digests.of_rows(table)
        own = of_rows if file.version == SCHEMA_VERSION else digests.of_rows(table, file.columns)
        digest = digests.add(digest, digests.total(own))
        kept.add(table, of_rows)
        merged.add(table)
    return FileRecord(name, file.rows, len(data), f"{digest:016x}")


class _KeptDigests:
    """The digests of the rows that may still count, to check the new files: selected in another way than by the merge.

    It takes 65 bytes per row.

    Attributes:
      edits: greatest number of an edit among the rows; 0 if there is none.
    """

    def __init__(self) -> None:
        self.edits = 0
        self._photos: list[np.ndarray] = [np.empty(0, "S16")]
        self._keys: list[current.Keys] = []
        self._rows: list[np.ndarray] = [np.empty(0, np.uint64)]

    def add(self, table: pa.Table, of_rows: np.ndarray) -> None:
        """Adds rows and their digests, in the order of their files."""
        keys = current.Keys.of(table)
        self._photos.append(digests.of_rows(table, ["photo"]))
        self._keys.append(keys)
        self._rows.append(digests.halves(of_rows))
        is_edit = (keys.kinds & current.IS_EDIT) != 0
        self.edits = max(self.edits, int(keys.run_numbers.max(where=is_edit, initial=0)))

    def total(self, prune_gone: bool) -> tuple[int, int, int]:
        """The number of rows, their digest total, and the number of photos that are dropped.

        Args:
          prune_gone: whether photos that are no longer there are dropped.
        """
        photos, keys = np.concatenate(self._photos), current.Keys.concatenated(self._keys)
        kept = current.kept(photos, keys, prune_gone=prune_gone)
        dropped = current.kept(photos, keys) & ~kept if prune_gone else np.zeros(len(photos), bool)
        digest = int(np.concatenate(self._rows)[kept].sum(dtype=np.uint64))
        return int(kept.sum()), digest, len(np.unique(photos[dropped]))


def _write(output: str, lease: Lease, groups: Iterable[pa.Table], start: int = 0) -> Iterator[FileRecord]:
    """Writes tables as row groups, to as few files as their size allows; `start` is the number of the first one.

    Raises:
      OutputInUse: one of the files is there: another job has taken the lease, and closed this run.
    """
    groups = iter(groups)
    for index in itertools.count(start):
        first = next(groups, None)
        if first is None:
            return
        buffer = io.BytesIO()
        count = digest = 0
        with pq.ParquetWriter(
            buffer, versioned_schema(lease.number), compression="zstd", write_page_checksum=True
        ) as writer:
            for group in itertools.chain([first], groups):
                writer.write_table(group)
                count += len(group)
                digest = digests.add(digest, digests.total(digests.of_rows(group)))
                if count >= FILE_ROWS or buffer.tell() >= FILE_BYTES:
                    break
        name = layout.shard_name(lease.run, index)
        if not stores.create(stores.join(output, name), buffer.getvalue()):
            raise OutputInUse(_LOST)
        yield FileRecord(name, count, buffer.tell(), f"{digest:016x}")


def _replace_files(output: str, record: Compaction, sources: Iterable[str], lease: Lease) -> None:
    """Deletes old files, and replaces their copies in other formats by copies of the new files."""
    tombstones = [stores.join(output, file.file) for file in record.gone]
    _delete(sources, lease, places.to_keep(output), closing_file(lease.number))
    _delete(filter(stores.exists, tombstones), lease)
    folded = frozenset(record.runs)
    for kind in layout.EXTENSIONS:
        of_gone = {layout.copy_of(output, path, kind) for path in tombstones}
        old_copies = [path for path in layout.copies(output, kind) if layout.run_of(path) in folded or path in of_gone]
        if not old_copies:
            continue
        for pair in copies.missing(output, kind):
            if layout.run_of(pair[0]) == record.run:
                copies.export(pair, kind)
        _delete(old_copies, lease)


def _delete(files: Iterable[str], lease: Lease, kept: Set[str] = frozenset(), closing: bytes = b"") -> None:
    """Deletes files, those of the last run first: among copies of a row, readers use that of the first run.

    Args:
      files: the files.
      lease: looked at before each deletion.
      kept: runs whose files become closing files instead: something of these runs may wake up and write them again.
      closing: bytes of a closing file.

    Raises:
      OutputInUse: another job has taken the lease; no more files were deleted.
      OSError: the store reported an error.
    """

    def delete(path: str) -> None:
        lease.check()
        if layout.run_of(path) in kept:
            stores.replace(path, closing)
        else:
            stores.delete(path)

    for _, of_run in itertools.groupby(sorted(files, reverse=True), layout.run_of):
        with concurrent.futures.ThreadPoolExecutor(_DELETERS) as deleters:
            # The list raises the first error of the deletions.
            list(deleters.map(delete, of_run))
