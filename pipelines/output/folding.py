"""Checks that the rows of old files are in the files that they were folded into."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from beamscribe.pipelines import stores
from beamscribe.pipelines.output import current, digests, rows
from beamscribe.pipelines.output.run_documents import Compaction


def not_folded(output: str, record: Compaction, sources: Iterable[str]) -> str | None:
    """Looks for rows of old files in the new ones.

    Args:
      output: the folder that holds the captions of all runs.
      record: record of the compaction.
      sources: old files that are to be deleted.

    Returns:
      What is wrong: a photo of an old file has no row in the new files, or an earlier one. None if all is well.

    Raises:
      UnreadableFileError, NewerFileError: see `rows.read_tables`.
    """
    columns = ["photo", *current.COLUMNS]
    results = [stores.join(output, file.file) for file in record.results]
    photos, keys = _keys(rows.read_batches(results, columns))
    order = np.argsort(photos, kind="stable")
    photos, keys = photos[order], current.Keys(*(array[order] for array in keys))
    for path in sources:
        of_source, wanted = _keys(rows.read_batches([path], columns))
        if not len(of_source):
            continue
        is_there = digests.contains(photos, of_source)
        if is_there.all():
            found = current.Keys(*(array[np.searchsorted(photos, of_source)] for array in keys))
            is_later = found.run_numbers > wanted.run_numbers
            is_same = (found.run_numbers == wanted.run_numbers) & (found.written_at >= wanted.written_at)
            is_there = is_later | is_same
        if not is_there.all():
            return f"they lack {int((~is_there).sum()):,} rows of {path}"
    return None


def read_own_columns(paths: Sequence[str]) -> Iterator[tuple[list[str], pa.Table]]:
    """Reads shard files in order, in tables of limited size; yields the columns of each file's version with a table.

    Raises:
      UnreadableFileError, NewerFileError: see `rows.read_batches`.
    """
    for path in paths:
        columns = rows.columns_of(path)
        for table in rows.read_batches([path], columns):
            yield columns, table


def _keys(tables: Iterable[pa.Table]) -> tuple[np.ndarray, current.Keys]:
    """The digests of the photos of rows, and what the rows are ordered by."""
    photos, keys = [np.empty(0, "S16")], []
    for table in tables:
        photos.append(digests.of_rows(table, ["photo"]))
        keys.append(current.Keys.of(table))
    return np.concatenate(photos), current.Keys.concatenated(keys)
