"""The record of what is done: the committed rows themselves, as digests that a plan is compared with."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np

from pipelines import rows
from pipelines.failures import ErrorCode
from pipelines.photos import FAILED, PhotoRef

_PASSING = frozenset(code.value for code in ErrorCode if code.passing)
_COLUMNS = ["photo", "etag", "status", "error", "model", "settings"]


@dataclasses.dataclass(frozen=True)
class Done:
    """Which photos need not be done again: a set of 16-byte digests, 16 bytes a photo.

    Attributes:
      high: upper halves, uint64, sorted.
      low: the lower halves that go with them, uint64.
    """

    high: np.ndarray
    low: np.ndarray

    @classmethod
    def of(cls, digests: Iterable[bytes]) -> "Done":
        """Makes the set of the digests in some chunks of bytes."""
        halves = np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 2).astype(np.uint64)
        halves = halves[np.argsort(halves[:, 0], kind="stable")]
        return cls(np.ascontiguousarray(halves[:, 0]), np.ascontiguousarray(halves[:, 1]))

    def __contains__(self, ref: PhotoRef) -> bool:
        digest = _digest(ref.photo, ref.etag)
        high = np.uint64(int.from_bytes(digest[:8], "big"))
        low = int.from_bytes(digest[8:], "big")
        place = int(np.searchsorted(self.high, high))
        while place < len(self.high) and self.high[place] == high:
            if int(self.low[place]) == low:
                return True
            place += 1
        return False

    def __len__(self) -> int:
        return len(self.high)


@dataclasses.dataclass
class ReadLedger(beam.PTransform):
    """From an output folder to the `Done` of all runs but one's own.

    Attributes:
      run: the own run, whose rows a plan never reads: else a second attempt would plan less.
      model, settings: fingerprints; rows of other models or settings do not count.
    """

    run: str
    model: str
    settings: str

    def expand(self, outputs):
        """`outputs` holds the one output folder."""
        return (
            outputs
            | "ListCommitted" >> beam.FlatMap(committed_files, self.run)
            | "ReshuffleCommitted" >> beam.Reshuffle()
            | "DigestRows" >> beam.Map(digests_of, self.model, self.settings)
            | "CollectDigests" >> beam.combiners.ToList()
            | "SortDigests" >> beam.Map(Done.of)
        )


def committed_files(output: str, without_run: str) -> Iterator[str]:
    """The shard files of all runs but one."""
    own = f"run={without_run}"
    for path in rows.committed_files(output):
        if own not in path.split("/"):
            yield path


def digests_of(path: str, model: str, settings: str) -> bytes:
    """The digests of a shard file's rows that need not be done again, 16 bytes each."""
    table = rows.read_table(path, _COLUMNS)
    return b"".join(
        _digest(row["photo"], row["etag"])
        for row in table.to_pylist()
        if (row["model"], row["settings"]) == (model, settings)
        and not (row["status"] == FAILED and row["error"] in _PASSING)
    )


def _digest(photo: str, etag: str) -> bytes:
    return hashlib.blake2b(f"{photo}\0{etag}".encode("utf-8", "surrogateescape"), digest_size=16).digest()
