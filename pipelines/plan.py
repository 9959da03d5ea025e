"""The plan of a run: which photos to caption, in which shards. Made once, then frozen.

Engines run steps again. Whatever a later attempt would list, the run keeps to the plan that was
written first, so that no photo is captioned twice or left out.
"""

import collections
import dataclasses
import hashlib
import io
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow.parquet as pq
from apache_beam.pvalue import AsIter

from beamscribe.pipelines import duplicates, ledger, stores
from beamscribe.pipelines.ledger import DoneRule
from beamscribe.pipelines.photos import PhotoRef, Shard, photo_table, photos_of
from beamscribe.pipelines.sources.base import ListOptions

# Fewer shards than this for each worker would leave some of them idle at the end.
SHARDS_PER_WORKER = 8
# Smaller shards would only make the model's batches small.
SMALLEST_SHARD = 32


class New(NamedTuple):
    """What is left to do of a part of the listing.

    Attributes:
      photos: to be captioned.
      listed: how many different photos the part has.
      outdated: how many of those that are skipped another model or other settings captioned.
    """

    photos: tuple[PhotoRef, ...]
    listed: int
    outdated: int


class Count(NamedTuple):
    """How many photos there are to caption, and how many of them are files of their own."""

    photos: int
    loose: int

    @classmethod
    def of(cls, photos: tuple[PhotoRef, ...]) -> "Count":
        """Counts some photos."""
        return cls(len(photos), sum(not ref.container for ref in photos))

    @classmethod
    def sum(cls, counts: "Iterable[Count]") -> "Count":
        """Adds counts up."""
        several = list(counts)
        return cls(sum(count.photos for count in several), sum(count.loose for count in several))


class Unit(NamedTuple):
    """Photos that are not divided any more, in a file that lists them.

    Attributes:
      container: URI of what they lie in; empty for files of their own.
      first: where in the container the first of them lies; the number of the unit for files of their own.
      photos: how many they are.
      duplicates: how many of them have the bytes of others, and are not read.
      path: of the file.
    """

    container: str
    first: int
    photos: int
    duplicates: int
    path: str


@dataclasses.dataclass(frozen=True, order=True)
class PlannedShard:
    """A shard of the plan: its number, how many photos it has, and the files that list them."""

    index: int
    photos: int
    paths: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run is to do; the content of `plan.json`.

    Attributes:
      run: id of the run.
      listed: photos found.
      skipped: photos that are in the ledger already.
      planned: photos to caption: the rest.
      duplicates: how many of these have the bytes of others, so that they are not read themselves.
      outdated: how many of the skipped another model or other settings captioned.
      ignored: how many other files there are of each kind.
      shards: the files that list what is planned.
    """

    run: str
    listed: int
    skipped: int
    planned: int
    duplicates: int
    outdated: int
    ignored: Mapping[str, int]
    shards: tuple[PlannedShard, ...]

    def to_json(self) -> bytes:
        """The plan as `plan.json`."""
        shards = [vars(shard) for shard in self.shards]
        return json.dumps({**vars(self), "shards": shards}, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Plan":
        """Reads what `to_json` wrote."""
        fields = json.loads(data)
        shards = tuple(PlannedShard(**{**shard, "paths": tuple(shard["paths"])}) for shard in fields["shards"])
        return cls(**{**fields, "shards": shards})


@dataclasses.dataclass
class PlanShards(beam.PTransform):
    """From the listing and the ledger to the `PlannedShard`s of the frozen plan.

    Both are compared part by part, so that neither need fit into memory where the engine's grouping spills.

    Attributes:
      folder: of the run.
      run: its id.
      rule: which photos are done.
      shard_size: photos a shard, about.
      workers: how many there are to keep busy.
      deduplicate: whether photos with the same bytes are captioned once.
      options: how the inputs were listed, and are to be read.
    """

    folder: str
    run: str
    rule: DoneRule
    shard_size: int
    workers: int
    deduplicate: bool = True
    options: ListOptions = ListOptions()

    def expand(self, inputs):
        """`inputs` are the listing and the ledger's entries."""
        listed, entries = inputs
        photos = listed | "PartitionPhotos" >> beam.FlatMap(lambda part: ledger.by_part(part.photos))
        left = (
            {"photos": photos, "entries": entries}
            | "GroupParts" >> beam.CoGroupByKey()
            | "SkipDone" >> beam.Map(self._left).with_output_types(New)
        )
        new = left | "NewPhotos" >> beam.Map(lambda part: part.photos)
        if self.deduplicate:
            new = (
                new
                | "PartitionSizes" >> beam.FlatMap(duplicates.by_size)
                | "GroupSizes" >> beam.GroupByKey()
                | "MarkDuplicates" >> beam.Map(self._marked)
            )
        counts = AsIter(new | "CountNew" >> beam.Map(Count.of))
        return (
            new
            | "PartitionShards" >> beam.FlatMap(self._by_shard, counts)
            | "GroupShards" >> beam.GroupByKey()
            | "WriteUnits" >> beam.FlatMap(self._units, counts).with_output_types(Unit)
            | "CollectUnits" >> beam.combiners.ToList()
            | "FreezePlan"
            >> beam.Map(
                self._freeze,
                AsIter(left | "CountParts" >> beam.Map(lambda part: (part.listed, part.outdated))),
                AsIter(listed | "CountIgnored" >> beam.Map(lambda part: part.ignored)),
            )
            | "Shards" >> beam.FlatMap(lambda plan: plan.shards).with_output_types(PlannedShard)
        )

    def _left(self, part: tuple[int, Mapping[str, Iterable[Any]]]) -> New:
        _, both = part
        return not_done(itertools.chain.from_iterable(both["photos"]), ledger.latest(both["entries"]), self.rule)

    def _marked(self, part: tuple[int, Iterable[tuple[PhotoRef, ...]]]) -> tuple[PhotoRef, ...]:
        return tuple(duplicates.marked(itertools.chain.from_iterable(part[1]), self.options))

    def _by_shard(self, photos: tuple[PhotoRef, ...], counts: Iterable[Count]) -> Iterator[tuple[tuple[str, int], Any]]:
        count = Count.sum(counts)
        return by_shard(photos, max(1, math.ceil(count.loose / self._size(count.photos))))

    def _units(
        self, group: tuple[tuple[str, int], Iterable[tuple[PhotoRef, ...]]], counts: Iterable[Count]
    ) -> Iterator[Unit]:
        (container, number), photos = group
        several = list(itertools.chain.from_iterable(photos))
        if not container:
            yield write_unit(self.folder, "", number, sorted(several, key=lambda ref: (bool(ref.same_as), ref.photo)))
            return
        for unit in cut(several, self._size(Count.sum(counts).photos)):
            yield write_unit(self.folder, container, unit[0].place, unit)

    def _size(self, count: int) -> int:
        return photos_a_shard(count, self.shard_size, self.workers)

    def _freeze(
        self, units: Sequence[Unit], counts: Iterable[tuple[int, int]], ignored: Iterable[Mapping[str, int]]
    ) -> Plan:
        return freeze(self, units, list(counts), ignored)


def path_of(folder: str) -> str:
    """Where a run's plan lies."""
    return stores.join(folder, "plan.json")


def read(folder: str) -> Plan | None:
    """A run's plan; None where it is not made yet."""
    path = path_of(folder)
    return Plan.from_json(stores.read(path)) if stores.exists(path) else None


def not_done(photos: Iterable[PhotoRef], entries: Mapping[bytes, ledger.Entry], rule: DoneRule) -> New:
    """The photos that are not done, each once however many inputs hold it."""
    listed = {ref.photo: ref for ref in photos}
    new, outdated = [], 0
    for ref in listed.values():
        entry = entries.get(ledger.photo_digest(ref.photo))
        if entry and entry.etag == ledger.etag_digest(ref.etag) and rule.is_done(entry):
            outdated += bool(entry.difference and not entry.failure)
        else:
            new.append(ref)
    return New(tuple(new), len(listed), outdated)


def photos_a_shard(photos: int, shard_size: int, workers: int) -> int:
    """How many of some photos make a shard: `shard_size`, or fewer where workers would idle."""
    return min(shard_size, max(SMALLEST_SHARD, math.ceil(photos / (SHARDS_PER_WORKER * workers))))


def shard_of(photo: str, shards: int) -> int:
    """The shard that a photo belongs to: the same in every process, unlike `hash`."""
    return int.from_bytes(hashlib.blake2b(photo.encode(), digest_size=8).digest(), "big") % shards


def by_shard(photos: Sequence[PhotoRef], shards: int) -> Iterator[tuple[tuple[str, int], tuple[PhotoRef, ...]]]:
    """Photos with the container that they lie in, or else with the shard that they belong to.

    A duplicate goes where the photo is whose bytes it has, which is one of `photos`.
    """
    originals = {ref.photo: ref for ref in photos}
    groups: dict[tuple[str, int], list[PhotoRef]] = collections.defaultdict(list)
    for ref in photos:
        read = originals[ref.same_as or ref.photo]
        groups[read.container, 0 if read.container else shard_of(read.photo, shards)].append(ref)
    for key, refs in groups.items():
        yield key, tuple(refs)


def cut(photos: Iterable[PhotoRef], size: int) -> Iterator[list[PhotoRef]]:
    """Cuts the photos of a container into ranges of about `size`, duplicates at the end of that with their originals.

    What can only be read together stays together, however much it is.
    """
    same: dict[str, list[PhotoRef]] = collections.defaultdict(list)
    originals: list[PhotoRef] = []
    for ref in photos:
        (same[ref.same_as] if ref.same_as else originals).append(ref)
    originals.sort(key=lambda ref: (ref.block, ref.place, ref.photo))
    unit: list[PhotoRef] = []
    for _, block in itertools.groupby(originals, key=lambda ref: ref.block):
        refs = list(block)
        if unit and len(unit) + len(refs) > size:
            yield unit + [twin for ref in unit for twin in same.get(ref.photo, ())]
            unit = []
        unit += refs
    yield unit + [twin for ref in unit for twin in same.get(ref.photo, ())]


def write_unit(folder: str, container: str, first: int, photos: Sequence[PhotoRef]) -> Unit:
    """Writes photos to a file named after its content.

    An attempt that listed something else thus writes another file, and `plan.json` says which one counts.
    """
    buffer = io.BytesIO()
    pq.write_table(photo_table(photos), buffer)
    data = buffer.getvalue()
    path = stores.join(folder, "plan", f"photos-{hashlib.blake2b(data, digest_size=16).hexdigest()}.parquet")
    stores.create(path, data)
    return Unit(container, first, len(photos), sum(bool(ref.same_as) for ref in photos), path)


def shards_of(units: Iterable[Unit], size: int) -> tuple[PlannedShard, ...]:
    """Makes shards: one of each unit of files of their own, and of as many units of containers as fit into `size`."""
    shards: list[list[Unit]] = []
    for unit in sorted(units):
        last = shards[-1] if shards else []
        fits = unit.container and last and last[0].container and sum(u.photos for u in last) + unit.photos <= size
        if fits:
            last.append(unit)
        else:
            shards.append([unit])
    return tuple(
        PlannedShard(index, sum(unit.photos for unit in together), tuple(unit.path for unit in together))
        for index, together in enumerate(shards)
    )


def read_shard(planned: PlannedShard) -> Shard:
    """The shard with its photos."""
    tables = (pq.read_table(io.BytesIO(stores.read(path))) for path in planned.paths)
    return Shard(planned.index, tuple(itertools.chain.from_iterable(map(photos_of, tables))))


def freeze(
    settings: PlanShards,
    units: Sequence[Unit],
    counts: Sequence[tuple[int, int]],
    ignored: Iterable[Mapping[str, int]],
) -> Plan:
    """Makes the plan, unless the run has one, and returns the one that the run has.

    Args:
      settings: of the run.
      units: what is to be captioned.
      counts: how many photos are listed, and how many outdated, of each part.
      ignored: how many other files there are of each kind, in several counts.
    """
    existing = read(settings.folder)
    if existing:
        return existing
    planned = sum(unit.photos for unit in units)
    listed = sum(part_listed for part_listed, _ in counts)
    kinds: collections.Counter[str] = collections.Counter()
    for of_kind in ignored:
        kinds.update(of_kind)
    plan = Plan(
        run=settings.run,
        listed=listed,
        skipped=listed - planned,
        planned=planned,
        duplicates=sum(unit.duplicates for unit in units),
        outdated=sum(part_outdated for _, part_outdated in counts),
        ignored=dict(kinds.most_common()),
        shards=shards_of(units, photos_a_shard(planned, settings.shard_size, settings.workers)),
    )
    stores.create(path_of(settings.folder), plan.to_json())
    # Another attempt may have been faster.
    return Plan.from_json(stores.read(path_of(settings.folder)))


def unless_planned(element: Any, folder: str) -> Iterator[Any]:
    """Passes on what a plan is made from, where it still has to be made."""
    if not stores.exists(path_of(folder)):
        yield element
