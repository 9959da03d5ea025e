"""Sorts more rows than fit in memory by photo, and keeps the latest of each.

An external merge sort: as many rows as fit are sorted and written to a temporary file in small blocks, with the first
and last photo of each block in memory. Then one range of photos after another is read out of all sorted parts.
"""

import itertools
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Rows that are sorted at once.
_PART_BYTES = 64 << 20
_BLOCK_ROWS = 1_000

# The number of a row in the order in which rows were added: of rows of the same moment the first one counts.
_PLACE = "place"


class _Block(NamedTuple):
    """Rows of one sorted part: their first and last photo, and where in the temporary file they are."""

    first: str
    last: str
    offset: int
    size: int


class LatestByPhoto:
    """The latest row of each photo, sorted by photo, of any number of rows.

    Args:
      group_rows: rows of one table of the result, about.
    """

    def __init__(self, group_rows: int):
        self._group_rows = group_rows
        # It has no name, so that nothing is left of it when the process is killed.
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
        """Adds rows; of rows of the same photo and moment, the one that is added first counts."""
        places = np.arange(self._rows, self._rows + len(table))
        self._rows += len(table)
        self._gathered.append(table.append_column(_PLACE, pa.array(places)))
        self._gathered_bytes += table.nbytes
        if self._gathered_bytes >= _PART_BYTES:
            self._write_part()

    def tables(self) -> Iterator[pa.Table]:
        """The rows that count, once all are added: tables of some `group_rows`, one range of photos after another."""
        self._write_part()
        gathered: list[pa.Table] = []
        for table in self._ranges():
            gathered.append(table)
            # Ranges differ in size, and more so where many rows were replaced.
            if sum(map(len, gathered)) > self._group_rows // 2:
                yield pa.concat_tables(gathered)
                gathered = []
        if gathered:
            yield pa.concat_tables(gathered)

    def _ranges(self) -> Iterator[pa.Table]:
        """One range of photos after another, each of about `group_rows` of the rows that were written."""
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
        """Sorts what is gathered and writes it to the temporary file."""
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
        """The rows of a block whose photos lie from `start` to before `end`."""
        self._file.seek(block.offset)
        table = pa.ipc.open_stream(self._file.read(block.size)).read_all()
        inside = pc.greater_equal(table["photo"], start)
        return table.filter(inside if end is None else pc.and_(inside, pc.less(table["photo"], end)))


def _latest(table: pa.Table) -> pa.Table:
    """Sorted by photo, the latest row of each."""
    table = table.combine_chunks()
    order = pc.sort_indices(
        table, sort_keys=[("photo", "ascending"), ("written_at", "descending"), (_PLACE, "ascending")]
    )
    photos = table["photo"].combine_chunks().take(order)
    is_first = pa.concat_arrays([pa.array([True]), pc.not_equal(photos[1:], photos[:-1])])
    return table.take(order.filter(is_first))


def _encoded(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
