"""Passes many photos from one step to the next, in few and small elements.

A runner keeps what is passed in memory, mostly several times, and each element costs it time.
"""

import collections
import pickle
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows

from beamscribe.pipelines.photos import PhotoRef

# Photos that are in memory until their elements are made.
MOST = 50_000


def packed(refs: Iterable[PhotoRef]) -> bytes:
    """References to photos as compressed bytes; paths have much in common."""
    return zlib.compress(pickle.dumps(list(refs), pickle.HIGHEST_PROTOCOL), 1)


def unpacked(several: Iterable[bytes]) -> Iterator[PhotoRef]:
    """The references that `packed` has packed."""
    for data in several:
        yield from pickle.loads(zlib.decompress(data))


class Partition(beam.DoFn):
    """Groups the photos of a bundle of elements by a key, and yields (key, packed photos) pairs.

    Args:
      split: splits photos, given side inputs, into (key, photos) pairs.
    """

    def __init__(self, split: Callable[..., Iterable[tuple[Any, Sequence[PhotoRef]]]]):
        self._split = split
        self._parts: dict[Any, list[PhotoRef]] = collections.defaultdict(list)
        self._photos = 0

    def start_bundle(self) -> None:
        """Begins with no photos."""
        self._parts, self._photos = collections.defaultdict(list), 0

    def process(self, photos: Sequence[PhotoRef] | bytes, *side_inputs: Any) -> Iterator[tuple[Any, bytes]]:
        """Takes photos, or packed photos; yields all that it has when they are many."""
        refs = list(unpacked([photos])) if isinstance(photos, bytes) else photos
        for key, some in self._split(refs, *side_inputs):
            self._parts[key] += some
        self._photos += len(refs)
        if self._photos >= MOST:
            yield from self._elements()

    def finish_bundle(self) -> Iterator[Any]:
        """Yields the photos that are left."""
        yield from map(GlobalWindows.windowed_value, self._elements())

    def _elements(self) -> Iterator[tuple[Any, bytes]]:
        parts, self._parts, self._photos = self._parts, collections.defaultdict(list), 0
        for key, refs in parts.items():
            yield key, packed(refs)
