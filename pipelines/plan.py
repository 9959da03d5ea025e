"""The plan of a run: which photos to caption, in which shards. Made once, then frozen.

Engines run steps again. Whatever a later attempt would list, the run keeps to the plan that was
written first, so that no photo is captioned twice or left out.
"""

import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq
from apache_beam.pvalue import AsSingleton

from pipelines import storage
from pipelines.photos import PhotoRef, Shard, photo_table, photos_of

# Fewer shards than this for each worker would leave some of them idle at the end.
SHARDS_PER_WORKER = 8
# Smaller shards would only make the model's batches small.
SMALLEST_SHARD = 32


@dataclasses.dataclass(frozen=True, order=True)
class PlannedShard:
    """A shard of the plan: its number, how many photos it has, and the file that lists them."""

    index: int
    photos: int
    path: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run is to do; the content of `plan.json`.

    Attributes:
      run: id of the run.
      listed: photos found.
      skipped: photos that are in the ledger already.
      planned: photos to caption: the rest.
      shards: the files that list these.
    """

    run: str
    listed: int
    skipped: int
    planned: int
    shards: tuple[PlannedShard, ...]

    def to_json(self) -> bytes:
        """The plan as `plan.json`."""
        shards = [vars(shard) for shard in self.shards]
        return json.dumps({**vars(self), "shards": shards}, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Plan":
        """Reads what `to_json` wrote."""
        fields = json.loads(data)
        return cls(**{**fields, "shards": tuple(PlannedShard(**shard) for shard in fields["shards"])})


@dataclasses.dataclass
class PlanShards(beam.PTransform):
    """From the listing, and the ledger as a side input, to the `PlannedShard`s of the frozen plan.

    Attributes:
      folder: of the run.
      run: its id.
      shard_size: photos a shard, about.
      workers: how many there are to keep busy.
    """

    folder: str
    run: str
    shard_size: int
    workers: int

    def expand(self, inputs):
        """`inputs` are the listing and the ledger."""
        listed, done = inputs
        new = listed | "SkipDone" >> beam.Filter(lambda ref, done: ref not in done, AsSingleton(done))
        count = new | "CountNew" >> beam.combiners.Count.Globally()
        return (
            new
            | "AssignShard" >> beam.Map(self._assign, AsSingleton(count)).with_output_types(tuple[int, PhotoRef])
            | "GroupShards" >> beam.GroupByKey()
            | "WriteShardPlan" >> beam.Map(write_shard, self.folder)
            | "CollectShards" >> beam.combiners.ToList()
            | "FreezePlan"
            >> beam.Map(freeze, AsSingleton(listed | "CountListed" >> beam.combiners.Count.Globally()), self)
            | "Shards" >> beam.FlatMap(lambda plan: plan.shards).with_output_types(PlannedShard)
        )

    def _assign(self, ref: PhotoRef, count: int) -> tuple[int, PhotoRef]:
        return shard_of(ref.photo, shard_count(count, self.shard_size, self.workers)), ref


def path_of(folder: str) -> str:
    """Where a run's plan lies."""
    return storage.join(folder, "plan.json")


def read(folder: str) -> Plan | None:
    """A run's plan; None where it is not made yet."""
    path = path_of(folder)
    return Plan.from_json(storage.read(path)) if storage.exists(path) else None


def shard_count(photos: int, shard_size: int, workers: int) -> int:
    """How many shards to make of some photos: of `shard_size`, or smaller where workers would idle."""
    for_workers = math.ceil(photos / (SHARDS_PER_WORKER * workers))
    return max(1, math.ceil(photos / min(shard_size, max(SMALLEST_SHARD, for_workers))))


def shard_of(photo: str, shards: int) -> int:
    """The shard that a photo belongs to: the same in every process, unlike `hash`."""
    return int.from_bytes(hashlib.blake2b(photo.encode(), digest_size=8).digest(), "big") % shards


def write_shard(group: tuple[int, Iterable[PhotoRef]], folder: str) -> PlannedShard:
    """Writes a shard's photos, sorted, to a file named after its content.

    An attempt that listed something else thus writes another file, and `plan.json` says which one counts.
    """
    index, photos = group
    shard = sorted(set(photos), key=lambda ref: ref.photo)
    buffer = io.BytesIO()
    pq.write_table(photo_table(shard), buffer)
    data = buffer.getvalue()
    name = f"shard-{index:05d}-{hashlib.blake2b(data, digest_size=8).hexdigest()}.parquet"
    path = storage.join(folder, "plan", name)
    storage.create(path, data)
    return PlannedShard(index, len(shard), path)


def read_shard(planned: PlannedShard) -> Shard:
    """The shard with its photos."""
    return Shard(planned.index, photos_of(pq.read_table(io.BytesIO(storage.read(planned.path)))))


def freeze(shards: Sequence[PlannedShard], listed: int, settings: PlanShards) -> Plan:
    """Makes the plan, unless the run has one, and returns the one that the run has."""
    existing = read(settings.folder)
    if existing:
        return existing
    planned = sum(shard.photos for shard in shards)
    plan = Plan(settings.run, listed, listed - planned, planned, tuple(sorted(shards)))
    storage.create(path_of(settings.folder), plan.to_json())
    # Another attempt may have been faster.
    return Plan.from_json(storage.read(path_of(settings.folder)))


def unless_planned(element: Any, folder: str) -> Iterator[Any]:
    """Passes on what a plan is made from, where it still has to be made."""
    if not storage.exists(path_of(folder)):
        yield element
