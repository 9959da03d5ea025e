"""Photos that are files of their own: of a folder, of a glob, or one by its name."""

import collections
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from beamscribe.pipelines import stores
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources.base import (
    HEAD_BYTES,
    Ignored,
    ListOptions,
    Source,
    extension_of,
    is_named_like_a_photo,
    is_photo,
)
from beamscribe.pipelines.stores.gcs import FileInfo, NoCredentialsError

# Files of a remote store that are read at once, and the most that are listed past the first whose bytes must be read.
_READERS = 16
_MOST_AHEAD = 256


def list_folder(
    uri: str, options: ListOptions, start: str = "", end: str = ""
) -> Iterator[PhotoRef | Ignored | Source]:
    """All below a folder; in a bucket from the URI `start` on and before `end`, where they are given."""
    if stores.is_local(uri):
        yield from _walk(stores.local_path(uri), options)
    else:
        yield from _remote(stores.below(uri, start, end), uri, options)


def list_glob(
    pattern: str, options: ListOptions, kind_of: Callable[[str], str | None], start: str = "", end: str = ""
) -> Iterator[PhotoRef | Ignored | Source]:
    """The photos that match a glob, and the containers, unlisted, which no includes keep out.

    Args:
      pattern: the glob; what comes before its first wildcard is no part of these paths.
      options: what to list.
      kind_of: tells a container's kind; None for other files.
      start, end: as in `list_folder`.
    """
    base = stores.without_wildcards(pattern)
    if stores.is_local(pattern):
        refused: list[str] = []
        for path in sorted(stores.matching(pattern, refused.append)):
            below = os.path.relpath(path, stores.local_path(base))
            if (kind := kind_of(path)) and not options.ignored(below):
                yield Source(stores.local_uri(path), kind)
            else:
                yield from _one(path, below, options)
        for folder in sorted(refused):
            yield options.ignored(os.path.relpath(folder, stores.local_path(base))) or _unopened(folder)
        return
    yield from _remote(stores.remote_matching(pattern, start, end), base, options, kind_of)


def list_photo(uri: str) -> PhotoRef:
    """One photo, whatever it is called; its etag is empty where it can't be looked at, and reading says why."""
    if stores.is_local(uri):
        return _local_ref(stores.local_path(uri))
    found = stores.metadata(uri)
    return _remote_ref(found) if found else PhotoRef(uri, etag="")


def _walk(top: str, options: ListOptions) -> Iterator[PhotoRef | Ignored]:
    """All below a folder, in order, links to folders followed, each real folder once.

    Links come last: where a folder has a path of its own below the top, its photos are listed by that one, whatever
    links to it there are, or will be when it is listed again.
    """
    seen: set[tuple[int, int]] = set()
    # What is still to be looked at, the next one last: (path, path below the top, whether it is a folder).
    left = [(top, "", True)]
    links: collections.deque[tuple[str, str, bool]] = collections.deque()
    while left or links:
        path, below, is_folder = left.pop() if left else links.popleft()
        if not is_folder:
            yield from _one(path, below, options)
        elif below and (ignored := options.ignored(below)):
            yield ignored
        else:
            try:
                status = os.stat(path)
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                with os.scandir(path) as entries:
                    found = sorted((entry.name, _is_folder(entry), entry.is_symlink()) for entry in entries)
            except OSError:
                yield _unopened(path)
                continue
            inside = [
                ((os.path.join(path, name), f"{below}/{name}".lstrip("/"), folder), folder and is_link)
                for name, folder, is_link in found
            ]
            left += [entry for entry, is_link in reversed(inside) if not is_link]
            links += [entry for entry, is_link in inside if is_link]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself, say: one entry that can't be looked at must not hide the others of its folder.
        return False


def _one(path: str, relative: str, options: ListOptions) -> Iterator[PhotoRef | Ignored]:
    if ignored := options.passed_over(relative):
        yield ignored
    elif _may_be_photo(path):
        yield _local_ref(path)
    else:
        yield Ignored(extension_of(path))


def _may_be_photo(uri: str) -> bool:
    """Whether to list a file as a photo: also where the bytes that were to tell can't be read, for a row to say so."""
    try:
        return is_photo(uri, functools.partial(stores.head, uri, HEAD_BYTES))
    except (FileNotFoundError, stores.NotAFileError):
        return False
    except NoCredentialsError:
        raise
    except OSError:
        return True


def _unopened(folder: str) -> PhotoRef:
    """A folder that can't be opened may hold photos: it becomes a row, so that somebody learns of it."""
    return PhotoRef(stores.local_uri(folder), etag="")


def _local_ref(path: str) -> PhotoRef:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        try:
            # A link to nothing is listed, too; its own time tells when it was changed.
            status = os.lstat(path)
        except (OSError, ValueError):
            # Gone since its folder was read, or no name that can be: reading it will say so.
            return PhotoRef(stores.local_uri(path), etag="")
    return PhotoRef(stores.local_uri(path), stores.etag_of(status), status.st_size)


def _remote(
    found: Iterable[FileInfo],
    base: str,
    options: ListOptions,
    kind_of: Callable[[str], str | None] = lambda uri: None,
) -> Iterator[PhotoRef | Ignored | Source]:
    """What the files of a remote store are, in their order; those that must be read to be told, many at once."""
    waiting: collections.deque[PhotoRef | Ignored | Source | Future[PhotoRef | Ignored]] = collections.deque()
    with ThreadPoolExecutor(_READERS) as readers:
        for info in found:
            if stores.is_marker(info.uri):
                continue
            waiting.append(_told(info, _below(base, info.uri), options, kind_of, readers))
            while waiting and (len(waiting) > _MOST_AHEAD or not isinstance(waiting[0], Future)):
                yield _result(waiting.popleft())
        yield from map(_result, waiting)


def _told(
    info: FileInfo,
    below: str,
    options: ListOptions,
    kind_of: Callable[[str], str | None],
    readers: ThreadPoolExecutor,
) -> PhotoRef | Ignored | Source | Future[PhotoRef | Ignored]:
    """What a file is, by its name or by what its store says of it; what its bytes will tell, where these don't."""
    kind = kind_of(info.uri)
    if kind and not options.ignored(below):
        return Source(info.uri, kind)
    if ignored := options.passed_over(below):
        return ignored
    named = is_named_like_a_photo(info.uri)
    if named is None and not info.media_type.startswith("image/"):
        return readers.submit(lambda: _listed(info, _may_be_photo(info.uri)))
    return _listed(info, named is not False)


def _listed(info: FileInfo, photo: bool) -> PhotoRef | Ignored:
    return _remote_ref(info) if photo else Ignored(extension_of(info.uri))


def _result(found: Any) -> Any:
    return found.result() if isinstance(found, Future) else found


def _below(base: str, uri: str) -> str:
    return uri.removeprefix(base).lstrip("/")


def _remote_ref(found: FileInfo) -> PhotoRef:
    return PhotoRef(found.uri, found.version, found.size, md5=found.md5)
