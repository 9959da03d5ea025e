"""Reads committed rows: of one run, or the latest of each photo over all runs."""

import collections
import concurrent.futures
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from beamscribe.pipelines import stores

# Files that are read at once: on a remote store a small file is mostly waiting.
_READERS = 8
# What is decoded at once of a file that may be large.
_BATCH_ROWS = 100_000

_T = TypeVar("_T")


def committed_files(output: str, run: str = "*") -> list[str]:
    """The shard files of a run, or of all runs, sorted by run and shard."""
    return sorted(stores.within(output, "captions", f"run={run}", "shard-*.parquet"))


def temporary_files(output: str) -> list[str]:
    """What writers that were killed have left on a local disk; no reader looks at it."""
    if not stores.is_local(output):
        return []
    # A hidden name that ends with a random number of 32 digits.
    name = f".*.{'?' * 32}"
    return [path for folder in ("captions", "exports", "runs") for path in stores.within(output, folder, "**", name)]


def finished_runs(output: str) -> set[str]:
    """Ids of the runs that have ended with every photo accounted for."""
    return {path.split("/")[-2] for path in stores.within(output, "runs", "*", "_SUCCESS")}


def run_of(path: str) -> str:
    """Id of the run that a shard file, or a copy of it, belongs to."""
    return path.split("/")[-2].removeprefix("run=")


def read_table(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads one shard file: some columns, or all."""
    return pq.read_table(io.BytesIO(stores.read(path)), columns=list(columns) if columns else None)


def read_tables(files: Iterable[str], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Reads shard files in order, a few ahead, so that any number of them fits in memory."""
    for _, table in read_ahead(lambda path: read_table(path, columns), files):
        yield table.result()


def read_batches(files: Iterable[str], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Reads shard files in order, of any size, in tables of limited size."""
    for _, data in read_ahead(stores.read, files):
        yield from batches(open_file(data.result()), columns)


def read_ahead(read: Callable[[str], _T], files: Iterable[str]) -> Iterator[tuple[str, concurrent.futures.Future[_T]]]:
    """Reads files in order, a few ahead.

    Args:
      read: what reads one.
      files: paths or URIs.

    Yields:
      Each file, with what reading it gave or raised.
    """
    with concurrent.futures.ThreadPoolExecutor(_READERS) as readers:
        pending: collections.deque[tuple[str, concurrent.futures.Future[_T]]] = collections.deque()
        for path in files:
            pending.append((path, readers.submit(read, path)))
            if len(pending) > _READERS:
                yield pending.popleft()
        while pending:
            yield pending.popleft()


def open_file(data: bytes) -> pq.ParquetFile:
    """Opens a shard file that was read; its pages are compared with their checksums, where they have any."""
    return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)


def batches(file: pq.ParquetFile, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of one file, in order, in tables of limited size."""
    for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns) if columns else None):
        yield pa.Table.from_batches([batch])


def latest(files: Sequence[str], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows that no later row of the same photo replaces, in the order of the files.

    Only the photos' names and times stay in memory.

    Args:
      files: shard files of any runs.
      columns: what to read besides `photo` and `written_at`; all by default.
    """
    newest: dict[str, int] = {}
    for table in read_batches(files, ["photo", "written_at"]):
        for photo, time in _times(table):
            newest[photo] = max(time, newest.get(photo, time))
    for table in read_batches(files, columns and ["photo", "written_at", *columns]):
        # Taken out once it is found, so that of two rows of the same moment only one counts.
        wanted = [newest.get(photo) == time and newest.pop(photo) == time for photo, time in _times(table)]
        yield table.filter(pa.array(wanted, pa.bool_()))


def _times(table: pa.Table) -> Iterable[tuple[str, int]]:
    """Each row's photo and time of writing, microseconds since 1970."""
    return zip(table["photo"].to_pylist(), table["written_at"].cast("int64").to_pylist(), strict=True)
