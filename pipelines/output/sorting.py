"""Sorts more rows than fit in memory by photo, and keeps the current row of each photo.

This is an external merge sort. It sorts as many rows as fit in memory and writes them to a temporary file as a sorted
part, in small blocks; the first and last photo of each block stay in memory. Then it reads one range of photos after
another from all sorted parts.
"""

import itertools
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beamscribe.pipelines.output import current

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


class LatestByPhoto:
    """A context manager that collects any number of rows and yields the current row of each photo, sorted by photo.

    Args:
      group_rows: approximate number of rows in a table of the result.
    """

    def __init__(self, group_rows: int):
        self._group_rows = group_rows
        # The file has no name, so nothing is left of it if the process is killed.
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._blocks: list[_Block] = []
        self._gathered: list[pa.Table] = []
        self._gathered_bytes = 0
        self._rows = 0

    def __enter__(self) -> "LatestByPhoto":
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
        """Yields the current rows, after all rows are added, in tables of approximately `group_rows` rows."""
        self._write_part()
        gathered: list[pa.Table] = []
        for table in self._ranges():
            gathered.append(table)
            # Ranges differ in size, above all if many rows are not current.
            if sum(map(len, gathered)) > self._group_rows // 2:
                yield pa.concat_tables(gathered)
                gathered = []
        if gathered:
            yield pa.concat_tables(gathered)

    def _ranges(self) -> Iterator[pa.Table]:
        """Yields the current rows of one range of photos after another, each with approximately `group_rows` rows."""
        firsts = sorted(block.first for block in self._blocks)
        starts = sorted(set(firsts[:: max(1, self._group_rows // _BLOCK_ROWS)]))
        for start, end in itertools.zip_longest(starts, starts[1:]):
            pieces = [
                self._read(block, start, end)
                for block in self._blocks
                if block.last >= start and (end is None or block.first < end)
            ]
            yield _latest(pa.concat_tables(pieces)).drop_columns([_PLACE])

    def _write_part(self) -> None:
        """Sorts the gathered rows and writes them to the temporary file."""
        if not self._gathered_bytes:
            return
        part = _latest(pa.concat_tables(self._gathered))
        self._gathered, self._gathered_bytes = [], 0
        for start in range(0, len(part), _BLOCK_ROWS):
            block = part.slice(start, _BLOCK_ROWS)
            data = _encoded(block)
            photos = block["photo"]
            self._blocks.append(_Block(photos[0].as_py(), photos[-1].as_py(), self._file.tell(), len(data)))
            self._file.write(data)

    def _read(self, block: _Block, start: str, end: str | None) -> pa.Table:
        """Reads the rows of a block with photos from `start` on and before `end`; None is no end."""
        self._file.seek(block.offset)
        table = pa.ipc.open_stream(self._file.read(block.size)).read_all()
        inside = pc.greater_equal(table["photo"], start)
        return table.filter(inside if end is None else pc.and_(inside, pc.less(table["photo"], end)))


def _latest(table: pa.Table) -> pa.Table:
    """Selects the current row of each photo, and sorts by photo."""
    photos = table["photo"].combine_chunks().dictionary_encode().indices.to_numpy()
    is_current = current.mask(photos, current.Keys.of(table), table[_PLACE].to_numpy())
    return table.filter(pa.array(is_current)).sort_by("photo")


def _encoded(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
