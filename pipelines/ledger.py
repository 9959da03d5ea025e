"""The record of what is done: the committed rows themselves, as digests that a listing is compared with."""

import collections
import dataclasses
import datetime
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beamscribe.pipelines.failures import ErrorCode
from beamscribe.pipelines.output import rows
from beamscribe.pipelines.photos import FAILED, PhotoRef

# Listing and ledger are compared in parts, each of which must fit into a worker's memory.
PARTS = 256

_PASSING = frozenset(code.value for code in ErrorCode if code.passing)
_COLUMNS = ["photo", "etag", "status", "error", "model", "settings", "written_at"]
# Files that one element stands for: more rows of a part lie together.
_FILES = 64

# What is kept of a row: 34 bytes.
_ENTRY = np.dtype([("photo", "V16"), ("etag", "u8"), ("written_at", "i8"), ("failure", "u1"), ("difference", "u1")])
_PERMANENT_FAILURE, _PASSING_FAILURE = 1, 2
_OTHER_MODEL, _OTHER_SETTINGS = 1, 2


@dataclasses.dataclass(frozen=True)
class DoneRule:
    """Which rows mean that a photo need not be captioned again.

    Attributes:
      model, settings: fingerprints of what the run captions with.
      recaption: what is to be done again, photos captioned by another `model` or with other `settings`, those that
        `failed` for good, or `all`.
      since: rows of this time and later count as done whatever `recaption` says: they are of an earlier attempt at
        the same; None where there was none.
    """

    model: str
    settings: str
    recaption: frozenset[str] = frozenset()
    since: datetime.datetime | None = None

    def is_done(self, entry: "Entry") -> bool:
        """Whether a photo whose bytes have not changed since needs nothing more."""
        if entry.failure == _PASSING_FAILURE:
            return False
        if self.since and entry.written_at >= _microseconds(self.since):
            return True
        if entry.failure:
            return not {"all", "failed"} & self.recaption
        again = {"all"}
        again |= {"model"} if entry.difference & _OTHER_MODEL else set()
        again |= {"settings"} if entry.difference & _OTHER_SETTINGS else set()
        return not again & self.recaption


class Entry(NamedTuple):
    """What the ledger knows of a photo: its latest row."""

    etag: int
    written_at: int
    failure: int
    difference: int


@dataclasses.dataclass
class ReadLedger(beam.PTransform):
    """From an output folder to the entries of all runs but one's own: (part, entries) pairs.

    Attributes:
      run: the own run, whose rows a plan never reads: else a second attempt would plan less.
      rule: whose model and settings the entries are compared with.
    """

    run: str
    rule: DoneRule

    def expand(self, outputs):
        """`outputs` holds the one output folder."""
        return (
            outputs
            | "ListCommitted" >> beam.FlatMap(committed_files, self.run)
            | "ReshuffleCommitted" >> beam.Reshuffle()
            | "ReadEntries" >> beam.FlatMap(entries_of, self.rule)
        )


def committed_files(output: str, without_run: str) -> Iterator[list[str]]:
    """The shard files of all runs but one, some in each list."""
    own = f"run={without_run}"
    files = (path for path in rows.committed_files(output) if own not in path.split("/"))
    while several := list(itertools.islice(files, _FILES)):
        yield several


def entries_of(files: Sequence[str], rule: DoneRule) -> Iterator[tuple[int, np.ndarray]]:
    """The entries of some shard files' rows, an array for each part that has any."""
    for tables in _some(rows.read_batches(files, _COLUMNS)):
        entries = np.concatenate([_entries(table, rule) for table in tables])
        parts = np.ascontiguousarray(entries["photo"]).view("u1")[15::16].astype(int) % PARTS
        order = np.argsort(parts, kind="stable")
        found, starts = np.unique(parts[order], return_index=True)
        yield from zip(map(int, found), np.split(entries[order], starts[1:]), strict=True)


def latest(arrays: Iterable[np.ndarray]) -> dict[bytes, Entry]:
    """The latest entry of each photo, by the photo's digest."""
    together = np.concatenate([np.empty(0, _ENTRY), *arrays])
    # Later ones replace earlier ones.
    together = together[np.argsort(together["written_at"], kind="stable")]
    names = ("etag", "written_at", "failure", "difference")
    columns = (together[name].tolist() for name in names)
    return dict(zip(together["photo"].tolist(), map(Entry, *columns), strict=True))


def by_part(photos: Iterable[PhotoRef]) -> Iterator[tuple[int, tuple[PhotoRef, ...]]]:
    """Photos to be compared with the entries of their part."""
    parts: Mapping[int, list[PhotoRef]] = collections.defaultdict(list)
    for ref in photos:
        parts[photo_digest(ref.photo)[-1] % PARTS].append(ref)
    for part, refs in parts.items():
        yield part, tuple(refs)


def photo_digest(photo: str) -> bytes:
    """16 bytes that stand for a photo's URI."""
    return hashlib.blake2b(photo.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def etag_digest(etag: str) -> int:
    """A number of 64 bits that stands for an etag."""
    return int.from_bytes(hashlib.blake2b(etag.encode(), digest_size=8).digest(), "big")


def _some(tables: Iterable[pa.Table]) -> Iterator[list[pa.Table]]:
    """Tables of 100,000 rows and more together."""
    several: list[pa.Table] = []
    for table in tables:
        several.append(table)
        if sum(map(len, several)) >= 100_000:
            yield several
            several = []
    if several:
        yield several


def _entries(table: pa.Table, rule: DoneRule) -> np.ndarray:
    entries = np.empty(len(table), _ENTRY)
    columns = {name: table[name].to_pylist() for name in _COLUMNS if name != "written_at"}
    entries["photo"] = np.frombuffer(b"".join(map(photo_digest, columns["photo"])), "V16")
    entries["etag"] = np.fromiter(map(etag_digest, columns["etag"]), "u8", len(table))
    entries["written_at"] = table["written_at"].cast("int64").to_numpy()
    entries["failure"] = [
        0 if status != FAILED else _PASSING_FAILURE if error in _PASSING else _PERMANENT_FAILURE
        for status, error in zip(columns["status"], columns["error"], strict=True)
    ]
    entries["difference"] = [
        _OTHER_MODEL * (model != rule.model) + _OTHER_SETTINGS * (settings != rule.settings)
        for model, settings in zip(columns["model"], columns["settings"], strict=True)
    ]
    return entries


def _microseconds(time: datetime.datetime) -> int:
    return int(time.timestamp() * 1_000_000)
