"""Checks that the new files of a compaction are whole, and have all rows of old files that may still count."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beamscribe.pipelines import stores
from beamscribe.pipelines.output import current, digests, rows
from beamscribe.pipelines.output.current import Keys
from beamscribe.pipelines.output.run_documents import Compaction

_COLUMNS = ("photo", *current.COLUMNS)


def problem_of(output: str, record: Compaction) -> str | None:
    """Reads the new files of a compaction and compares them with their record; returns a problem or None.

    Args:
      output: the folder that holds the captions of all runs.
      record: record of the compaction.

    Raises:
      NewerFileError: see `rows.read_tables`.
    """
    count = digest = 0
    # The rows of the last photo of a table: the next table may have more of them.
    before: pa.Table | None = None
    try:
        for columns, table in _read_own_columns([stores.join(output, file.file) for file in record.results]):
            keyed = table.select(_COLUMNS)
            together = pa.concat_tables([before, keyed]) if before is not None else keyed
            if problem := _order_problem(together):
                return problem
            before = together.filter(pc.equal(together["photo"], together["photo"][-1]))
            count += len(table)
            digest = digests.add(digest, digests.total(digests.of_rows(table, columns)))
    except rows.UnreadableFileError as error:
        return error.problem
    if count != record.rows:
        return f"{count:,} rows instead of {record.rows:,}"
    return None if f"{digest:016x}" == record.digest else "the rows differ from the old ones"


def _order_problem(table: pa.Table) -> str | None:
    """What is wrong with the order of rows, which are sorted by photo; None if nothing is."""
    names = table["photo"].combine_chunks()
    if pc.any(pc.greater(names[:-1], names[1:])).as_py():
        return "the rows are not sorted by photo"
    photos = np.cumsum(np.append(False, pc.not_equal(names[:-1], names[1:]).to_numpy(zero_copy_only=False)))
    keys = Keys.of(table)
    columns = (keys.kinds, keys.written_at, keys.run_numbers, photos)
    order = np.lexsort(columns)
    same = np.logical_and.reduce([column[order[1:]] == column[order[:-1]] for column in columns])
    return "a photo has two rows of one run and time" if same.any() else None


def not_folded(output: str, record: Compaction, sources: Iterable[str], tombstones: Sequence[str] = ()) -> str | None:
    """Looks for rows of old files that may still count, but are not in the new ones.

    Args:
      output: the folder that holds the captions of all runs.
      record: record of the compaction.
      sources: old files that are to be deleted.
      tombstones: those files of `record.gone` that are there. Only of the photos in them, rows may be missing.

    Returns:
      What is wrong; None if all is well.

    Raises:
      UnreadableFileError, NewerFileError: see `rows.read_tables`.
    """
    results = [stores.join(output, file.file) for file in record.results]
    (new, of_new), (gone, of_gone) = rows.photos_and_keys(results), rows.photos_and_keys(tombstones)
    photos, keys = np.concatenate([new, gone]), Keys.concatenated([of_new, of_gone])
    order = np.argsort(photos, kind="stable")
    photos, keys, is_new = photos[order], keys.at(order), order < len(new)
    for path in (*sources, *tombstones):
        of_source, wanted = rows.photos_and_keys([path])
        same = _rows_of(photos, np.unique(of_source))
        # Among rows of the same run and time, those of the new files go before.
        several = np.concatenate([photos[same], of_source])
        both = Keys.concatenated([keys.at(same), wanted])
        is_lacking = current.kept(several, both, prune_gone=bool(record.gone))
        is_lacking[: len(same)] &= ~is_new[same]
        if is_lacking.any():
            return f"they lack {int(is_lacking.sum()):,} rows of {path}"
    return None


def has_gone(files: Sequence[str]) -> bool:
    """Whether files have rows of photos that are no longer there.

    Raises:
      UnreadableFileError, NewerFileError: see `rows.read_tables`.
    """
    photos, keys = rows.photos_and_keys(files)
    return bool((current.kept(photos, keys) & ~current.kept(photos, keys, prune_gone=True)).any())


def _rows_of(photos: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The indices of the rows of some photos, given the photos of all rows, sorted; in this order."""
    starts, ends = np.searchsorted(photos, wanted), np.searchsorted(photos, wanted, "right")
    counts = ends - starts
    return np.repeat(ends - np.cumsum(counts), counts) + np.arange(counts.sum())


def _read_own_columns(paths: Sequence[str]) -> Iterator[tuple[list[str], pa.Table]]:
    """Reads shard files in order, in tables of limited size; yields the columns of each file's version with a table.

    Raises:
      UnreadableFileError, NewerFileError: see `rows.read_batches`.
    """
    for path in paths:
        columns = rows.columns_of(path)
        for table in rows.read_batches([path]):
            if len(table):
                yield columns, table
