"""Finds earlier rows whose captions may be those of planned photos: photos that were touched, moved or copied.

Rows that share a clue (`output/resemblance.py`) with a planned photo go beside the photos of its shard (`known.py`),
where the bytes are compared. The rows of photos that are not listed any more are found in the same pass (`gone.py`).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from beamscribe.pipelines.ledger import DoneRule
from beamscribe.pipelines.output import digests, rows
from beamscribe.pipelines.output.resemblance import COLUMNS, KINDS, SIZE_AND_NAME, clues_of_refs, clues_of_rows
from beamscribe.pipelines.photos import CAPTION_SCHEMA, PhotoRef

# Rows that a planned photo is compared with, and that one clue leads to in the files of one element.
MOST = 8
# Photos that are gone, in one shard, or more where there are more than 256 such shards.
GONE_ROWS = 10_000

# A group of planned photos: their container, and the number of the group.
Group = tuple[str, int]
# The tag of the rows of vanished photos.
VANISHED = "vanished"

_ALIKE, _VANISHED = 1, 2


class Wanted(NamedTuple):
    """The rows that a plan looks for in the ledger.

    Attributes:
      groups: groups of planned photos.
      clues: `[clues]`, uint64, sorted; a clue comes once for each group that has it.
      group_of: `[clues]`, int32, indices of the groups.
      vanished: `[photos]`, strings of 16 bytes, sorted: digests of photos that are not listed any more.
    """

    groups: tuple[Group, ...]
    clues: np.ndarray
    group_of: np.ndarray
    vanished: np.ndarray

    @classmethod
    def of(cls, of_groups: Iterable[tuple[Group, np.ndarray]], vanished: Iterable[np.ndarray]) -> "Wanted":
        """Puts together what is wanted.

        Args:
          of_groups: groups, and the clues of some of their photos; a group may come several times.
          vanished: digests of photos.
        """
        numbers: dict[Group, int] = {}
        clues, group_of = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
        for group, some in of_groups:
            clues.append(some)
            group_of.append(np.full(len(some), numbers.setdefault(group, len(numbers)), np.int32))
        clue, number = np.concatenate(clues), np.concatenate(group_of)
        order = np.argsort(clue, kind="stable")
        gone = np.sort(np.concatenate([np.empty(0, "S16"), *vanished]))
        return cls(tuple(numbers), clue[order], number[order], gone)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is wanted, so that the ledger need not be read again."""
        return not len(self.clues) and not len(self.vanished)

    def includes(self, table: pa.Table) -> np.ndarray:
        """Whether rows have the size and the base name of a planned photo, `[rows]`, bool: theirs were moved."""
        return digests.contains(self.clues, clues_of_rows(table)[:, SIZE_AND_NAME])


def wanted_by(refs: Sequence[PhotoRef]) -> np.ndarray:
    """The clues of planned photos, but for those that can't be read; sorted."""
    found = np.unique(clues_of_refs([ref for ref in refs if ref.failure is None]))
    return found[found != 0]


def rows_for(files: Sequence[str], wanted: Wanted, rule: DoneRule) -> Iterator[tuple[Group, bytes] | TaggedOutput]:
    """Reads the rows that are wanted from shard files.

    Args:
      files: paths of the files.
      wanted: what is looked for.
      rule: says which captions may be taken over.

    Yields:
      (group, rows) pairs, rows as `packed` makes them; and with the tag `VANISHED`, pairs of a number and the rows of
      vanished photos, all rows of a photo with one number.
    """
    if wanted.is_empty:
        return
    alike, vanished = matching(files, wanted, rule)
    for number, rows_of_group in _grouped(alike, *_pairs(clues_of_rows(alike), wanted)):
        yield wanted.groups[number], rows_of_group
    several = math.ceil(len(wanted.vanished) / GONE_ROWS)
    numbers = digests.of_rows(vanished, ["photo"]).view("u1")[::16] % max(several, 1)
    for pair in _grouped(vanished, np.arange(len(vanished)), numbers):
        yield TaggedOutput(VANISHED, pair)


def matching(files: Iterable[str], wanted: Wanted, rule: DoneRule) -> tuple[pa.Table, pa.Table]:
    """Reads the rows that are wanted: those whose captions may be taken over, and all rows of vanished photos.

    Args:
      files, wanted, rule: as for `rows_for`.
    """

    def kinds(table: pa.Table) -> np.ndarray:
        is_alike = digests.contains(wanted.clues, clues_of_rows(table)).any(axis=1)
        return _ALIKE * is_alike.astype(np.uint8) + _VANISHED * _is_vanished(table, wanted).astype(np.uint8)

    alike, vanished = [CAPTION_SCHEMA.empty_table()], [CAPTION_SCHEMA.empty_table()]
    for table, kind in rows.read_matching(files, COLUMNS, kinds):
        found = table.filter(pa.array((kind & _ALIKE) != 0))
        alike.append(found.filter(pa.array(rule.accepts(found))))
        vanished.append(table.filter(pa.array((kind & _VANISHED) != 0)))
    return pa.concat_tables(alike), pa.concat_tables(vanished)


def _is_vanished(table: pa.Table, wanted: Wanted) -> np.ndarray:
    if not len(wanted.vanished):
        return np.zeros(len(table), bool)
    return digests.contains(wanted.vanished, digests.of_rows(table, ["photo"]))


def _grouped(table: pa.Table, places: np.ndarray, numbers: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """Packs rows by the number of their group, given pairs of indices of rows and of numbers."""
    order = np.lexsort((places, numbers))
    places, numbers = places[order], numbers[order]
    found, starts = np.unique(numbers, return_index=True)
    for number, of_group in zip(found.tolist(), np.split(places, starts[1:]), strict=False):
        yield number, packed(table.take(np.unique(of_group)))


def _pairs(clues: np.ndarray, wanted: Wanted) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows and groups that share a clue: indices of rows, and indices of groups.

    Of more than `MOST` rows with one clue, only the last ones are looked at: photos of equal size may be many.
    """
    places = np.tile(np.arange(len(clues))[:, None], KINDS).ravel()
    flat = clues.ravel()
    order = np.lexsort((-places, flat))
    flat, places = flat[order], places[order]
    starts = np.flatnonzero(np.append(True, flat[1:] != flat[:-1]))
    rank = np.arange(len(flat)) - np.repeat(starts, np.diff(np.append(starts, len(flat))))
    usable = (rank < MOST) & (flat != 0)
    flat, places = flat[usable], places[usable]
    begin, end = np.searchsorted(wanted.clues, flat), np.searchsorted(wanted.clues, flat, "right")
    counts = end - begin
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(places, counts), wanted.group_of[np.repeat(begin, counts) + offsets]


def packed(table: pa.Table) -> bytes:
    """Rows of `CAPTION_SCHEMA` as bytes, for the way from one step to the next."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream, pa.ipc.new_stream(stream, CAPTION_SCHEMA) as writer:
        writer.write_table(table.cast(CAPTION_SCHEMA).combine_chunks())
    return sink.getvalue().to_pybytes()


def unpacked(several: Iterable[bytes]) -> pa.Table:
    """The rows that `packed` has packed."""
    tables = [CAPTION_SCHEMA.empty_table()]
    for data in several:
        with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
            tables.append(pa.ipc.open_stream(stream).read_all())
    return pa.concat_tables(tables)
