"""Plans a run: which photos to caption, in which shards. A run keeps its first plan (`output.frozen_plan`)."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsIter, AsSingleton
from apache_beam.typehints.decorators import no_annotations

from beamscribe.pipelines import clues, duplicates, gone, ledger, passing, sharding
from beamscribe.pipelines.clues import Group, Wanted
from beamscribe.pipelines.control import unattended
from beamscribe.pipelines.known import Known
from beamscribe.pipelines.ledger import DoneRule, Why
from beamscribe.pipelines.listing import Listed
from beamscribe.pipelines.output import current, frozen_plan
from beamscribe.pipelines.output.frozen_plan import GoneUnit, Unit, write_table, write_unit
from beamscribe.pipelines.output.run_documents import Plan, PlannedShard
from beamscribe.pipelines.passing import Partition
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import scope
from beamscribe.pipelines.sources.base import ListOptions
from beamscribe.pipelines.sources.scope import Scope

# Kinds of ignored files that are told apart: a folder may hold thousands, such as `.0`, `.1` and so on.
MOST_KINDS = 10


class Counts(NamedTuple):
    """Numbers of photos in one part of the listing, or in several.

    Attributes:
      listed: different photos in the listing.
      outdated: skipped photos that were captioned by another model or with other settings.
      edited: listed photos that a person has captioned.
      below: photos below the inputs that have rows, and were there in the last run.
    """

    listed: int = 0
    outdated: int = 0
    edited: int = 0
    below: int = 0

    @classmethod
    def sum(cls, counts: "Iterable[Counts]") -> "Counts":
        """Adds up counts."""
        return cls(*map(sum, zip(cls(), *counts, strict=True)))


class Left(NamedTuple):
    """The photos to caption in one part of the listing.

    Attributes:
      photos: photos to caption.
      counts: numbers of photos in the part.
      vanished: `[photos]`, strings of 16 bytes, digests of photos below the inputs that are not listed any more.
    """

    photos: tuple[PhotoRef, ...]
    counts: Counts
    vanished: np.ndarray


class Count(NamedTuple):
    """The number of photos to caption, and how many of them are standalone files."""

    photos: int
    standalone: int

    @classmethod
    def sum(cls, counts: "Iterable[Count]") -> "Count":
        """Adds up counts."""
        several = list(counts)
        return cls(sum(count.photos for count in several), sum(count.standalone for count in several))


class New(NamedTuple):
    """Photos to caption, packed, and their numbers."""

    packed: bytes
    numbers: Count

    @classmethod
    def of(cls, photos: Sequence[PhotoRef]) -> "New":
        """Packs photos."""
        return cls(passing.packed(photos), Count(len(photos), sum(not ref.container for ref in photos)))


class Found(NamedTuple):
    """What a part of the listing holds.

    Attributes:
      input: the input that the part belongs to.
      photos: number of its photos.
      ignored: number of its ignored files by kind.
      unseen: folders and archives that could not be listed.
    """

    input: str
    photos: int
    ignored: dict[str, int]
    unseen: tuple[str, ...] = ()

    @classmethod
    def of(cls, part: Listed) -> "Found":
        """Counts a part."""
        return cls(part.input, len(part.photos), part.ignored, scope.unseen(part.photos))

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


def covered(parts: Iterable[Found], options: ListOptions) -> Scope:
    """What has been listed whole.

    Args:
      parts: all parts of the listing.
      options: how the inputs were listed.
    """
    several = list(parts)
    _, inputs = Found.sum(several)
    # An input without photos may be a disk that is not mounted.
    names = [uri for uri, photos in inputs.items() if photos]
    return Scope(names, itertools.chain.from_iterable(part.unseen for part in several), options)


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
      marks_gone: whether to mark photos that are no longer there.
      accept_gone: whether to mark them even if they are many.
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
    marks_gone: bool = True
    accept_gone: bool = False

    # Beam only knows type hints for a single input collection, and warns about a tuple of them.
    @no_annotations
    def expand(
        self,
        inputs: tuple[
            beam.PCollection[Listed], beam.PCollection[tuple[int, np.ndarray]], beam.PCollection[Sequence[str]]
        ],
    ) -> beam.PCollection[PlannedShard]:
        """Plans the shards.

        Args:
          inputs: the parts of the listing, the (part, entries) pairs of the ledger, and its files, in groups.

        Returns:
          The shards of the frozen plan.
        """
        listed, entries, files = inputs
        photos = (
            listed
            | "ListedPhotos" >> beam.Map(lambda part: part.photos)
            | "PartitionPhotos" >> beam.ParDo(Partition(ledger.by_part))
        )
        left = (
            {"photos": photos, "entries": entries}
            | "GroupParts" >> beam.CoGroupByKey()
            | "SkipDone" >> beam.Map(self._not_done).with_output_types(Left)
        )
        photos_left = left | "PhotosLeft" >> beam.Map(lambda part: part.photos)
        if self.deduplicate:
            new = (
                photos_left
                | "PartitionSizes" >> beam.ParDo(Partition(duplicates.by_size))
                | "GroupSizes" >> beam.GroupByKey()
                | "MarkDuplicates" >> beam.Map(self._marked)
            )
        else:
            new = photos_left | "NewPhotos" >> beam.Map(New.of)
        counts = AsIter(new | "CountNew" >> beam.Map(lambda some: some.numbers))
        grouped = (
            new
            | "PackedPhotos" >> beam.Map(lambda some: some.packed)
            | "PartitionShards" >> beam.ParDo(Partition(self._by_group), counts)
        )
        wanted = AsSingleton(
            grouped
            | "Clues" >> beam.FlatMap(wanted_of, AsIter(files))
            | "CollectClues" >> beam.combiners.ToList()
            | "Wanted" >> beam.Map(Wanted.of, AsIter(left | "Vanished" >> beam.Map(lambda part: part.vanished)))
        )
        earlier = files | "ReadKnown" >> beam.FlatMap(clues.rows_for, wanted, self.rule).with_outputs(
            clues.VANISHED, main="alike"
        )
        found = AsIter(listed | "CountFound" >> beam.Map(Found.of))
        units = (
            {"photos": grouped, "earlier": earlier["alike"]}
            | "GroupShards" >> beam.CoGroupByKey()
            | "WriteUnits" >> beam.FlatMap(self._units, counts)
        )
        vanished = (
            earlier[clues.VANISHED]
            | "GroupVanished" >> beam.GroupByKey()
            | "WriteGone" >> beam.FlatMap(self._gone, wanted, found)
        )
        return (
            (units, vanished)
            | "FlattenUnits" >> beam.Flatten()
            | "CollectUnits" >> beam.combiners.ToList()
            | "FreezePlan"
            >> beam.Map(self._freeze, AsIter(left | "CountParts" >> beam.Map(lambda part: part.counts)), found)
            | "Shards" >> beam.FlatMap(lambda plan: plan.shards).with_output_types(PlannedShard)
        )

    def _not_done(self, part: tuple[int, Mapping[str, Iterable[Any]]]) -> Left:
        _, both = part
        photos, entries = passing.unpacked(both["photos"]), ledger.latest(both["entries"])
        return not_done(photos, entries, self.rule, self.marks_gone)

    def _marked(self, part: tuple[int, Iterable[bytes]]) -> New:
        return New.of(list(duplicates.marked(passing.unpacked(part[1]), self.options)))

    def _by_group(self, photos: Sequence[PhotoRef], counts: Iterable[Count]) -> Iterator[tuple[Group, Any]]:
        return sharding.by_group(photos, self._shards(Count.sum(counts)))

    def _shards(self, count: Count) -> int:
        """The number of shards for standalone photos."""
        return max(1, math.ceil(count.standalone / self._size(count.photos)))

    def _units(self, group: tuple[Group, Mapping[str, Iterable[Any]]], counts: Iterable[Count]) -> Iterator[Unit]:
        (container, _), both = group
        earlier, count = clues.unpacked(both["earlier"]), Count.sum(counts)
        photos = passing.unpacked(both["photos"])
        units = (
            ((unit[0].place, unit) for unit in sharding.cut(photos, self._size(count.photos)))
            if container
            else sharding.by_shard(photos, self._shards(count))
        )
        known = Known(earlier) if len(earlier) else None
        for first, unit in units:
            yield write_unit(self.folder, container, first, unit, known.selected(unit) if known else None)

    def _gone(self, group: tuple[int, Iterable[bytes]], wanted: Wanted, found: Iterable[Found]) -> Iterator[GoneUnit]:
        number, several = group
        rows, moved = gone.tombstones(clues.unpacked(several), covered(found, self.options), wanted)
        if len(rows):
            yield GoneUnit(number, len(rows), moved, write_table(self.folder, "gone", rows))

    def _size(self, count: int) -> int:
        return sharding.photos_per_shard(count, self.shard_size, self.workers)

    def _freeze(self, units: Sequence[Unit | GoneUnit], counts: Iterable[Counts], found: Iterable[Found]) -> Plan:
        return freeze(self, units, Counts.sum(counts), found)


def wanted_of(group: tuple[Group, bytes], files: Iterable[Sequence[str]]) -> Iterator[tuple[Group, np.ndarray]]:
    """The clues of a group of planned photos, which are packed; nothing if there are no earlier rows."""
    if any(files):
        yield group[0], clues.wanted_by(list(passing.unpacked([group[1]])))


def not_done(
    photos: Iterable[PhotoRef], entries: Mapping[bytes, ledger.Entry], rule: DoneRule, marks_gone: bool = True
) -> Left:
    """Selects the photos that are not done; a photo that several inputs contain counts once.

    Args:
      photos: listed photos.
      entries: ledger entries by the digest of the photo.
      rule: decides which photos are done.
      marks_gone: whether to find photos that are not listed any more.
    """
    listed = {ref.photo: ref for ref in photos}
    new, digests, outdated, edited = [], set(), 0, 0
    for ref in listed.values():
        digest, etag = ledger.photo_digest(ref.photo), current.etag_digest(ref.etag)
        digests.add(digest)
        entry = entries.get(digest)
        why = rule.why(etag, entry)
        outdated += why == Why.DONE_OTHERWISE
        edited += entry is not None and entry.is_edited
        if not why.skips:
            attempts = entry.failed_attempts(etag) if entry else 0
            new.append(ref._replace(attempts=attempts, again=why.repeats))
    below = {digest for digest, entry in entries.items() if entry.is_there}
    vanished = below - digests if marks_gone else set()
    counts = Counts(len(listed), outdated, edited, len(below))
    return Left(tuple(new), counts, np.array(sorted(vanished), "S16"))


def freeze(settings: PlanShards, units: Sequence[Unit | GoneUnit], counts: Counts, found: Iterable[Found]) -> Plan:
    """Makes and writes the plan, unless the run already has one, and returns the plan that the run has.

    Args:
      settings: describe the run.
      units: photos to caption, and photos that are gone.
      counts: numbers of photos in all parts.
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
    to_caption = [unit for unit in units if isinstance(unit, Unit)]
    vanished = [unit for unit in units if isinstance(unit, GoneUnit)]
    planned = sum(unit.photos for unit in to_caption)
    shards = sharding.shards_of(to_caption, sharding.photos_per_shard(planned, settings.shard_size, settings.workers))
    photos_gone = sum(unit.photos for unit in vanished)
    is_marked = settings.accept_gone or not gone.are_many(
        photos_gone - sum(unit.moved for unit in vanished), counts.below
    )
    ignored, inputs = Found.sum(found)
    plan = Plan(
        run=settings.run,
        listed=counts.listed,
        skipped=counts.listed - planned,
        planned=planned,
        duplicates=sum(unit.duplicates for unit in to_caption),
        outdated=counts.outdated,
        ignored=ignored,
        inputs=inputs,
        shards=shards + (sharding.shards_of_gone(vanished, len(shards)) if is_marked else ()),
        run_number=number,
        gone=photos_gone if is_marked else 0,
        vanished=0 if is_marked else photos_gone,
        edited=counts.edited,
    )
    return frozen_plan.write(settings.folder, plan)
