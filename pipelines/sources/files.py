"""Lists standalone photos: those in a folder, those that match a glob, or a single one."""

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
from beamscribe.pipelines.stores import local, uris
from beamscribe.pipelines.stores.base import FileInfo, NoCredentialsError, NotAFileError

# Files in a remote store that are read in parallel, and the maximum number of results that wait for the first of them.
_READERS = 16
_MAX_AHEAD = 256


def list_folder(
    uri: str, options: ListOptions, start: str = "", end: str = ""
) -> Iterator[PhotoRef | Ignored | Source]:
    """Lists all photos below a folder.

    Args:
      uri: URI of the folder.
      options: which files to list.
      start, end: in a bucket, list only URIs from `start` on and before `end`; empty for no bound.
    """
    if stores.is_local(uri):
        yield from _walk(uris.local_path(uri), options)
    else:
        yield from _remote(stores.below(uri, start, end), uri, options)


def list_glob(
    pattern: str, options: ListOptions, kind_of: Callable[[str], str | None], start: str = "", end: str = ""
) -> Iterator[PhotoRef | Ignored | Source]:
    """Lists the photos that match a glob, and yields matching containers as sources; includes do not apply to those.

    Args:
      pattern: the glob. Includes and excludes apply to paths relative to the folder before its first wildcard.
      options: which files to list.
      kind_of: returns the kind of a container, or None for other files.
      start, end: as in `list_folder`.
    """
    base = uris.without_wildcards(pattern)
    if stores.is_local(pattern):
        refused: list[str] = []
        for path in sorted(stores.matching(pattern, refused.append)):
            below = os.path.relpath(path, uris.local_path(base))
            if (kind := kind_of(path)) and not options.ignored(below):
                yield Source(local.name_of(path), kind)
            else:
                yield from _file(path, below, options)
        for folder in sorted(refused):
            yield options.ignored(os.path.relpath(folder, uris.local_path(base))) or _unopened(folder)
        return
    yield from _remote(stores.listed(pattern, start, end), base, options, kind_of)


def list_photo(uri: str) -> PhotoRef:
    """A reference to one file, whatever its name. If it can't be examined, the etag is empty; reading reports why.

    Raises:
      NoCredentialsError: there are no credentials for the store.
    """
    if stores.is_local(uri):
        return _local_ref(uris.local_path(uri))
    try:
        found = stores.stat(uri)
    except NoCredentialsError:
        raise
    except OSError:
        found = None
    return _remote_ref(found) if found else PhotoRef(uri, etag="")


def looked_up(ref: PhotoRef) -> PhotoRef:
    """Adds the version and the size to a reference that no listing has made; others stay as they are."""
    if ref.etag or ref.container or ref.failure:
        return ref
    return list_photo(ref.photo)._replace(photo=ref.photo)


def _walk(top: str, options: ListOptions) -> Iterator[PhotoRef | Ignored]:
    """Lists everything below a local folder in order, following links to folders, but each real folder only once.

    Links come last, so that the photos of a folder below `top` are listed by the folder's own path, whatever links to
    it exist now or in a later run.
    """
    seen: set[tuple[int, int]] = set()
    # Paths still to visit, the next one last: (path, path relative to `top`, whether it is a folder).
    left = [(top, "", True)]
    links: collections.deque[tuple[str, str, bool]] = collections.deque()
    while left or links:
        path, below, is_folder = left.pop() if left else links.popleft()
        if not is_folder:
            yield from _file(path, below, options)
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
        # For example, a link to itself: one such entry must not hide the others of its folder.
        return False


def _file(path: str, relative: str, options: ListOptions) -> Iterator[PhotoRef | Ignored]:
    if ignored := options.ignored_file(relative):
        yield ignored
    elif _may_be_photo(path):
        yield _local_ref(path)
    else:
        yield Ignored(extension_of(path))


def _may_be_photo(uri: str) -> bool:
    """Whether to list a file as a photo; also if its bytes can't be read, so that a failed row reports it."""
    try:
        return is_photo(uri, functools.partial(stores.head, uri, HEAD_BYTES))
    except (FileNotFoundError, NotAFileError):
        return False
    except NoCredentialsError:
        raise
    except OSError:
        return True


def _unopened(folder: str) -> PhotoRef:
    """A reference to a folder that can't be opened: it may hold photos, so a failed row reports it."""
    return PhotoRef(uris.local_uri(folder), etag="")


def _local_ref(path: str) -> PhotoRef:
    uri = local.name_of(path)
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        try:
            # A broken link is listed, too, with the modification time of the link.
            status = os.lstat(path)
        except (OSError, ValueError):
            # The file was deleted after its folder was listed, or its name is invalid: reading it reports so.
            return PhotoRef(uri, etag="")
    return PhotoRef(uri, local.etag_of(status), status.st_size)


def _remote(
    found: Iterable[FileInfo],
    base: str,
    options: ListOptions,
    kind_of: Callable[[str], str | None] = lambda uri: None,
) -> Iterator[PhotoRef | Ignored | Source]:
    """Classifies files of a remote store, in order; reads in parallel the first bytes of those that need it."""
    waiting: collections.deque[PhotoRef | Ignored | Source | Future[PhotoRef | Ignored]] = collections.deque()
    with ThreadPoolExecutor(_READERS) as readers:
        for info in found:
            if uris.is_folder_marker(info.uri):
                continue
            waiting.append(_classified(info, _below(base, info.uri), options, kind_of, readers))
            while waiting and (len(waiting) > _MAX_AHEAD or not isinstance(waiting[0], Future)):
                yield _result(waiting.popleft())
        yield from map(_result, waiting)


def _classified(
    info: FileInfo,
    below: str,
    options: ListOptions,
    kind_of: Callable[[str], str | None],
    readers: ThreadPoolExecutor,
) -> PhotoRef | Ignored | Source | Future[PhotoRef | Ignored]:
    """Classifies a file by its name or its media type; if they don't tell, returns a future that reads its bytes."""
    kind = kind_of(info.uri)
    if kind and not options.ignored(below):
        return Source(info.uri, kind)
    if ignored := options.ignored_file(below):
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
