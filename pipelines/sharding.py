"""Cuts planned photos into shards."""

import collections
import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

from beamscribe.pipelines.clues import Group
from beamscribe.pipelines.output.frozen_plan import GoneUnit, Unit
from beamscribe.pipelines.output.run_documents import PlannedShard
from beamscribe.pipelines.photos import PhotoRef

# With fewer shards per worker, some workers would idle at the end.
SHARDS_PER_WORKER = 8
# Smaller shards would only make the model's batches smaller.
SMALLEST_SHARD = 32
# Groups of standalone photos, of one or several shards each: each element that passes from step to step costs time.
MOST_GROUPS = 256


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


def by_group(photos: Sequence[PhotoRef], shards: int) -> Iterator[tuple[Group, tuple[PhotoRef, ...]]]:
    """Groups photos by container, and standalone photos by their shards, several of which may be one group.

    A duplicate joins the group of its original, which must be one of `photos`.

    Args:
      photos: photos to group.
      shards: number of shards for standalone photos.

    Yields:
      ((container, group), photos) pairs; container is empty for standalone photos, group is 0 for containers.
    """
    originals = {ref.photo: ref for ref in photos}
    groups: dict[Group, list[PhotoRef]] = collections.defaultdict(list)
    for ref in photos:
        read = originals[ref.same_as or ref.photo]
        number = 0 if read.container else shard_of(read.photo, shards) % MOST_GROUPS
        groups[read.container, number].append(ref)
    for key, refs in groups.items():
        yield key, tuple(refs)


def by_shard(photos: Iterable[PhotoRef], shards: int) -> Iterator[tuple[int, list[PhotoRef]]]:
    """Groups standalone photos by shard, each shard's photos in the order in which they are read, duplicates last.

    Args:
      photos: photos, each duplicate with its original.
      shards: number of shards of all standalone photos.
    """
    groups: dict[int, list[PhotoRef]] = collections.defaultdict(list)
    for ref in photos:
        groups[shard_of(ref.same_as or ref.photo, shards)].append(ref)
    for number, refs in sorted(groups.items()):
        yield number, sorted(refs, key=lambda ref: (bool(ref.same_as), ref.photo))


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
        PlannedShard(
            index,
            sum(unit.photos for unit in together),
            tuple(unit.path for unit in together),
            tuple(dict.fromkeys(unit.known for unit in together if unit.known)),
        )
        for index, together in enumerate(shards)
    )


def shards_of_gone(units: Iterable[GoneUnit], first: int) -> tuple[PlannedShard, ...]:
    """Makes a shard of each unit of photos that are gone; `first` is the number of the first of them."""
    return tuple(
        PlannedShard(index, unit.photos, (unit.path,), is_gone=True)
        for index, unit in enumerate(sorted(units), start=first)
    )
