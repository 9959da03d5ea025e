"""The ledger: the committed rows of earlier runs, as digests that the listing is compared with."""

import collections
import dataclasses
import enum
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beamscribe.pipelines.output import current, layout, rows
from beamscribe.pipelines.output.current import Keys
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import scope

# The listing and the ledger are compared in this many parts; each part must fit in a worker's memory.
PARTS = 256

# Runs from one try to the next are 1, 2, 4 and so on, up to this many.
_MOST_RUNS = 32
# More are not told apart.
_MOST_ATTEMPTS = 255

_COLUMNS = ["photo", "model", "settings", *current.COLUMNS]
# Shard files in one element: with more files, an element holds more rows of each part.
_FILES_PER_ELEMENT = 64

# The ledger's entry for a row, 60 bytes.
_ENTRY = np.dtype(
    [
        ("photo", "V16"),
        ("run_number", "i8"),
        ("written_at", "i8"),
        ("kinds", "u1"),
        ("pictures", "u8", 3),
        ("difference", "u1"),
        ("attempts", "u1"),
        ("is_below", "u1"),
    ]
)
_OTHER_MODEL, _OTHER_SETTINGS = 1, 2


class Why(enum.StrEnum):
    """Why a listed photo is captioned in a run, or skipped."""

    NEW = "new"
    CHANGED = "changed since they were captioned"
    RETURNED = "there again after they were gone"
    WITHDRAWN = "captioned by a person who has taken that back"
    MAY_HAVE_PASSED = "failed for a reason that may have passed"
    NOT_YET = "failed several times for a reason that may have passed, to be tried again in a later run"
    MODEL = "captioned by another model"
    SETTINGS = "captioned with other settings"
    FAILED = "failed for good, to be tried again"
    ALL = "captioned, to be captioned again"
    DONE = "captioned"
    DONE_OTHERWISE = "captioned by another model or with other settings, which is left as it is"
    FAILED_FOR_GOOD = "failed for good"

    @property
    def skips(self) -> bool:
        """Whether the photo is skipped."""
        return self in (Why.DONE, Why.DONE_OTHERWISE, Why.FAILED_FOR_GOOD, Why.NOT_YET)

    @property
    def repeats(self) -> bool:
        """Whether the photo is captioned because somebody wants another caption than the one that there is."""
        return self in (Why.MODEL, Why.SETTINGS, Why.ALL, Why.FAILED, Why.WITHDRAWN)


@dataclasses.dataclass(frozen=True)
class DoneRule:
    """Decides from a photo's current row whether the photo is done.

    Attributes:
      model, settings: fingerprints of the model and of the settings that the run captions with.
      recaption: photos to caption again: `model` and `settings` for those captioned by another model or with other
        settings, `failed` for those with a permanent failure, `all` for all.
      since: the rows that it covers count as done whatever `recaption` says, because an unfinished run of the same job
        wrote them; None if there was no such run.
      run_number: number of the run; 0 if it is not known, so that all passing failures are tried again.
    """

    model: str
    settings: str
    recaption: frozenset[str] = frozenset()
    since: current.Since | None = None
    run_number: int = 0

    def why(self, etag: int, entry: "Entry | None") -> Why:
        """Why a photo is captioned, or skipped.

        Args:
          etag: digest of the photo's present etag, as `current.etag_digest` gives it.
          entry: the ledger's entry for the photo; None if there is none.
        """
        if entry is None:
            return Why.NEW
        if entry.is_gone:
            return Why.RETURNED
        if etag != entry.captioned_etag:
            return self._why_failed(entry) if entry.has_failed and etag == entry.etag else Why.CHANGED
        if entry.is_withdrawn:
            return Why.WITHDRAWN
        again = self._again(entry, entry.captioned_run, entry.captioned_at)
        if "model" in again and entry.difference & _OTHER_MODEL:
            return Why.MODEL
        if "settings" in again and entry.difference & _OTHER_SETTINGS:
            return Why.SETTINGS
        if "all" in again:
            return Why.ALL
        return Why.DONE_OTHERWISE if entry.difference else Why.DONE

    def _why_failed(self, entry: "Entry") -> Why:
        again = self._again(entry, entry.run_number, entry.written_at)
        if entry.may_pass:
            return Why.MAY_HAVE_PASSED if {"all", "failed"} & again or self._is_due(entry) else Why.NOT_YET
        return Why.FAILED if {"all", "failed"} & again else Why.FAILED_FOR_GOOD

    def _again(self, entry: "Entry", run_number: int, written_at: int) -> frozenset[str]:
        """What `recaption` asks for of a row: nothing where a person's caption stands, or where it is done already."""
        is_done = self.since and self.since.covers(run_number, written_at)
        return frozenset() if entry.is_persons or is_done else self.recaption

    def accepts(self, table: pa.Table) -> np.ndarray:
        """Whether the captions of rows may be taken over, rather than made again.

        Args:
          table: rows with the columns `model`, `settings` and `current.COLUMNS`.

        Returns:
          `[rows]`, bool.
        """
        keys = Keys.of(table)
        difference = _difference(table, self)
        again = np.zeros(len(table), bool)
        for kind, bits in (("model", _OTHER_MODEL), ("settings", _OTHER_SETTINGS)):
            if kind in self.recaption:
                again |= (difference & bits) != 0
        again |= "all" in self.recaption
        if self.since:
            times = zip(keys.run_numbers.tolist(), keys.written_at.tolist(), strict=True)
            again &= ~np.fromiter((self.since.covers(*one) for one in times), bool, len(table))
        has_caption, is_persons = ((keys.kinds & bit) != 0 for bit in (current.HAS_CAPTION, current.IS_PERSONS))
        return is_persons | (has_caption & ~again)

    def _is_due(self, entry: "Entry") -> bool:
        """Whether a photo that failed for a passing reason is tried again: after 1, 2, 4 … runs."""
        wait = min(2 ** max(entry.attempts - 1, 0), _MOST_RUNS)
        return not (self.run_number and entry.run_number) or self.run_number - entry.run_number >= wait


class Entry(NamedTuple):
    """The ledger's entry for a photo, from those of its rows that count.

    Attributes:
      etag: digest of the etag of the newest row, as `current.etag_digest` gives it.
      run_number: number of the run that made the newest row; 0 where it has none.
      written_at: when that row was written, microseconds since 1970.
      has_failed: whether that row is a failure.
      may_pass: whether that failure may pass.
      attempts: in how many consecutive runs, the latest ones, that version of the photo failed.
      is_gone: whether the photo was gone.
      captioned_etag: digest of the etag of the latest row, if that has a caption; else -1.
      captioned_run, captioned_at: number of the run that made the latest row, and when it was written.
      difference: flags of the latest row: another model, other settings.
      is_persons: whether a person's caption stands.
      is_withdrawn: whether the caption is a person's who has taken it back.
      is_edited: whether a person has written a row of the photo.
      is_below: whether the photo is below one of the inputs.
    """

    etag: int
    run_number: int
    written_at: int
    has_failed: bool
    may_pass: bool
    attempts: int
    is_gone: bool
    captioned_etag: int
    captioned_run: int
    captioned_at: int
    difference: int
    is_persons: bool
    is_withdrawn: bool
    is_edited: bool
    is_below: bool

    @property
    def is_there(self) -> bool:
        """Whether the photo is below one of the inputs, and was there in the last run that looked."""
        return self.is_below and not self.is_gone

    def failed_attempts(self, etag: int) -> int:
        """In how many consecutive runs, the latest ones, the version of the photo with an etag failed."""
        return max(self.attempts, 1) if self.has_failed and self.etag == etag else 0


@dataclasses.dataclass
class ReadLedger(beam.PTransform):
    """Reads the ledger entries of shard files.

    Attributes:
      rule: holds the model and the settings that rows are compared with.
      inputs: inputs of the run.
    """

    rule: DoneRule
    inputs: tuple[str, ...] = ()

    def expand(self, files: beam.PCollection[Sequence[str]]) -> beam.PCollection[tuple[int, np.ndarray]]:
        """Reads the entries of groups of files; returns (part, entries) pairs, as from `entries_of`."""
        return files | "ReadEntries" >> beam.FlatMap(entries_of, self.rule, self.inputs)


@dataclasses.dataclass
class ListLedger(beam.PTransform):
    """Lists the shard files of all earlier runs, in groups.

    Attributes:
      run: id of the planned run. Its own rows are skipped: otherwise a second attempt would plan fewer photos.
    """

    run: str

    def expand(self, outputs: beam.PCollection[str]) -> beam.PCollection[Sequence[str]]:
        """Lists the files of an output folder, which is the one element."""
        return (
            outputs
            | "ListCommitted" >> beam.FlatMap(committed_files, self.run)
            | "ReshuffleCommitted" >> beam.Reshuffle()
        )


def committed_files(output: str, without_run: str) -> Iterator[list[str]]:
    """Lists the shard files of all runs except one, in groups."""
    files = (path for path in layout.committed_files(output) if layout.run_of(path) != without_run)
    while several := list(itertools.islice(files, _FILES_PER_ELEMENT)):
        yield several


def entries_of(files: Sequence[str], rule: DoneRule, inputs: Sequence[str] = ()) -> Iterator[tuple[int, np.ndarray]]:
    """Reads the ledger entries of shard files.

    Args:
      files: paths of the files.
      rule: holds the model and the settings that rows are compared with.
      inputs: inputs of the run.

    Yields:
      (part, entries) pairs; entries is a structured array `[rows]`, for `latest`.
    """
    below = scope.prefixes(inputs)
    for tables in _grouped(rows.read_batches(files, _COLUMNS)):
        entries = np.concatenate([_entries(table, rule, below) for table in tables])
        parts = np.ascontiguousarray(entries["photo"]).view("u1")[15::16].astype(int) % PARTS
        order = np.argsort(parts, kind="stable")
        found, starts = np.unique(parts[order], return_index=True)
        yield from zip(map(int, found), np.split(entries[order], starts[1:]), strict=True)


def latest(arrays: Iterable[np.ndarray]) -> dict[bytes, Entry]:
    """Maps the digest of each photo to what its rows say.

    Args:
      arrays: arrays of entries, as from `entries_of`.
    """
    entries = np.concatenate([np.empty(0, _ENTRY), *arrays])
    keys = Keys(entries["run_number"], entries["written_at"], entries["kinds"], entries["pictures"])
    chosen = current.choose(np.ascontiguousarray(entries["photo"]).view("S16"), keys)
    # A photo without a row of a job, which only a person has captioned, is a new one.
    known = chosen.newest >= 0
    newest, latest_row = chosen.newest[known], chosen.latest[known]
    standing, person = chosen.current[known], chosen.person[known]

    def has(found: np.ndarray, bit: int) -> list[bool]:
        return ((found >= 0) & ((keys.kinds[found] & bit) != 0)).tolist()

    etags, is_captioned = keys.etags, has(latest_row, current.HAS_CAPTION)
    columns = (
        etags[newest].tolist(),
        keys.run_numbers[newest].tolist(),
        keys.written_at[newest].tolist(),
        has(newest, current.HAS_FAILED),
        has(newest, current.MAY_PASS),
        entries["attempts"][newest].tolist(),
        has(latest_row, current.IS_GONE),
        [etag if there else -1 for etag, there in zip(etags[latest_row].tolist(), is_captioned, strict=True)],
        keys.run_numbers[latest_row].tolist(),
        keys.written_at[latest_row].tolist(),
        entries["difference"][latest_row].tolist(),
        has(standing, current.IS_PERSONS),
        [a and b for a, b in zip(has(person, current.IS_WITHDRAWN), has(latest_row, current.IS_PERSONS), strict=True)],
        (person >= 0).tolist(),
        (entries["is_below"][newest] > 0).tolist(),
    )
    return dict(zip(entries["photo"][newest].tolist(), map(Entry, *columns), strict=True))


def by_part(photos: Iterable[PhotoRef]) -> Iterator[tuple[int, tuple[PhotoRef, ...]]]:
    """Groups photos by the part of the ledger that they are compared with."""
    parts: Mapping[int, list[PhotoRef]] = collections.defaultdict(list)
    for ref in photos:
        parts[part_of(photo_digest(ref.photo))].append(ref)
    for part, refs in parts.items():
        yield part, tuple(refs)


def part_of(digest: bytes) -> int:
    """The part of the ledger that a photo, given by its digest, is compared in."""
    return digest[-1] % PARTS


def photo_digest(photo: str) -> bytes:
    """The digest of a photo's URI, 16 bytes."""
    return hashlib.blake2b(photo.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _grouped(tables: Iterable[pa.Table]) -> Iterator[list[pa.Table]]:
    """Groups tables so that each group, except the last, has at least 100,000 rows."""
    several: list[pa.Table] = []
    for table in tables:
        several.append(table)
        if sum(map(len, several)) >= 100_000:
            yield several
            several = []
    if several:
        yield several


def _entries(table: pa.Table, rule: DoneRule, below: tuple[str, ...]) -> np.ndarray:
    entries = np.empty(len(table), _ENTRY)
    photos = table["photo"].to_pylist()
    entries["photo"] = np.frombuffer(b"".join(map(photo_digest, photos)), "V16")
    entries["run_number"], entries["written_at"], entries["kinds"], entries["pictures"] = Keys.of(table)
    attempts = pc.fill_null(table["attempts"], 0).to_numpy()
    entries["attempts"] = np.clip(attempts, 0, _MOST_ATTEMPTS)
    entries["difference"] = _difference(table, rule)
    entries["is_below"] = [photo.startswith(below) for photo in photos]
    return entries


def _difference(table: pa.Table, rule: DoneRule) -> np.ndarray:
    """Whether another model or other settings captioned the rows, as flags `[rows]`, uint8."""
    other_model = pc.not_equal(table["model"], rule.model).to_numpy()
    other_settings = pc.not_equal(table["settings"], rule.settings).to_numpy()
    return _OTHER_MODEL * other_model.astype(np.uint8) + _OTHER_SETTINGS * other_settings.astype(np.uint8)
