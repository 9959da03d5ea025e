"""The rule that says which row of a photo counts. Every reader, the ledger, compaction and verification use it.

The rows of jobs are ordered by the numbers of their runs, and those of one run by the time of writing; rows without a
number come first. Numbers are taken with the lease, so a clock that is ahead or behind decides nothing between runs.
Rows with the same number and time are copies that an interrupted compaction left; among them, the first one counts, in
the order of runs and shards.

A photo's *latest* row is the last of these, but for failures that may pass, which count only where the photo has no
other row that says what it shows. A person's row, which has a number among the edits, stands instead of the latest one
while it is of the same picture and was not withdrawn. What stands is the photo's *current* row. Where that has the
status `gone`, the photo is no longer there.
"""

import datetime
import hashlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beamscribe.pipelines.failures import ErrorCode
from beamscribe.pipelines.photos import CAPTIONED, FAILED, GONE, PERSON, WITHDRAWN

# The columns that decide which row is the current one.
COLUMNS = (
    "run_number",
    "written_at",
    "status",
    "error",
    "attempts",
    "source",
    "taken_from",
    "image_sha256",
    "sha256",
    "etag",
)

# No run has a greater number: the id of a run has no room for it.
GREATEST_NUMBER = 10**15 - 1
# Runs in which a photo whose image process was killed from outside is tried.
MOST_KILLS = 3

# What a row is, as bits.
HAS_CAPTION, HAS_FAILED, MAY_PASS, IS_GONE, IS_PERSONS, IS_EDIT, IS_WITHDRAWN = (1 << bit for bit in range(7))

PASSING = [code.value for code in ErrorCode if code.transient]
# Hexadecimal digits of a SHA-256 that tell two versions of one photo apart.
_DIGITS = 16
_ODD = np.uint64(0x9E3779B97F4A7C15)


class Keys(NamedTuple):
    """What decides which row of a photo counts.

    Attributes:
      run_numbers: `[rows]`, int64, numbers of the runs, or of the edits; 0 for rows without one.
      written_at: `[rows]`, int64, times of writing in microseconds since 1970.
      kinds: `[rows]`, uint8, what each row is, as bits: `HAS_CAPTION` and so on.
      pictures: `[rows, 3]`, uint64, beginnings of `image_sha256` and of `sha256`, and a digest of the etag; 0 where
        there is none.
    """

    run_numbers: np.ndarray
    written_at: np.ndarray
    kinds: np.ndarray
    pictures: np.ndarray

    @classmethod
    def of(cls, table: pa.Table) -> "Keys":
        """The keys of rows with the columns `COLUMNS`."""
        numbers = pc.fill_null(table["run_number"], 0).to_numpy()
        # A file that is none of ours must not outrank all runs for ever.
        numbers = np.where((numbers < 0) | (numbers > GREATEST_NUMBER), 0, numbers)
        times = table["written_at"].cast(pa.int64()).to_numpy()
        return cls(numbers, times, _kinds(table), _pictures(table))

    @classmethod
    def concatenated(cls, several: "list[Keys]") -> "Keys":
        """The keys of several tables together."""
        return cls(*(np.concatenate(arrays) for arrays in zip(_NO_KEYS, *several, strict=True)))

    @property
    def etags(self) -> np.ndarray:
        """Digests of the etags, as `etag_digest` makes them, `[rows]`, uint64."""
        return self.pictures[:, 2]

    def at(self, rows: np.ndarray) -> "Keys":
        """The keys of some rows, given by their indices or by a mask."""
        return Keys(*(array[rows] for array in self))


_NO_KEYS = Keys(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8), np.empty((0, 3), np.uint64))


def _kinds(table: pa.Table) -> np.ndarray:
    status, error = table["status"], table["error"]
    failed, edited = pc.equal(status, FAILED), pc.equal(status, WITHDRAWN)
    may_pass = pc.is_in(error, value_set=pa.array(PASSING))
    tried = pc.fill_null(pc.greater_equal(table["attempts"], MOST_KILLS), False)
    was_killed = pc.fill_null(pc.equal(error, ErrorCode.DECODER_KILLED.value), False)
    persons = pc.or_(pc.fill_null(pc.equal(table["source"], PERSON), False), edited)
    bits = {
        # The row of a photo that is gone keeps the caption, or the failure, that it had.
        HAS_CAPTION: pc.or_(pc.equal(status, CAPTIONED), pc.and_(pc.equal(status, GONE), pc.is_null(error))),
        HAS_FAILED: failed,
        MAY_PASS: pc.and_(pc.and_(failed, may_pass), pc.invert(pc.and_(was_killed, tried))),
        IS_GONE: pc.equal(status, GONE),
        IS_PERSONS: persons,
        IS_EDIT: pc.and_(persons, pc.and_(pc.is_null(table["taken_from"]), pc.invert(pc.equal(status, GONE)))),
        IS_WITHDRAWN: edited,
    }
    kinds = np.zeros(len(table), np.uint8)
    for bit, mask in bits.items():
        kinds |= np.where(mask.to_numpy(), np.uint8(bit), np.uint8(0))
    return kinds


def _pictures(table: pa.Table) -> np.ndarray:
    digests = [_beginning(table[name]) for name in ("image_sha256", "sha256")]
    etags = np.fromiter(map(etag_digest, table["etag"].to_pylist()), np.uint64, len(table))
    return np.stack([*digests, etags], axis=1)


def _beginning(column: pa.ChunkedArray) -> np.ndarray:
    """A number for the first digits of each digest; 0 for a null, and for what is no digest."""
    digits = pc.utf8_slice_codeunits(column, 0, _DIGITS)
    is_long = pc.equal(pc.fill_null(pc.utf8_length(digits), 0), _DIGITS)
    is_digest = pc.and_(is_long, pc.fill_null(pc.string_is_ascii(digits), False))
    texts = pc.if_else(is_digest, digits, "0" * _DIGITS).combine_chunks().cast(pa.binary()).cast(pa.binary(_DIGITS))
    halves = np.frombuffer(texts.buffers()[1], np.uint64)[2 * texts.offset :][: 2 * len(texts)].reshape(-1, 2)
    return np.where(is_digest.to_numpy(), halves[:, 0] * _ODD ^ halves[:, 1], np.uint64(0))


def etag_digest(etag: str) -> int:
    """The digest of an etag, an unsigned 64-bit integer."""
    return int.from_bytes(hashlib.blake2b(etag.encode(), digest_size=8).digest(), "big")


class Since(NamedTuple):
    """An unfinished run that a new run continues: the rows from that run on.

    Attributes:
      run_number: number of the unfinished run; 0 for a run of a version that gave none.
      started_at: when that run started, which counts only where it has no number.
    """

    run_number: int
    started_at: datetime.datetime

    def covers(self, run_number: int, written_at: int) -> bool:
        """Whether that run, or one after it, made a row.

        Args:
          run_number, written_at: of the row, as in `Keys`.
        """
        if self.run_number:
            return run_number >= self.run_number
        return run_number > 0 or written_at >= int(self.started_at.timestamp() * 1_000_000)


class Chosen(NamedTuple):
    """The rows of each photo that count, as arrays `[photos]` of indices of rows; -1 where there is none.

    Attributes:
      current: the current row.
      latest: the latest row.
      newest: the last row of a job, be it a failure that may pass.
      captioned: the last row of a job that has a caption.
      person: the person's row with the highest number, be it a withdrawal.
      lasting: the last row of a job, failures that may pass left out.
      to_look_at: bool, whether the person's row is of another picture than the latest row, and so does not stand.
    """

    current: np.ndarray
    latest: np.ndarray
    newest: np.ndarray
    captioned: np.ndarray
    person: np.ndarray
    lasting: np.ndarray
    to_look_at: np.ndarray


def by_precedence(keys: Keys, places: np.ndarray | None = None) -> np.ndarray:
    """Sorts rows so that the rows of a photo that count less come before those that count more.

    Args:
      keys: keys of the rows.
      places: `[rows]`, integers, positions of the rows in the order of runs and shards; by default, the given order.

    Returns:
      `[rows]`, indices of the rows in that order.
    """
    places = np.arange(len(keys.written_at)) if places is None else places
    return np.lexsort((-places, keys.written_at, keys.run_numbers))


def choose(photos: np.ndarray, keys: Keys, places: np.ndarray | None = None) -> Chosen:
    """Chooses the rows of each photo that count.

    Args:
      photos: `[rows]`, an identifier of each row's photo, of any sortable type.
      keys, places: as for `by_precedence`.
    """
    order = by_precedence(keys, places)
    order = order[np.argsort(photos[order], kind="stable")]
    starts = np.flatnonzero(np.append(True, photos[order[1:]] != photos[order[:-1]])) if len(order) else order
    kinds, positions = keys.kinds[order], np.arange(len(order))

    def last(wanted: np.ndarray) -> np.ndarray:
        """The last row of each photo for which a condition, given in `order`, holds; -1 for none."""
        if not len(order):
            return order
        found = np.maximum.reduceat(np.where(wanted, positions, -1), starts)
        return np.where(found >= 0, order[found], -1)

    of_jobs = ~_has(kinds, IS_EDIT)
    newest = last(of_jobs)
    lasting = last(of_jobs & ~_has(kinds, MAY_PASS))
    # Of a photo that had gone, a later failure says that it is there again.
    is_back = _is(keys, lasting, IS_GONE) & (newest != lasting)
    latest = np.where((lasting >= 0) & ~is_back, lasting, newest)

    edit, taken = last(_has(kinds, IS_EDIT)), last(_has(kinds, IS_PERSONS) & of_jobs & ~_has(kinds, IS_GONE))
    person = np.where(edit >= 0, edit, taken)
    is_same = (latest < 0) | _same_picture(keys.pictures, person, latest)
    is_wanted = (person >= 0) & ~_is(keys, person, IS_WITHDRAWN) & ~_is(keys, latest, IS_GONE)
    return Chosen(
        current=np.where(is_wanted & is_same, person, latest),
        latest=latest,
        newest=newest,
        captioned=last(of_jobs & _has(kinds, HAS_CAPTION)),
        person=person,
        lasting=lasting,
        to_look_at=is_wanted & ~is_same,
    )


def mask(photos: np.ndarray, keys: Keys, places: np.ndarray | None = None) -> np.ndarray:
    """Marks the current row of each photo that is still there; arguments are those of `choose`.

    Returns:
      `[rows]`, bool, True for the current rows.
    """
    current = choose(photos, keys, places).current
    return _marked(len(photos), current[~_is(keys, current, IS_GONE)])


def kept(photos: np.ndarray, keys: Keys, places: np.ndarray | None = None, prune_gone: bool = False) -> np.ndarray:
    """Marks the rows that may still count for something, which compaction keeps; arguments are those of `choose`.

    Args:
      photos, keys, places: as for `choose`.
      prune_gone: whether photos that are no longer there lose all their rows.

    Returns:
      `[rows]`, bool, True for these rows: one for most photos.
    """
    chosen = choose(photos, keys, places)
    stays = ~_is(keys, chosen.current, IS_GONE) if prune_gone else np.ones(len(chosen.current), bool)
    # Without the row that says that a photo was gone, older failures would count again before a later one.
    several = (chosen.current, chosen.latest, chosen.newest, chosen.captioned, chosen.person, chosen.lasting)
    return _marked(len(photos), np.concatenate([found[stays] for found in several]))


def _marked(count: int, rows: np.ndarray) -> np.ndarray:
    marks = np.zeros(count, bool)
    marks[rows[rows >= 0]] = True
    return marks


def _has(kinds: np.ndarray, bit: int) -> np.ndarray:
    return (kinds & bit) != 0


def _is(keys: Keys, rows: np.ndarray, bit: int) -> np.ndarray:
    """Whether rows, given by their indices, have a bit; False for -1."""
    return (rows >= 0) & _has(keys.kinds[rows], bit) if len(keys.kinds) else np.zeros(len(rows), bool)


def _same_picture(pictures: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether pairs of rows are of the same picture: by the first of the digests that both of them have."""
    if not len(pictures):
        return np.zeros(len(one), bool)
    ours, theirs = pictures[one], pictures[other]
    both = (ours != 0) & (theirs != 0)
    equal = ours == theirs
    return np.select([both[:, 0], both[:, 1]], [equal[:, 0], equal[:, 1]], equal[:, 2])
