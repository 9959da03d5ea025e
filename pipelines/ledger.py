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

from beamscribe.pipelines.failures import ErrorCode
from beamscribe.pipelines.output import current, layout, rows
from beamscribe.pipelines.photos import FAILED, PhotoRef

# The listing and the ledger are compared in this many parts; each part must fit in a worker's memory.
PARTS = 256

# Runs in which a photo whose image process was killed from outside is tried.
_MOST_KILLS = 3
# Runs from one try to the next are 1, 2, 4 and so on, up to this many.
_MOST_RUNS = 32
# More are not told apart.
_MOST_ATTEMPTS = 255

_TRANSIENT = frozenset(code.value for code in ErrorCode if code.transient)
_COLUMNS = ["photo", "etag", "status", "error", "model", "settings", "attempts", *current.COLUMNS]
# Shard files in one element: with more files, an element holds more rows of each part.
_FILES_PER_ELEMENT = 64

# The ledger's entry for a row, 43 bytes.
_ENTRY = np.dtype(
    [
        ("photo", "V16"),
        ("etag", "u8"),
        ("run_number", "i8"),
        ("written_at", "i8"),
        ("failure", "u1"),
        ("difference", "u1"),
        ("attempts", "u1"),
    ]
)
_PERMANENT_FAILURE, _TRANSIENT_FAILURE = 1, 2
_OTHER_MODEL, _OTHER_SETTINGS = 1, 2


class Why(enum.StrEnum):
    """Why a listed photo is captioned in a run, or skipped."""

    NEW = "new"
    CHANGED = "changed since they were captioned"
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
          etag: digest of the photo's present etag, as `etag_digest` gives it.
          entry: the ledger's entry for the photo; None if there is none.
        """
        if entry is None:
            return Why.NEW
        if entry.etag != etag:
            return Why.CHANGED
        again = frozenset() if self.since and self.since.covers(entry.run_number, entry.written_at) else self.recaption
        if entry.failure == _TRANSIENT_FAILURE:
            return Why.MAY_HAVE_PASSED if {"all", "failed"} & again or self._is_due(entry) else Why.NOT_YET
        if entry.failure:
            return Why.FAILED if {"all", "failed"} & again else Why.FAILED_FOR_GOOD
        if "model" in again and entry.difference & _OTHER_MODEL:
            return Why.MODEL
        if "settings" in again and entry.difference & _OTHER_SETTINGS:
            return Why.SETTINGS
        if "all" in again:
            return Why.ALL
        return Why.DONE_OTHERWISE if entry.difference else Why.DONE

    def _is_due(self, entry: "Entry") -> bool:
        """Whether a photo that failed for a passing reason is tried again: after 1, 2, 4 … runs."""
        wait = min(2 ** max(entry.attempts - 1, 0), _MOST_RUNS)
        return not (self.run_number and entry.run_number) or self.run_number - entry.run_number >= wait


class Entry(NamedTuple):
    """The ledger's entry for a photo, from its current row.

    Attributes:
      etag: digest of the etag, as `etag_digest` gives it.
      run_number: number of the run that made the row; 0 where it has none.
      written_at: time of writing, microseconds since 1970.
      failure: 0 for a captioned photo; else whether the failure is permanent or transient.
      difference: flags: another model, other settings.
      attempts: number of consecutive runs in which this version of the photo failed.
    """

    etag: int
    run_number: int
    written_at: int
    failure: int
    difference: int
    attempts: int

    def failed_attempts(self, etag: int) -> int:
        """In how many consecutive runs, the latest ones, the version of the photo with an etag failed."""
        return max(self.attempts, 1) if self.failure and self.etag == etag else 0


@dataclasses.dataclass
class ReadLedger(beam.PTransform):
    """Reads the ledger entries of all earlier runs.

    Attributes:
      run: id of the planned run. Its own rows are skipped: otherwise a second attempt would plan fewer photos.
      rule: holds the model and the settings that rows are compared with.
    """

    run: str
    rule: DoneRule

    def expand(self, outputs: beam.PCollection[str]) -> beam.PCollection[tuple[int, np.ndarray]]:
        """Reads the entries of an output folder.

        Args:
          outputs: one element: the output folder.

        Returns:
          (part, entries) pairs, as from `entries_of`.
        """
        return (
            outputs
            | "ListCommitted" >> beam.FlatMap(committed_files, self.run)
            | "ReshuffleCommitted" >> beam.Reshuffle()
            | "ReadEntries" >> beam.FlatMap(entries_of, self.rule)
        )


def committed_files(output: str, without_run: str) -> Iterator[list[str]]:
    """Lists the shard files of all runs except one, in groups."""
    files = (path for path in layout.committed_files(output) if layout.run_of(path) != without_run)
    while several := list(itertools.islice(files, _FILES_PER_ELEMENT)):
        yield several


def entries_of(files: Sequence[str], rule: DoneRule) -> Iterator[tuple[int, np.ndarray]]:
    """Reads the ledger entries of shard files.

    Args:
      files: paths of the files.
      rule: holds the model and the settings that rows are compared with.

    Yields:
      (part, entries) pairs; entries is a structured array `[rows]` with the fields of `Entry` and a digest of the
      photo.
    """
    for tables in _grouped(rows.read_batches(files, _COLUMNS)):
        entries = np.concatenate([_entries(table, rule) for table in tables])
        parts = np.ascontiguousarray(entries["photo"]).view("u1")[15::16].astype(int) % PARTS
        order = np.argsort(parts, kind="stable")
        found, starts = np.unique(parts[order], return_index=True)
        yield from zip(map(int, found), np.split(entries[order], starts[1:]), strict=True)


def latest(arrays: Iterable[np.ndarray]) -> dict[bytes, Entry]:
    """Maps the digest of each photo to the entry of its current row.

    Args:
      arrays: arrays of entries, as from `entries_of`.
    """
    together = np.concatenate([np.empty(0, _ENTRY), *arrays])
    # The dictionary keeps the last entry of each photo.
    together = together[current.by_precedence(current.Keys(together["run_number"], together["written_at"]))]
    columns = (together[name].tolist() for name in Entry._fields)
    return dict(zip(together["photo"].tolist(), map(Entry, *columns), strict=True))


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


def etag_digest(etag: str) -> int:
    """The digest of an etag, an unsigned 64-bit integer."""
    return int.from_bytes(hashlib.blake2b(etag.encode(), digest_size=8).digest(), "big")


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


def _may_pass(error: str | None, attempts: int) -> bool:
    return error in _TRANSIENT and not (error == ErrorCode.DECODER_KILLED and attempts >= _MOST_KILLS)


def _entries(table: pa.Table, rule: DoneRule) -> np.ndarray:
    entries = np.empty(len(table), _ENTRY)
    columns = {name: table[name].to_pylist() for name in _COLUMNS if name not in current.COLUMNS}
    entries["photo"] = np.frombuffer(b"".join(map(photo_digest, columns["photo"])), "V16")
    entries["etag"] = np.fromiter(map(etag_digest, columns["etag"]), "u8", len(table))
    entries["run_number"], entries["written_at"] = current.Keys.of(table)
    attempts = [min(max(number or 0, 0), _MOST_ATTEMPTS) for number in columns["attempts"]]
    entries["attempts"] = attempts
    entries["failure"] = [
        0 if status != FAILED else _TRANSIENT_FAILURE if _may_pass(error, tries) else _PERMANENT_FAILURE
        for status, error, tries in zip(columns["status"], columns["error"], attempts, strict=True)
    ]
    entries["difference"] = [
        _OTHER_MODEL * (model != rule.model) + _OTHER_SETTINGS * (settings != rule.settings)
        for model, settings in zip(columns["model"], columns["settings"], strict=True)
    ]
    return entries
