"""Finds photos with the same bytes before they are captioned, so that only one of them is captioned."""

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

# Photos are compared in this many parts; photos of equal size are in the same part.
PARTS = 256
# Photos with the same bytes of which one is captioned: as many as a shard has by default.
COPIES = 512
# Bytes at the start of large local photos that are compared first.
HEAD_BYTES = 65536
# After this many standalone files can't be read, no more are: retries may have taken a minute for each.
MAX_FAILURES = 16
# Files to read in parallel: reading from a remote store is mostly waiting.
_READERS = 8


def by_size(photos: Iterable[PhotoRef]) -> Iterator[tuple[int, tuple[PhotoRef, ...]]]:
    """Groups photos into parts by size. A photo of unknown size goes to any part, since it is never compared."""
    parts: dict[int, list[PhotoRef]] = collections.defaultdict(list)
    for ref in photos:
        key = ref.size or zlib.crc32(ref.photo.encode())
        parts[key % PARTS].append(ref)
    for part, refs in parts.items():
        yield part, tuple(refs)


def marked(photos: Iterable[PhotoRef], options: ListOptions) -> Iterator[PhotoRef]:
    """Marks the duplicates among the photos of a part.

    Only photos of equal size are read, unless the listing contains their digests. Photos with an MD5 in the listing are
    only compared with each other.

    Args:
      photos: photos of one part.
      options: how containers are read.

    Yields:
      Each photo; of photos with the same bytes, all but one have `same_as` set to that one. Of more than `COPIES` such
      photos one is left for each `COPIES`: no shard has to hold them all.
    """
    sizes: dict[tuple[int, bool], list[PhotoRef]] = collections.defaultdict(list)
    for ref in photos:
        if ref.size and ref.failure is None:
            sizes[ref.size, bool(ref.md5)].append(ref)
        else:
            yield ref
    alike = {size: _alike(refs) for size, refs in sizes.items()}
    first: dict[str, PhotoRef] = {}
    copies: collections.Counter[str] = collections.Counter()
    for ref in _with_digests(itertools.chain.from_iterable(alike.values()), options):
        digest = ref.sha256 or ref.md5
        if not digest or copies[digest] % COPIES == 0:
            first[digest] = ref
        copies[digest] += 1
        original = first[digest]
        yield ref if original is ref else ref._replace(same_as=original.photo)
    for size, refs in sizes.items():
        yield from (ref for ref in refs if ref not in alike[size])


def _alike(refs: Sequence[PhotoRef]) -> set[PhotoRef]:
    """Selects, from photos of equal size, those that may have the same bytes as another one of them."""
    if len(refs) == 1:
        return set()
    if not all(ref.size > HEAD_BYTES and not ref.container and stores.is_local(ref.photo) for ref in refs):
        return set(refs)
    # Large photos mostly differ in their first bytes, which contain the time of the shot.
    heads: dict[bytes, set[PhotoRef]] = collections.defaultdict(set)
    for ref in refs:
        # A photo that can't be read counts as different from all others; reading it for its caption reports why.
        with contextlib.suppress(OSError):
            heads[hashlib.sha256(stores.head(ref.photo, HEAD_BYTES)).digest()].add(ref)
    return {ref for same in heads.values() if len(same) > 1 for ref in same}


def _with_digests(photos: Iterable[PhotoRef], options: ListOptions) -> Iterator[PhotoRef]:
    """Adds digests to photos; a photo that can't be read gets none, and is read again for its caption."""
    ordered = sorted(photos, key=lambda ref: (ref.container, ref.block, ref.place, ref.photo))
    for container, refs in reading.by_container(ordered):
        unknown = [ref for ref in refs if not (ref.sha256 or ref.md5)]
        digests = map(_digest, reading.read_members(unknown, options)) if container else _of_files(unknown)
        for ref in refs:
            yield ref if ref.sha256 or ref.md5 else ref._replace(sha256=next(digests))


def _of_files(refs: Sequence[PhotoRef]) -> Iterator[str]:
    """Yields the digests of standalone files; gives up after `MAX_FAILURES` failures and yields empty digests."""
    failures = itertools.count(1)
    gone = threading.Event()

    def digest(ref: PhotoRef) -> str:
        found = "" if gone.is_set() else reading.digest_photo(ref)
        if not found and next(failures) == MAX_FAILURES:
            gone.set()
        return found

    with concurrent.futures.ThreadPoolExecutor(_READERS) as readers:
        yield from readers.map(digest, refs)


def _digest(content: reading.Content) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else ""
