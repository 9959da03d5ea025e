"""Reads committed rows: of one run, or the latest of each photo over all runs."""

import collections
import concurrent.futures
import io
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage

# Files that are read at once: on a remote store a small file is mostly waiting.
_READERS = 8


def committed_files(output: str, run: str = "*") -> list[str]:
    """The shard files of a run, or of all runs, sorted by run and shard."""
    return sorted(storage.within(output, "captions", f"run={run}", "shard-*.parquet"))


def read_table(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads one shard file: some columns, or all."""
    return pq.read_table(io.BytesIO(storage.read(path)), columns=list(columns) if columns else None)


def read_tables(files: Iterable[str], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Reads shard files in order, a few ahead, so that any number of them fits in memory."""
    with concurrent.futures.ThreadPoolExecutor(_READERS) as readers:
        pending: collections.deque[concurrent.futures.Future[pa.Table]] = collections.deque()
        for path in files:
            pending.append(readers.submit(read_table, path, columns))
            if len(pending) > _READERS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def latest(files: Sequence[str], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows that no later row of the same photo replaces, file by file.

    Only the photos' names and times stay in memory.

    Args:
      files: shard files of any runs.
      columns: what to read besides `photo` and `written_at`; all by default.
    """
    newest: dict[str, int] = {}
    for table in read_tables(files, ["photo", "written_at"]):
        for photo, time in _times(table):
            newest[photo] = max(time, newest.get(photo, time))
    for table in read_tables(files, columns and ["photo", "written_at", *columns]):
        # Taken out once it is found, so that of two rows of the same moment only one counts.
        wanted = [newest.get(photo) == time and newest.pop(photo) == time for photo, time in _times(table)]
        yield table.filter(pa.array(wanted, pa.bool_()))


def _times(table: pa.Table) -> Iterable[tuple[str, int]]:
    """Each row's photo and time of writing, microseconds since 1970."""
    return zip(table["photo"].to_pylist(), table["written_at"].cast("int64").to_pylist(), strict=True)
