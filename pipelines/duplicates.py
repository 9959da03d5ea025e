"""Photos with the same bytes: found before they are captioned, so that only one of them is."""

import collections
import concurrent.futures
import contextlib
import hashlib
import itertools
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence

from beamscribe.pipelines import stores
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import reading
from beamscribe.pipelines.sources.base import ListOptions

# Photos of one size lie in one part.
PARTS = 256
# What is read of a photo at first.
HEAD_BYTES = 65536
# Files of a part that can't be read, after which no more are: each may have cost a minute of patience.
MOST_FAILURES = 16
# Files that are read at once: on a remote store that is mostly waiting.
_READERS = 8


def by_size(photos: Iterable[PhotoRef]) -> Iterator[tuple[int, tuple[PhotoRef, ...]]]:
    """Photos to be compared with those of their part; those of unknown size have no equals, and lie in any."""
    parts: dict[int, list[PhotoRef]] = collections.defaultdict(list)
    for ref in photos:
        key = ref.size or zlib.crc32(ref.photo.encode())
        parts[key % PARTS].append(ref)
    for part, refs in parts.items():
        yield part, tuple(refs)


def marked(photos: Iterable[PhotoRef], options: ListOptions) -> Iterator[PhotoRef]:
    """The photos of a part, each that has the bytes of another one marked `same_as` that one.

    Only photos of equal size are read, unless listing knew their digests. Those whose MD5 it knew are compared with
    each other only.
    """
    sizes: dict[tuple[int, bool], list[PhotoRef]] = collections.defaultdict(list)
    for ref in photos:
        if ref.size and ref.failure is None:
            sizes[ref.size, bool(ref.md5)].append(ref)
        else:
            yield ref
    alike = {size: _alike(refs) for size, refs in sizes.items()}
    first: dict[str, PhotoRef] = {}
    for ref in _with_digests(itertools.chain.from_iterable(alike.values()), options):
        digest = ref.sha256 or ref.md5
        original = first.setdefault(digest, ref) if digest else ref
        yield ref if original is ref else ref._replace(same_as=original.photo)
    for size, refs in sizes.items():
        yield from (ref for ref in refs if ref not in alike[size])


def _alike(refs: Sequence[PhotoRef]) -> set[PhotoRef]:
    """Those photos of one size that may have the bytes of others of them."""
    if len(refs) == 1:
        return set()
    if not all(ref.size > HEAD_BYTES and not ref.container and stores.is_local(ref.photo) for ref in refs):
        return set(refs)
    # Large photos mostly differ in their first bytes already, which hold the time when they were taken.
    heads: dict[bytes, set[PhotoRef]] = collections.defaultdict(set)
    for ref in refs:
        # One that can't be read is like no other: reading it in its turn says why.
        with contextlib.suppress(OSError):
            heads[hashlib.sha256(stores.head(ref.photo, HEAD_BYTES)).digest()].add(ref)
    return {ref for same in heads.values() if len(same) > 1 for ref in same}


def _with_digests(photos: Iterable[PhotoRef], options: ListOptions) -> Iterator[PhotoRef]:
    """The photos with their digests; one that can't be read stays without, and is read again in its turn."""
    ordered = sorted(photos, key=lambda ref: (ref.container, ref.block, ref.place, ref.photo))
    for container, refs in reading.by_container(ordered):
        unknown = [ref for ref in refs if not (ref.sha256 or ref.md5)]
        digests = map(_digest, reading.read_members(unknown, options)) if container else _of_files(unknown)
        for ref in refs:
            yield ref if ref.sha256 or ref.md5 else ref._replace(sha256=next(digests))


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
