"""Plans a run: which photos to caption, in which shards. A run keeps its first plan (`output.frozen_plan`)."""

import collections
import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsIter
from apache_beam.typehints.decorators import no_annotations

from beamscribe.pipelines import duplicates, ledger
from beamscribe.pipelines.control import unattended
from beamscribe.pipelines.ledger import DoneRule, Why
from beamscribe.pipelines.listing import Listed
from beamscribe.pipelines.output import frozen_plan
from beamscribe.pipelines.output.frozen_plan import Unit, write_unit
from beamscribe.pipelines.output.run_documents import Plan, PlannedShard
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources.base import ListOptions

# With fewer shards per worker, some workers would idle at the end.
SHARDS_PER_WORKER = 8
# Smaller shards would only make the model's batches smaller.
SMALLEST_SHARD = 32
# Kinds of ignored files that are told apart: a folder may hold thousands, such as `.0`, `.1` and so on.
MOST_KINDS = 10


class New(NamedTuple):
    """The photos to caption in one part of the listing.

    Attributes:
      photos: photos to caption.
      listed: number of different photos in the part.
      outdated: number of skipped photos that were captioned by another model or with other settings.
    """

    photos: tuple[PhotoRef, ...]
    listed: int
    outdated: int


class Count(NamedTuple):
    """The number of photos to caption, and how many of them are standalone files."""

    photos: int
    standalone: int

    @classmethod
    def of(cls, photos: tuple[PhotoRef, ...]) -> "Count":
        """Counts photos."""
        return cls(len(photos), sum(not ref.container for ref in photos))

    @classmethod
    def sum(cls, counts: "Iterable[Count]") -> "Count":
        """Adds up counts."""
        several = list(counts)
        return cls(sum(count.photos for count in several), sum(count.standalone for count in several))


class Found(NamedTuple):
    """What a part of the listing holds: the input that it belongs to, its photos, and its ignored files by kind."""

    input: str
    photos: int
    ignored: dict[str, int]

    @classmethod
    def of(cls, part: Listed) -> "Found":
        """Counts a part."""
        return cls(part.input, len(part.photos), part.ignored)

    @classmethod
    def sum(cls, parts: "Iterable[Found]") -> tuple[dict[str, int], dict[str, int]]:
        """Adds up parts: ignored files by kind, most frequent first, as `most_frequent` says, and photos by input."""
        ignored: collections.Counter[str] = collections.Counter()
        inputs: dict[str, int] = collections.defaultdict(int)
        for part in parts:
            ignored.update(part.ignored)
            inputs[part.input] += part.photos
        return most_frequent(ignored), dict(sorted(inputs.items()))


def most_frequent(kinds: Mapping[str, int]) -> dict[str, int]:
    """The most frequent kinds of files with their numbers, and the number of files of all other kinds together.

    Args:
      kinds: number of files by kind.
    """
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    shown, others = ordered[:MOST_KINDS], ordered[MOST_KINDS:]
    if len(others) < 2:
        return dict(ordered)
    return dict(shown) | {f"of {len(others):,} other kinds": sum(count for _, count in others)}


@dataclasses.dataclass
class PlanShards(beam.PTransform):
    """Compares the listing with the ledger and makes the frozen plan.

    They are compared part by part, so neither has to fit in memory if the engine's grouping spills to disk.

    Attributes:
      folder: folder of the run.
      run: id of the run.
      rule: decides which photos are done.
      shard_size: approximate number of photos per shard.
      workers: number of workers to keep busy.
      deduplicate: whether photos with the same bytes are captioned once.
      options: how the inputs are listed and read.
      run_number: number of the run; 0 for a run that takes its number when the plan is frozen.
      output: the folder whose lease such a run takes then; empty for none.
    """

    folder: str
    run: str
    rule: DoneRule
    shard_size: int
    workers: int
    deduplicate: bool = True
    options: ListOptions = ListOptions()
    run_number: int = 0
    output: str = ""

    # Beam only knows type hints for a single input collection, and warns about a tuple of them.
    @no_annotations
    def expand(
        self, inputs: tuple[beam.PCollection[Listed], beam.PCollection[tuple[int, np.ndarray]]]
    ) -> beam.PCollection[PlannedShard]:
        """Plans the shards.

        Args:
          inputs: the parts of the listing, and the (part, entries) pairs of the ledger.

        Returns:
          The shards of the frozen plan.
        """
        listed, entries = inputs
        photos = listed | "PartitionPhotos" >> beam.FlatMap(lambda part: ledger.by_part(part.photos))
        left = (
            {"photos": photos, "entries": entries}
            | "GroupParts" >> beam.CoGroupByKey()
            | "SkipDone" >> beam.Map(self._not_done).with_output_types(New)
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
                AsIter(listed | "CountFound" >> beam.Map(Found.of)),
            )
            | "Shards" >> beam.FlatMap(lambda plan: plan.shards).with_output_types(PlannedShard)
        )

    def _not_done(self, part: tuple[int, Mapping[str, Iterable[Any]]]) -> New:
        _, both = part
        return not_done(itertools.chain.from_iterable(both["photos"]), ledger.latest(both["entries"]), self.rule)

    def _marked(self, part: tuple[int, Iterable[tuple[PhotoRef, ...]]]) -> tuple[PhotoRef, ...]:
        return tuple(duplicates.marked(itertools.chain.from_iterable(part[1]), self.options))

    def _by_shard(self, photos: tuple[PhotoRef, ...], counts: Iterable[Count]) -> Iterator[tuple[tuple[str, int], Any]]:
        count = Count.sum(counts)
        return by_shard(photos, max(1, math.ceil(count.standalone / self._size(count.photos))))

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
        return photos_per_shard(count, self.shard_size, self.workers)

    def _freeze(self, units: Sequence[Unit], counts: Iterable[tuple[int, int]], found: Iterable[Found]) -> Plan:
        return freeze(self, units, list(counts), found)


def not_done(photos: Iterable[PhotoRef], entries: Mapping[bytes, ledger.Entry], rule: DoneRule) -> New:
    """Selects the photos that are not done; a photo that several inputs contain counts once.

    Args:
      photos: listed photos.
      entries: ledger entries by the digest of the photo.
      rule: decides which photos are done.
    """
    listed = {ref.photo: ref for ref in photos}
    new, outdated = [], 0
    for ref in listed.values():
        etag, entry = ledger.etag_digest(ref.etag), entries.get(ledger.photo_digest(ref.photo))
        why = rule.why(etag, entry)
        outdated += why == Why.DONE_OTHERWISE
        if not why.skips:
            new.append(ref._replace(attempts=entry.failed_attempts(etag)) if entry else ref)
    return New(tuple(new), len(listed), outdated)


def photos_per_shard(photos: int, shard_size: int, workers: int) -> int:
    """The number of photos per shard: `shard_size`, or fewer if workers would idle otherwise.

    Args:
      photos: number of photos to caption.
      shard_size: number of photos per shard that was asked for.
      workers: number of workers.
    """
    return min(shard_size, max(SMALLEST_SHARD, math.ceil(photos / (SHARDS_PER_WORKER * workers))))


def shard_of(photo: str, shards: int) -> int:
    """The shard of a standalone photo, from 0; every process computes the same one, unlike with `hash`."""
    return int.from_bytes(hashlib.blake2b(photo.encode(), digest_size=8).digest(), "big") % shards


def by_shard(photos: Sequence[PhotoRef], shards: int) -> Iterator[tuple[tuple[str, int], tuple[PhotoRef, ...]]]:
    """Groups photos by container, or standalone photos by shard.

    A duplicate joins the group of its original, which must be one of `photos`.

    Args:
      photos: photos to group.
      shards: number of shards for standalone photos.

    Yields:
      ((container, shard), photos) pairs; container is empty for standalone photos, shard is 0 for containers.
    """
    originals = {ref.photo: ref for ref in photos}
    groups: dict[tuple[str, int], list[PhotoRef]] = collections.defaultdict(list)
    for ref in photos:
        read = originals[ref.same_as or ref.photo]
        groups[read.container, 0 if read.container else shard_of(read.photo, shards)].append(ref)
    for key, refs in groups.items():
        yield key, tuple(refs)


def cut(photos: Iterable[PhotoRef], size: int) -> Iterator[list[PhotoRef]]:
    """Cuts the photos of a container into ranges of approximately `size` photos.

    The photos of a block stay together, even if they are more than `size`. Duplicates come at the end of the range that
    contains their originals.
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


def shards_of(units: Iterable[Unit], size: int) -> tuple[PlannedShard, ...]:
    """Makes shards from units.

    Each unit of standalone files becomes a shard. Units of containers are put together, up to `size` photos per shard.

    Args:
      units: all units of the run, in any order.
      size: number of photos per shard; a shard with a single unit may have more.
    """
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


def freeze(
    settings: PlanShards,
    units: Sequence[Unit],
    counts: Sequence[tuple[int, int]],
    found: Iterable[Found],
) -> Plan:
    """Makes and writes the plan, unless the run already has one, and returns the plan that the run has.

    Args:
      settings: describe the run.
      units: photos to caption.
      counts: number of listed and of outdated photos in each part.
      found: what each part of the listing holds.

    Raises:
      OSError: the store reported an error.
      DocumentError: the run's plan is damaged, or a newer version wrote it.
      OutputInUse: another job holds the lease that the run needs.
    """
    existing = frozen_plan.read(settings.folder)
    if existing:
        return existing
    number = settings.run_number
    if not number and settings.output:
        number = unattended.take(settings.output, settings.run)
    planned = sum(unit.photos for unit in units)
    listed = sum(part_listed for part_listed, _ in counts)
    ignored, inputs = Found.sum(found)
    plan = Plan(
        run=settings.run,
        listed=listed,
        skipped=listed - planned,
        planned=planned,
        duplicates=sum(unit.duplicates for unit in units),
        outdated=sum(part_outdated for _, part_outdated in counts),
        ignored=ignored,
        inputs=inputs,
        shards=shards_of(units, photos_per_shard(planned, settings.shard_size, settings.workers)),
        run_number=number,
    )
    return frozen_plan.write(settings.folder, plan)
