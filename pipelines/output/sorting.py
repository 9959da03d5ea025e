"""Sorts more rows than fit in memory by photo, and keeps those that may still count: `current.kept`.

This is an external merge sort. It sorts as many rows as fit in memory and writes them to a temporary file as a sorted
part, in small blocks; the first and last photo of each block stay in memory. Then it reads one range of photos after
another from all sorted parts.
"""

import io
import itertools
import tempfile
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beamscribe.pipelines.output import current
from beamscribe.pipelines.output.current import Keys

# The size of the rows that are sorted at once, and the rows in a block.
_PART_BYTES = 64 << 20
_BLOCK_ROWS = 1_000

# A column with the number of each row in the order of addition, which decides between copies of a row.
_PLACE = "place"


class _Block(NamedTuple):
    """A block of a sorted part: its first and last photo, and its offset and size in the temporary file."""

    first: str
    last: str
    offset: int
    size: int


class KeptByPhoto:
    """A context manager that collects any number of rows and yields those that may still count, sorted by photo.

    The rows of a photo are in the order of their runs' numbers and of their times.

    Args:
      group_rows: approximate number of rows in a table of the result.
      prune_gone: whether photos that are no longer there lose their rows.
    """

    def __init__(self, group_rows: int, prune_gone: bool = False):
        self._group_rows, self._prune_gone = group_rows, prune_gone
        # The file has no name, so nothing is left of it if the process is killed.
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._blocks: list[_Block] = []
        self._pruned: list[_Block] = []
        self._gathered: list[pa.Table] = []
        self._gathered_bytes = 0
        self._rows = 0

    def __enter__(self) -> "KeptByPhoto":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, table: pa.Table) -> None:
        """Adds rows, in the order of their files."""
        places = np.arange(self._rows, self._rows + len(table))
        self._rows += len(table)
        self._gathered.append(table.append_column(_PLACE, pa.array(places)))
        self._gathered_bytes += table.nbytes
        if self._gathered_bytes >= _PART_BYTES:
            self._write_part()

    def tables(self) -> Iterator[pa.Table]:
        """Yields the rows, after all are added, in tables of approximately `group_rows` rows."""
        self._write_part()
        # Ranges differ in size, above all if many rows don't count.
        yield from self._grouped(self._ranges())

    def pruned(self) -> Iterator[pa.Table]:
        """Yields the current rows of the photos that lost all theirs, after `tables`: one a photo, sorted by photo."""
        yield from self._grouped(self._read(block, block.first, None) for block in self._pruned)

    def _grouped(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        gathered: list[pa.Table] = []
        for table in tables:
            gathered.append(table)
            if sum(map(len, gathered)) > self._group_rows // 2:
                yield pa.concat_tables(gathered)
                gathered = []
        if any(map(len, gathered)):
            yield pa.concat_tables(gathered)

    def _ranges(self) -> Iterator[pa.Table]:
        """Yields the rows of one range of photos after another, each with approximately `group_rows` rows."""
        firsts = sorted(block.first for block in self._blocks)
        starts = sorted(set(firsts[:: max(1, self._group_rows // _BLOCK_ROWS)]))
        for start, end in itertools.zip_longest(starts, starts[1:]):
            pieces = [
                self._read(block, start, end)
                for block in self._blocks
                if block.last >= start and (end is None or block.first < end)
            ]
            table = _kept(pa.concat_tables(pieces))
            yield (self._without_gone(table) if self._prune_gone else table).drop_columns([_PLACE])

    def _without_gone(self, table: pa.Table) -> pa.Table:
        """Leaves out photos that are no longer there, all of whose rows are in the table, and remembers them."""
        photos, keys, places = _by_photo(table)
        rows = np.sort(current.choose(photos, keys, places).current)
        # A photo of which a person has taken the only caption back has no current row.
        rows = rows[(rows >= 0) & ((keys.kinds[rows] & current.IS_GONE) != 0)]
        gone = table.take(pa.array(rows)).drop_columns([_PLACE])
        if len(gone):
            self._file.seek(0, io.SEEK_END)
            self._pruned.append(self._write(gone))
        return table.filter(pa.array(current.kept(photos, keys, places, prune_gone=True)))

    def _write_part(self) -> None:
        """Sorts the gathered rows and writes them to the temporary file."""
        if not self._gathered_bytes:
            return
        # A photo that is gone by the rows of this part may be there by those of another one.
        part = _kept(pa.concat_tables(self._gathered))
        self._gathered, self._gathered_bytes = [], 0
        self._blocks += [self._write(part.slice(start, _BLOCK_ROWS)) for start in range(0, len(part), _BLOCK_ROWS)]

    def _write(self, table: pa.Table) -> _Block:
        """Writes a table, sorted by photo, at the present place of the temporary file."""
        data, photos = _encoded(table), table["photo"]
        block = _Block(photos[0].as_py(), photos[-1].as_py(), self._file.tell(), len(data))
        self._file.write(data)
        return block

    def _read(self, block: _Block, start: str, end: str | None) -> pa.Table:
        """Reads the rows of a block with photos from `start` on and before `end`; None is no end."""
        self._file.seek(block.offset)
        table = pa.ipc.open_stream(self._file.read(block.size)).read_all()
        inside = pc.greater_equal(table["photo"], start)
        return table.filter(inside if end is None else pc.and_(inside, pc.less(table["photo"], end)))


def _kept(table: pa.Table) -> pa.Table:
    """Selects the rows that may still count, and sorts them by photo, then by number, time and place."""
    photos, keys, places = _by_photo(table)
    is_kept = np.flatnonzero(current.kept(photos, keys, places))
    order = pa.table(
        {
            "photo": table["photo"].take(pa.array(is_kept)),
            "number": keys.run_numbers[is_kept],
            "time": keys.written_at[is_kept],
            "place": places[is_kept],
        }
    )
    indices = pc.sort_indices(order, sort_keys=[(name, "ascending") for name in order.column_names])
    return table.take(pa.array(is_kept).take(indices))


def _by_photo(table: pa.Table) -> tuple[np.ndarray, Keys, np.ndarray]:
    """What `current.choose` takes: numbers of the photos, keys and places."""
    photos = table["photo"].combine_chunks().dictionary_encode().indices.to_numpy()
    return photos, Keys.of(table), table[_PLACE].to_numpy()


def _encoded(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
