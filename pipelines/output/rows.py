"""Reads committed rows: all rows of some files, or the current row of each photo over all runs."""

import collections
import concurrent.futures
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beamscribe.model.errors import BeamscribeError, one_line
from beamscribe.pipelines import photos, stores
from beamscribe.pipelines.output import current, digests
from beamscribe.pipelines.stores.base import StoreError

# Files that are read in parallel: reading a small file from a remote store is mostly waiting.
_READERS = 8
# Rows that are decoded at once: a file may be large.
_BATCH_ROWS = 100_000
# Characters of what a library says of a damaged file.
_LONGEST_REASON = 100

# The years 1 to 9999, in microseconds since 1970.
_FIRST_MICROSECOND, _LAST_MICROSECOND = -62_135_596_800_000_000, 253_402_300_799_999_999

# What reading the bytes of a damaged file raises. Some of its names may be no UTF-8.
DAMAGE = (OSError, pa.ArrowException, ValueError)

_T = TypeVar("_T")


class NewerFileError(BeamscribeError):
    """A newer version of Beamscribe wrote the shard file, with columns that this version does not know."""


class UnreadableFileError(BeamscribeError):
    """A shard file is damaged or can't be read.

    Attributes:
      problem: which file, and what is wrong with it.
    """

    def __init__(self, message: str, problem: str = ""):
        super().__init__(message)
        self.problem = problem or message


class ShardFile:
    """A shard file in memory, of any schema version.

    Reading checks the pages that have checksums.

    Args:
      data: bytes of the file.
      path: path of the file, for error messages.

    Attributes:
      version: schema version of the file.
      columns: names of the columns that this version has.
      rows: number of rows.

    Raises:
      NewerFileError: a newer version of Beamscribe wrote the file.
      OSError, pa.ArrowException, ValueError: the file is damaged (`DAMAGE`).
    """

    def __init__(self, data: bytes, path: str):
        self._file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        self.version, self.rows = photos.version_of(self._file.schema_arrow), self._file.metadata.num_rows
        if self.version > photos.SCHEMA_VERSION:
            known = f"its schema has version {self.version}, this one reads up to version {photos.SCHEMA_VERSION}"
            raise NewerFileError(f"{path} was written by a newer version of Beamscribe ({known}); upgrade Beamscribe")
        self.columns = photos.schema_of(self.version).names

    def check_columns(self) -> None:
        """Compares its columns with those of its schema version.

        Raises:
          pa.ArrowInvalid: the columns differ.
        """
        found, wanted = self._file.schema_arrow, photos.schema_of(self.version)
        if found.equals(wanted):
            return
        for found_field, wanted_field in itertools.zip_longest(found, wanted):
            if found_field is None or wanted_field is None or not found_field.equals(wanted_field):
                difference = f"found {_field(found_field)}, expected {_field(wanted_field)}"
                raise pa.ArrowInvalid(f"its columns are not those of a shard: {difference}")

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Reads the rows in order, in tables of limited size. Columns of later schema versions are null.

        Args:
          columns: names of columns of `CAPTION_SCHEMA`, in the wanted order; all by default.

        Raises:
          OSError, pa.ArrowException, ValueError: the file is damaged (`DAMAGE`), or lacks a column of its version.
        """
        names = list(columns or photos.CAPTION_SCHEMA.names)
        stored = [name for name in names if name in self.columns]
        for batch in self._file.iter_batches(_BATCH_ROWS, columns=stored):
            yield self._completed(pa.Table.from_batches([batch]), names)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Reads the rows as one table; arguments and errors are those of `batches`."""
        names = list(columns or photos.CAPTION_SCHEMA.names)
        return self._completed(self._file.read([name for name in names if name in self.columns]), names)

    def _completed(self, table: pa.Table, names: Sequence[str]) -> pa.Table:
        for name in names:
            if name not in self.columns:
                kind = photos.CAPTION_SCHEMA.field(name).type
                table = table.append_column(name, pa.nulls(len(table), kind))
        if missing := set(names) - set(table.column_names):
            raise pa.ArrowInvalid(f"the column {min(missing)} is missing")
        table = table.select(names)
        for name in names:
            wanted, column = photos.CAPTION_SCHEMA.field(name), table[name]
            if column.type != wanted.type:
                raise pa.ArrowInvalid(f"the column {name} holds {column.type}, not {wanted.type}")
            if column.null_count and not wanted.nullable:
                raise pa.ArrowInvalid(f"the column {name} lacks values")
            if pa.types.is_timestamp(wanted.type) and not _is_of_calendar(column):
                raise pa.ArrowInvalid(f"the column {name} holds a time that no calendar has")
        # Among others, that texts are UTF-8.
        table.validate(full=True)
        return table


def _is_of_calendar(column: pa.ChunkedArray) -> bool:
    """Whether all times are within the years 1 to 9999, which Python's dates have."""
    least, most = pc.min_max(column.cast(pa.int64())).values()
    return least.as_py() is None or _FIRST_MICROSECOND <= least.as_py() <= most.as_py() <= _LAST_MICROSECOND


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    """A block that reads a shard file.

    Raises:
      UnreadableFileError: the store reported an error, or the file is damaged.
    """
    try:
        yield
    except DAMAGE as error:
        # An error of a store or of the system is not about the bytes. That of Arrow has no number.
        is_of_store = isinstance(error, OSError) and (error.errno is not None or isinstance(error, StoreError))
        said = one_line(error)[:_LONGEST_REASON]
        problem = f"{path} can't be read: {said}" if is_of_store else f"{path} is damaged ({said})"
        output, found, _ = path.rpartition("/captions/run=")
        advice = f"; `beamscribe verify {output}` says what to do" if found else ""
        raise UnreadableFileError(f"{problem}{advice}", problem) from error


def read_table(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads one shard file.

    Args:
      path: path of the file.
      columns: names of columns of `CAPTION_SCHEMA`, in the wanted order; all by default.

    Raises:
      OSError: the store reported an error.
      UnreadableFileError: the file is damaged.
      NewerFileError: see `ShardFile`.
    """
    data = stores.read(path)
    with _reading(path):
        return ShardFile(data, path).table(columns)


def columns_of(path: str) -> list[str]:
    """The columns of a shard file's schema version.

    Raises:
      UnreadableFileError: the store reported an error, or the file is damaged.
      NewerFileError: see `ShardFile`.
    """
    with _reading(path):
        return ShardFile(stores.read(path), path).columns


def is_closing(path: str) -> bool:
    """Whether a shard file is a closing file, which another job has created in the place of a shard.

    Raises:
      OSError, UnreadableFileError, NewerFileError: see `read_table`.
    """
    return photos.is_closing(read_table(path, ["photo"]))


def read_tables(files: Iterable[str], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Reads shard files in order, one table per file, a few ahead; arguments are those of `read_table`.

    Raises:
      UnreadableFileError: a store reported an error, or a file is damaged.
      NewerFileError: see `ShardFile`.
    """
    for path, table in read_ahead(lambda path: read_table(path, columns), files):
        with _reading(path):
            read = table.result()
        yield read


def read_batches(files: Iterable[str], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Reads shard files in order, in tables of limited size, whatever the size of a file; see `read_tables`."""
    for path, data in read_ahead(stores.read, files):
        with _reading(path):
            batches = ShardFile(data.result(), path).batches(columns)
        while (table := _next(batches, path)) is not None:
            yield table


def read_matching(
    files: Iterable[str], columns: Sequence[str], matches: Callable[[pa.Table], np.ndarray]
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Reads the rows of shard files that match, with all columns; of other rows, only the columns that tell.

    Args:
      files: shard files.
      columns: the columns that tell whether a row matches.
      matches: gives a number for each row of a table with these columns, `[rows]`; 0 for one that does not match.

    Yields:
      Tables of rows that match, and the numbers of these rows.

    Raises:
      UnreadableFileError, NewerFileError: see `read_tables`.
    """
    for path, data in read_ahead(stores.read, files):
        with _reading(path):
            file = ShardFile(data.result(), path)
            several = [matches(table) for table in file.batches(columns)]
            numbers = np.concatenate(several) if several else np.empty(0, np.uint8)
            batches = file.batches() if numbers.any() else iter(())
        start = 0
        while (table := _next(batches, path)) is not None:
            of_table = numbers[start : start + len(table)]
            yield table.filter(pa.array(of_table != 0)), of_table[of_table != 0]
            start += len(table)


def _next(batches: Iterator[pa.Table], path: str) -> pa.Table | None:
    # The caller's own errors, which a `yield` within the block would get, are none of the file's.
    with _reading(path):
        return next(batches, None)


def read_ahead(read: Callable[[str], _T], files: Iterable[str]) -> Iterator[tuple[str, concurrent.futures.Future[_T]]]:
    """Reads files in order, a few ahead.

    Args:
      read: reads one file.
      files: paths or URIs.

    Yields:
      Each file with a future, which holds the result or the exception of `read`.
    """
    with concurrent.futures.ThreadPoolExecutor(_READERS) as readers:
        pending: collections.deque[tuple[str, concurrent.futures.Future[_T]]] = collections.deque()
        for path in files:
            pending.append((path, readers.submit(read, path)))
            if len(pending) > _READERS:
                yield pending.popleft()
        while pending:
            yield pending.popleft()


def latest(files: Sequence[str], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Reads the current row of each photo that is still there, in the order of the files.

    Only digests, a number and a time stay in memory, 57 bytes per row.

    Args:
      files: shard files of any runs, in the order of runs and shards.
      columns: names of columns to read, in the wanted order; all by default.

    Yields:
      Tables of current rows, of limited size.

    Raises:
      UnreadableFileError, NewerFileError: see `read_tables`.
    """
    is_current = current.mask(*photos_and_keys(files))
    start = 0
    for table in read_batches(files, columns):
        yield table.filter(pa.array(is_current[start : start + len(table)]))
        start += len(table)


def to_look_at(files: Sequence[str]) -> Iterator[str]:
    """Finds the photos that a person has captioned, and whose picture has changed since, so that this does not stand.

    Args:
      files: shard files of any runs, in the order of runs and shards.

    Raises:
      UnreadableFileError, NewerFileError: see `read_tables`.
    """
    chosen = current.choose(*photos_and_keys(files))
    wanted = np.sort(chosen.person[chosen.to_look_at])
    start = 0
    for table in read_batches(files, ["photo"]) if len(wanted) else ():
        inside = wanted[(wanted >= start) & (wanted < start + len(table))]
        yield from table["photo"].take(pa.array(inside - start)).to_pylist()
        start += len(table)


def photos_and_keys(files: Iterable[str]) -> tuple[np.ndarray, current.Keys]:
    """Reads the digests of the photos of all rows, `[rows]`, and what decides which rows count.

    Raises:
      UnreadableFileError, NewerFileError: see `read_tables`.
    """
    photos, keys = [np.empty(0, "S16")], []
    for table in read_batches(files, ["photo", *current.COLUMNS]):
        photos.append(digests.of_rows(table, ["photo"]))
        keys.append(current.Keys.of(table))
    return np.concatenate(photos), current.Keys.concatenated(keys)


def _field(field: pa.Field | None) -> str:
    return f"{field.name} ({field.type}{'' if field.nullable else ' not null'})" if field is not None else "nothing"
