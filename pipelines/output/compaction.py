"""Folds the rows of many runs into few files sorted by photo: the latest row of each, as `rows.latest` reads them.

The folded files are a run of their own, so that every reader understands them. They are read back and compared with
what was folded; then `compaction.json` is created, which commits them, and only then do the old files go.

Whatever moment a process is killed at, each row that counts is there once or twice, and the copies are equal. Without
its record a compaction is a run like others, which the next one folds with the rest. With it, the next one deletes what
is left of the old files.
"""

import concurrent.futures
import dataclasses
import datetime
import io
import itertools
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beamscribe.model.errors import UserError
from beamscribe.pipelines import export, stores
from beamscribe.pipelines.output import digests, rows
from beamscribe.pipelines.output.sorting import LatestByPhoto
from beamscribe.pipelines.photos import CAPTION_SCHEMA

# A file ends at the one that it reaches first.
FILE_ROWS = 1_000_000
FILE_BYTES = 128 << 20
GROUP_ROWS = 100_000

# Files that are deleted at once: on a remote store it is mostly waiting.
_DELETERS = 16


class FileRecord(NamedTuple):
    """A shard file: its path in the output folder, its size, and the total of its rows' digests, hexadecimal."""

    file: str
    rows: int
    bytes: int
    digest: str


@dataclasses.dataclass(frozen=True)
class Compaction:
    """What was folded into what; the content of `compaction.json`.

    Attributes:
      run: id of the run that the new files make up.
      written_at: when the new files were found right.
      runs: ids of the runs that were folded: their plans and reports are no longer of rows that are there.
      rows: in the new files: one a photo.
      digest: total of these rows' digests, hexadecimal.
      sources: the files that were folded.
      results: the new files.
    """

    run: str
    written_at: datetime.datetime
    runs: tuple[str, ...]
    rows: int
    digest: str
    sources: tuple[FileRecord, ...]
    results: tuple[FileRecord, ...]

    def to_json(self) -> bytes:
        """The record as `compaction.json`; the time in ISO 8601."""
        files = {name: [file._asdict() for file in getattr(self, name)] for name in ("sources", "results")}
        fields = {**vars(self), "written_at": self.written_at.isoformat(), **files}
        return json.dumps(fields, indent=1, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Compaction":
        """Reads what `to_json` wrote."""
        fields = json.loads(data)
        return cls(
            **{
                **fields,
                "written_at": datetime.datetime.fromisoformat(fields["written_at"]),
                "runs": tuple(fields["runs"]),
                "sources": tuple(FileRecord(**file) for file in fields["sources"]),
                "results": tuple(FileRecord(**file) for file in fields["results"]),
            }
        )


class Outcome(NamedTuple):
    """What `compact` did: what it folded, if anything, and how many files an interrupted one had left."""

    folded: Compaction | None
    left_over: int


def compact(output: str, lost: Sequence[str] = ()) -> Outcome:
    """Folds all runs of an output folder into one; no other job may write to the folder meanwhile.

    Args:
      output: the folder that holds the captions of all runs.
      lost: why the folder is no longer this job's, as soon as that is so: nothing that it wrote counts, then.

    Raises:
      UserError: a file is damaged; nothing was deleted.
      OSError: as the store says.
    """
    # Whoever wrote them was killed, as no other job writes now.
    _delete(rows.temporary_files(output))
    files = rows.committed_files(output)
    known = live([*_records(output)])
    left_over = sum(_finish(output, record, files) for record in known)
    files = rows.committed_files(output) if left_over else files
    if not files or any([stores.join(output, file.file) for file in record.results] == files for record in known):
        return Outcome(None, left_over)
    # Also those that have no file: they had nothing to do, or their files are lost.
    runs = {*map(rows.run_of, files), *rows.finished_runs(output), *(record.run for record in known)}
    folded = _fold(output, files, tuple(sorted(runs)), lost)
    _replace_files(output, folded, files)
    return Outcome(folded, left_over)


def record_files(output: str) -> list[str]:
    """The files of all compactions' records, the oldest first."""
    return sorted(stores.within(output, "runs", "*", "compaction.json"))


def read_record(path: str) -> Compaction:
    """Reads the record of a compaction.

    Raises:
      ValueError: it is damaged.
    """
    try:
        return Compaction.from_json(stores.read(path))
    except (ValueError, KeyError, TypeError):
        raise ValueError("not the record of a compaction") from None


def live(known: Sequence[Compaction]) -> list[Compaction]:
    """The compactions whose files were not folded in their turn; only these can have been interrupted."""
    folded = {run for record in known for run in record.runs}
    return [record for record in known if record.run not in folded]


def _records(output: str) -> Iterator[Compaction]:
    for path in record_files(output):
        try:
            yield read_record(path)
        except ValueError as error:
            raise UserError(f"{path}: {error}; restore it from a copy, nothing was deleted") from None


def _finish(output: str, record: Compaction, files: Iterable[str]) -> int:
    """Deletes what a compaction that was interrupted has left of some files, and returns how many that were."""
    sources = {stores.join(output, file.file) for file in record.sources}
    left = [path for path in files if path in sources]
    # The new files may be long written, and are about to be the only ones.
    problem = _problem(output, record) if left else None
    if problem:
        path = stores.join(output, "runs", record.run, "compaction.json")
        raise UserError(
            f"the files of run {record.run} are damaged ({problem}), and nothing more was deleted; "
            f"restore them, or delete {path}, and all that can be read is folded anew"
        )
    _replace_files(output, record, left)
    return len(left)


def _fold(output: str, files: Sequence[str], runs: tuple[str, ...], lost: Sequence[str]) -> Compaction:
    """Writes the new files, reads them back, and commits them."""
    now = datetime.datetime.now(datetime.UTC)
    run = f"{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}-compacted"
    sources = []
    latest = _LatestDigests()
    with LatestByPhoto(GROUP_ROWS) as merged:
        for path, data in rows.read_ahead(stores.read, files):
            try:
                sources.append(_add(path.removeprefix(f"{output}/"), data.result(), merged, latest))
            except (OSError, pa.ArrowException) as error:
                raise UserError(
                    f"{path}: can't be read ({_one_line(error)}), and nothing was deleted; "
                    "`beamscribe verify` says what to do"
                ) from None
        results = tuple(_write(output, run, merged.tables()))
    count, digest = latest.total()
    record = Compaction(
        run, datetime.datetime.now(datetime.UTC), runs, count, f"{digest:016x}", tuple(sources), results
    )
    problem = _problem(output, record) or next(iter(lost), None)
    if problem:
        # A copy that must not be taken for the rows.
        _delete(stores.join(output, file.file) for file in results)
        raise UserError(f"the new files did not come out right ({problem}); the old ones are as they were, try again")
    stores.create(stores.join(output, "runs", run, "compaction.json"), record.to_json())
    return record


def _add(name: str, data: bytes, merged: LatestByPhoto, latest: "_LatestDigests") -> FileRecord:
    """Reads one old file."""
    file = rows.open_file(data)
    if not file.schema_arrow.equals(CAPTION_SCHEMA):
        raise pa.ArrowInvalid("its columns are not those of captions")
    digest = 0
    for table in rows.batches(file):
        table.validate(full=True)
        of_rows = digests.of_rows(table)
        digest = digests.add(digest, digests.total(of_rows))
        latest.add(table, of_rows)
        merged.add(table)
    return FileRecord(name, file.metadata.num_rows, len(data), f"{digest:016x}")


class _LatestDigests:
    """The rows that should come out, as digests: found in another way than by merging, so that each checks the other.

    It takes 40 bytes a row.
    """

    def __init__(self) -> None:
        self._photos: list[np.ndarray] = []
        self._times: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []

    def add(self, table: pa.Table, of_rows: np.ndarray) -> None:
        """Adds some rows and their digests."""
        self._photos.append(digests.of_rows(table, ["photo"]))
        self._times.append(table["written_at"].cast(pa.int64()).to_numpy())
        self._rows.append(of_rows)

    def total(self) -> tuple[int, int]:
        """How many photos there are, and the total of their latest rows."""
        if not self._photos:
            return 0, 0
        photos, times, of_rows = (np.concatenate(arrays) for arrays in (self._photos, self._times, self._rows))
        # Stable: of rows of the same moment, the one that was added first counts.
        order = np.lexsort((-times, photos))
        is_first = np.ones(len(order), bool)
        is_first[1:] = photos[order[1:]] != photos[order[:-1]]
        return int(is_first.sum()), digests.total(of_rows[order[is_first]])


def _write(output: str, run: str, groups: Iterable[pa.Table]) -> Iterator[FileRecord]:
    """Writes tables as row groups of as few files as their size allows."""
    groups = iter(groups)
    for index in itertools.count():
        first = next(groups, None)
        if first is None:
            return
        buffer = io.BytesIO()
        count = digest = 0
        with pq.ParquetWriter(buffer, CAPTION_SCHEMA, compression="zstd", write_page_checksum=True) as writer:
            for group in itertools.chain([first], groups):
                writer.write_table(group)
                count += len(group)
                digest = digests.add(digest, digests.total(digests.of_rows(group)))
                if count >= FILE_ROWS or buffer.tell() >= FILE_BYTES:
                    break
        name = f"captions/run={run}/shard-{index:05d}.parquet"
        stores.create(stores.join(output, name), buffer.getvalue())
        yield FileRecord(name, count, buffer.tell(), f"{digest:016x}")


def _problem(output: str, record: Compaction) -> str | None:
    """Reads the new files and compares them with their record; says what is wrong, if anything is."""
    count = digest = 0
    previous = None
    try:
        for table in rows.read_batches(stores.join(output, file.file) for file in record.results):
            photos = table["photo"].combine_chunks()
            if previous is not None and previous >= photos[0].as_py():
                return "a photo is there twice"
            if pc.any(pc.greater_equal(photos[:-1], photos[1:])).as_py():
                return "a photo is there twice"
            previous = photos[-1].as_py()
            count += len(table)
            digest = digests.add(digest, digests.total(digests.of_rows(table)))
    except (OSError, pa.ArrowException) as error:
        return _one_line(error)
    if count != record.rows:
        return f"{count:,} rows instead of {record.rows:,}"
    return None if f"{digest:016x}" == record.digest else "the rows differ from those that were folded"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _replace_files(output: str, record: Compaction, sources: Iterable[str]) -> None:
    """Deletes the files that were folded; copies of them in other formats are made anew."""
    _delete(sources)
    folded = frozenset(record.runs)
    for kind in export.EXTENSIONS:
        copies = [path for path in stores.within(output, "exports", kind, "run=*", "*") if rows.run_of(path) in folded]
        if not copies:
            continue
        for pair in export.missing(output, kind):
            if rows.run_of(pair[0]) == record.run:
                export.export(pair, kind)
        _delete(copies)


def _delete(files: Iterable[str]) -> None:
    """Deletes files, those of the last run first: of rows of the same moment, that of the first run is read."""
    for _, of_run in itertools.groupby(sorted(files, reverse=True), rows.run_of):
        with concurrent.futures.ThreadPoolExecutor(_DELETERS) as deleters:
            # A list, so that an error is raised.
            list(deleters.map(stores.delete, of_run))
