"""Compares all rows of an output with a listing: which photos still need a caption, and why."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from beamscribe.pipelines.output import current, digests
from beamscribe.pipelines.output.current import Chosen
from beamscribe.pipelines.output.resemblance import SIZE_AND_NAME, clues_of_refs, clues_of_rows
from beamscribe.pipelines.output.row_index import RowIndex
from beamscribe.pipelines.photos import PhotoRef

_LISTED_AT_ONCE = 10_000

_NEW, _CHANGED, _BACK = range(3)


class Group(NamedTuple):
    """Listed photos that need a caption for one reason.

    Attributes:
      photos: their number.
      named: some of them.
    """

    photos: int
    named: Sequence[str]


class Comparison(NamedTuple):
    """What became of a listing's photos.

    Attributes:
      listed: number of references in the listing.
      new: photos without a row.
      changed: photos that have changed since.
      back: photos that were gone, and are there again.
      moved: photos without a row that have the size and the base name of one that is no longer listed.
      origins: the photos that those in `moved.named` were.
      unlisted: number of photos with rows that are not listed, those that are known to be gone left out.
    """

    listed: int
    new: Group
    changed: Group
    back: Group
    moved: Group
    origins: Sequence[str]
    unlisted: int


class _Missing(NamedTuple):
    """Listed photos that need a caption, as arrays `[photos]`.

    Attributes:
      digests: digests of the photos, strings of 16 bytes.
      kinds: int8, why.
      clues: uint64, what photos of one size and base name have in common; 0 for none.
      names: the photos.
    """

    digests: np.ndarray
    kinds: np.ndarray
    clues: np.ndarray
    names: pa.Array

    @classmethod
    def concatenated(cls, several: "Sequence[_Missing]") -> "_Missing":
        """Those of several parts of the listing; a photo that several inputs hold comes once."""
        empty = cls(np.empty(0, "S16"), np.empty(0, np.int8), np.empty(0, np.uint64), pa.array([], pa.string()))
        all_digests, all_kinds, all_clues, all_names = zip(empty, *several, strict=True)
        found, kinds, clues = map(np.concatenate, (all_digests, all_kinds, all_clues))
        first = np.sort(np.unique(found, return_index=True)[1])
        return cls(found[first], kinds[first], clues[first], pa.concat_arrays(all_names).take(pa.array(first)))

    def group(self, is_meant: np.ndarray, most: int) -> Group:
        """Some of these photos, given by a mask, of which at most `most` are named."""
        return Group(int(is_meant.sum()), self.names.take(pa.array(np.flatnonzero(is_meant)[:most])).to_pylist())


class _Photos:
    """The photos that have rows of jobs, sorted by digest, and whether they are listed.

    Args:
      table: all rows.
      chosen: the rows that count.
    """

    def __init__(self, table: RowIndex, chosen: Chosen):
        rows = chosen.newest[chosen.newest >= 0]
        latest, captioned = chosen.latest[chosen.newest >= 0], chosen.captioned[chosen.newest >= 0]
        order = np.argsort(table.columns.photos[rows])
        newest, latest = rows[order], latest[order]
        kinds, etags = table.columns.keys.kinds, table.columns.keys.etags
        self._digests = table.columns.photos[newest]
        self.captioned = captioned[order]
        self.is_gone = (kinds[latest] & current.IS_GONE) != 0
        self.is_listed = np.zeros(len(rows), bool)
        # The versions that are done, as the ledger has it: one that has a caption, and one that could not get one.
        has_caption = (kinds[latest] & current.HAS_CAPTION) != 0
        has_failed = (kinds[newest] & current.HAS_FAILED) != 0
        self._versions = np.where(has_caption, etags[latest], 0), np.where(has_failed, etags[newest], 0)

    def missing(self, refs: Sequence[PhotoRef]) -> _Missing:
        """Those of some listed photos that need a caption; marks all of them as listed."""
        names = pa.array([ref.photo for ref in refs], pa.string())
        found = digests.of_rows(pa.table({"photo": names}))
        is_known = digests.contains(self._digests, found)
        places = np.searchsorted(self._digests, found[is_known])
        self.is_listed[places] = True
        etags = np.fromiter((current.etag_digest(ref.etag) for ref in refs), np.uint64, len(refs))[is_known]
        is_same = np.logical_or(*(versions[places] == etags for versions in self._versions))
        kinds = np.full(len(refs), _NEW, np.int8)
        kinds[is_known] = np.where(self.is_gone[places], _BACK, _CHANGED)
        is_missing = np.ones(len(refs), bool)
        is_missing[is_known] = ~is_same | self.is_gone[places]
        wanted = np.flatnonzero(is_missing)
        clues = clues_of_refs([refs[index] for index in wanted.tolist()])[:, SIZE_AND_NAME]
        return _Missing(found[wanted], kinds[wanted], clues, names.take(pa.array(wanted)))


def compare(table: RowIndex, chosen: Chosen, listing: Iterable[PhotoRef], most: int) -> Comparison:
    """Compares all rows with a listing.

    Args:
      table: all rows.
      chosen: the rows that count.
      listing: the photos that exist now.
      most: number of photos that are named in each group.

    Raises:
      UnreadableFileError, NewerFileError: see `rows.read_batches`.
    """
    photos, parts, listed = _Photos(table, chosen), [], 0
    for refs in _chunks(listing):
        listed += len(refs)
        parts.append(photos.missing(refs))
    missing = _Missing.concatenated(parts)
    is_new = missing.kinds == _NEW
    vanished = np.sort(photos.captioned[~photos.is_listed & (photos.captioned >= 0)])
    clues, rows = _alike(table, vanished, missing.clues[is_new & (missing.clues != 0)])
    is_moved = is_new & digests.contains(clues, missing.clues)
    named = missing.clues[np.flatnonzero(is_moved)[:most]]
    return Comparison(
        listed,
        new=missing.group(is_new & ~is_moved, most),
        changed=missing.group(missing.kinds == _CHANGED, most),
        back=missing.group(missing.kinds == _BACK, most),
        moved=missing.group(is_moved, most),
        origins=[photo for photo, _ in table.names(rows[np.searchsorted(clues, named)])],
        unlisted=int((~photos.is_listed & ~photos.is_gone).sum()),
    )


def _alike(table: RowIndex, rows: np.ndarray, clues: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the rows, among some, that share a clue with new photos.

    Returns:
      `[found]`, the clues that were found, sorted, and `[found]`, the index of a row with each.
    """
    found, with_clue = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for some, part in table.tables(rows, ["photo", "etag", "bytes"]) if len(clues) else ():
        of_rows = clues_of_rows(part)[:, SIZE_AND_NAME]
        is_alike = np.isin(of_rows, clues)
        found.append(of_rows[is_alike])
        with_clue.append(some[is_alike])
    unique, first = np.unique(np.concatenate(found), return_index=True)
    return unique, np.concatenate(with_clue)[first]


def _chunks(listing: Iterable[PhotoRef]) -> Iterator[list[PhotoRef]]:
    refs = iter(listing)
    while chunk := list(itertools.islice(refs, _LISTED_AT_ONCE)):
        yield chunk
