"""Photos with the same bytes: found before they are captioned, so that only one of them is."""

import collections
import concurrent.futures
import hashlib
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence

from pipelines import reading
from pipelines.photos import PhotoRef
from pipelines.sources.base import ListOptions

# Photos of one size lie in one part.
PARTS = 256
# Files of a part that can't be read, after which no more are: each may have cost a minute of patience.
MOST_FAILURES = 16
# Files that are read at once: on a remote store that is mostly waiting.
_READERS = 8


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
        digests = map(_digest, reading.read_members(unknown, options)) if container else _of_files(unknown)
        for ref in refs:
            yield ref if ref.sha256 else ref._replace(sha256=next(digests))


def _of_files(refs: Sequence[PhotoRef]) -> Iterator[str]:
    """The digests of files of their own, several read at once; of none any more where the store seems to be gone."""
    failures = itertools.count(1)
    gone = threading.Event()

    def digest(ref: PhotoRef) -> str:
        found = "" if gone.is_set() else _digest(reading.read_photo(ref))
        if not found and next(failures) == MOST_FAILURES:
            gone.set()
        return found

    with concurrent.futures.ThreadPoolExecutor(_READERS) as readers:
        yield from readers.map(digest, refs)


def _digest(content: reading.Content) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else ""
