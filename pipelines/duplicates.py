"""Photos with the same bytes: found before they are captioned, so that only one of them is."""

import collections
import hashlib
from collections.abc import Iterable, Iterator

from pipelines import reading
from pipelines.photos import PhotoRef
from pipelines.sources.base import ListOptions

# Photos of one size lie in one part.
PARTS = 256


def by_size(photos: Iterable[PhotoRef]) -> Iterator[tuple[int, tuple[PhotoRef, ...]]]:
    """Photos to be compared with those of their part; those whose size is not known have no equals."""
    parts: dict[int, list[PhotoRef]] = collections.defaultdict(list)
    for ref in photos:
        parts[ref.size % PARTS].append(ref)
    for part, refs in parts.items():
        yield part, tuple(refs)


def marked(photos: Iterable[PhotoRef], options: ListOptions) -> Iterator[PhotoRef]:
    """The photos of a part, each that has the bytes of another one marked `same_as` that one.

    Only photos of equal size are read, unless listing knew their digests.
    """
    sizes: dict[int, list[PhotoRef]] = collections.defaultdict(list)
    for ref in sorted(photos, key=lambda ref: (ref.container, ref.block, ref.place, ref.photo)):
        if ref.size and ref.failure is None:
            sizes[ref.size].append(ref)
        else:
            yield ref
    alike = [ref for refs in sizes.values() if len(refs) > 1 for ref in refs]
    first: dict[str, PhotoRef] = {}
    for ref in _with_digests(alike, options):
        original = first.setdefault(ref.sha256, ref) if ref.sha256 else ref
        yield ref if original is ref else ref._replace(same_as=original.photo)
    yield from (refs[0] for refs in sizes.values() if len(refs) == 1)


def _with_digests(photos: Iterable[PhotoRef], options: ListOptions) -> Iterator[PhotoRef]:
    """The photos with their digests; one that can't be read stays without, and is read again in its turn."""
    ordered = sorted(photos, key=lambda ref: (ref.container, ref.block, ref.place, ref.photo))
    for container, refs in reading.by_container(ordered):
        unknown = [ref for ref in refs if not ref.sha256]
        contents = reading.read_members(unknown, options) if container else map(reading.read_photo, unknown)
        for ref in refs:
            content = None if ref.sha256 else next(contents)
            yield ref._replace(sha256=hashlib.sha256(content).hexdigest()) if isinstance(content, bytes) else ref
