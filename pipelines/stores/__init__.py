"""Files, local and remote, behind one small interface.

Local paths go through the operating system; `gs://` through google-cloud-storage, which can create an object only where
there is none, and checks what it reads; the rest goes through Beam's filesystems.
"""

import collections
import contextlib
import errno
import fnmatch
import glob
import io
import os
import pathlib
import stat
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, cast

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from google.api_core.exceptions import RetryError
from google.api_core.retry import Retry

from beamscribe.pipelines.stores import gcs, retries
from beamscribe.pipelines.stores.gcs import FileInfo


def is_local(uri: str) -> bool:
    """Whether a URI is a path of this machine."""
    return FileSystems.get_scheme(uri) in (None, "file")


def is_object(uri: str) -> bool:
    """Whether a URI is of Google Cloud Storage."""
    return uri.startswith("gs://")


def local_uri(path: str) -> str:
    """A path as it is written to tables: itself, or a `file:` URI where its name is not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return pathlib.PurePosixPath(path).as_uri()
    return path


def local_path(uri: str) -> str:
    """The path of a local file, which may be given as a `file:` URI."""
    if not uri.startswith("file://"):
        return uri
    return os.fsdecode(urllib.parse.unquote_to_bytes(uri.removeprefix("file://")))


def member_uri(container: str, name: str) -> str:
    """How a photo inside a container is written to tables; bytes that are not UTF-8 as escapes."""
    return f"{container}#{encodable(name)}"


def encodable(text: str) -> str:
    """A text that may hold bytes which are not UTF-8, with these as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def join(base: str, *parts: str) -> str:
    """Joins path components with the separator of the base's filesystem."""
    if is_object(base):
        return "/".join((base.rstrip("/"), *parts))
    return FileSystems.join(base, *parts)


def folder_of(uri: str) -> str:
    """The folder that a file lies in."""
    if is_object(uri):
        return uri.rpartition("/")[0]
    return os.path.dirname(uri) if is_local(uri) else FileSystems.split(uri)[0]


def resolved(folder: str, entry: str) -> str:
    """A URI as it stands in a list: where it is relative, it is so to the list's folder."""
    if not is_local(entry):
        return entry
    path = local_path(entry)
    if is_local(folder) or os.path.isabs(path):
        return local_uri(os.path.normpath(os.path.join(local_path(folder), path)))
    return join(folder, *(part for part in entry.split("/") if part != "."))


def has_wildcards(uri: str) -> bool:
    """Whether a URI looks like a glob, which a name may, too."""
    return any(wildcard in uri for wildcard in "*?[")


def without_wildcards(pattern: str) -> str:
    """The folder of a glob above its first wildcard."""
    parts = pattern.split("/")
    first = next((place for place, part in enumerate(parts) if has_wildcards(part)), len(parts) - 1)
    return "/".join(parts[:first]) or "/"


def read(uri: str) -> bytes:
    """Reads a whole file; what a remote store may not do again, like being too busy, is waited for.

    Raises:
      OSError: as the store says.
    """
    if is_local(uri):
        return _read_stream(uri)
    if is_object(uri):
        with _as_os_errors(uri):
            return gcs.read(uri)
    try:
        return _patiently(_read_stream)(uri)
    except RetryError as error:
        raise error.cause or OSError(str(error)) from error


def _read_stream(uri: str) -> bytes:
    with opened(uri) as file:
        return file.read()


def _may_pass(error: Exception) -> bool:
    # A ValueError is about the name: there is no such filesystem.
    lasting = isinstance(error, FileNotFoundError | PermissionError) or isinstance(error.__cause__, ValueError)
    return isinstance(error, OSError) and not lasting


_patiently = Retry(predicate=_may_pass, initial=0.5, multiplier=2.0, maximum=8.0, timeout=60.0, on_error=retries.count)


@contextlib.contextmanager
def opened(uri: str) -> Iterator[BinaryIO]:
    """A file's bytes as a stream that can seek.

    Raises:
      OSError: as the store says.
    """
    if is_local(uri):
        # Without waiting: a named pipe may have nobody at its other end.
        with open(os.open(local_path(uri), os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise NotAFileError(errno.EINVAL, "not a regular file")
            yield file
        return
    with _as_os_errors(uri):
        # By name alone a photo called `x.gz` would be unpacked.
        remote = (
            gcs.opened(uri) if is_object(uri) else FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED)
        )
    with remote:
        yield cast(BinaryIO, _OsErrors(remote, uri))


class NotAFileError(OSError):
    """Something that has a name but no bytes of its own: a named pipe, a socket, a device."""


class _OsErrors(io.RawIOBase):
    """A remote file that raises what a local one would."""

    def __init__(self, file: BinaryIO, uri: str):
        self._file, self._uri = file, uri

    def read(self, size: int | None = -1) -> bytes:
        return self._asked(self._file.read, -1 if size is None else size)

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        return self._asked(self._file.seek, place, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def _asked(self, method, *arguments):
        with _as_os_errors(self._uri):
            return method(*arguments)


def head(uri: str, size: int) -> bytes:
    """The first bytes of a file.

    Raises:
      OSError: as the store says; `NotAFileError` of what can't be read as a file, such as a socket.
    """
    if is_object(uri):
        with _as_os_errors(uri):
            return gcs.head(uri, size)
    with opened(uri) as file:
        return file.read(size)


def metadata(uri: str) -> FileInfo | None:
    """What a remote store says of a file; None where it has none of that name, or doesn't answer."""
    with contextlib.suppress(Exception):
        return gcs.metadata(uri) if is_object(uri) else next(_matched([glob.escape(uri)]), None)
    return None


def etag_of(status: os.stat_result) -> str:
    """The version of a local file's bytes."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def version(uri: str) -> str:
    """The version of a file's bytes, as listings have it; empty where that can't be told."""
    if is_local(uri):
        try:
            return etag_of(os.stat(local_path(uri)))
        except OSError:
            return ""
    found = metadata(uri)
    return found.version if found else ""


def _as_os_error(error: Exception, uri: str) -> OSError:
    """What a local file would have raised: each store has exceptions of its own, with an HTTP status in them."""
    kinds = {404: ObjectNotFoundError, 401: NotAllowedError, 403: NotAllowedError}
    kind = kinds.get(int(getattr(error, "code", None) or 0), StoreError)
    return error if isinstance(error, OSError) else kind(f"{uri}: {' '.join(str(error).split())}")


class StoreError(OSError):
    """A remote store did not do what it was asked for."""


class ObjectNotFoundError(StoreError, FileNotFoundError):
    """It has no such object."""


class NotAllowedError(StoreError, PermissionError):
    """It does not allow that."""


@contextlib.contextmanager
def _as_os_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _as_os_error(error, uri) from error


def exists(uri: str) -> bool:
    """Whether there is a file (or, locally, anything, even a link to nothing) of that name."""
    if is_local(uri):
        return os.path.lexists(local_path(uri))
    with _as_os_errors(uri):
        return gcs.metadata(uri) is not None if is_object(uri) else FileSystems.exists(uri)


def is_taken(uri: str) -> bool:
    """Whether there is a file or a folder of exactly that name, whatever wildcards it holds."""
    if is_object(uri):
        # Nothing begins like most globs, so that one request will do.
        with _as_os_errors(uri):
            if gcs.first(uri) is None:
                return False
    return exists(uri) or (not is_local(uri) and is_folder(uri))


def is_marker(uri: str) -> bool:
    """Whether a remote file is only the empty object that stands for a folder where a store has none."""
    return uri.endswith("/")


def is_folder(uri: str) -> bool:
    """Whether there is a folder of that name, or, where a store has none, something below the name."""
    if is_local(uri):
        return os.path.isdir(local_path(uri))
    if is_object(uri):
        with _as_os_errors(uri):
            return gcs.metadata(uri) is None and gcs.first(f"{uri}/") is not None
    return metadata(uri) is None and next(below(uri), None) is not None


def matching(pattern: str, refused: Callable[[str], None] = lambda _: None) -> Iterator[str]:
    """The files that match a glob, in any order; none where its folder does not exist.

    Args:
      pattern: the glob.
      refused: called with each local folder that can't be opened, in which other files may match.
    """
    if is_local(pattern):
        path = local_path(pattern)
        start, parts = ("/" if path.startswith("/") else ""), path.lstrip("/").split("/")
        if "**" in parts:
            yield from _matching_below(start, parts, refused)
        else:
            yield from (found for found in _matching(start, parts, refused) if not os.path.isdir(found))
        return
    yield from (found.uri for found in remote_matching(pattern) if not is_marker(found.uri))


def remote_matching(pattern: str, start: str = "", end: str = "") -> Iterator[FileInfo]:
    """What a remote store says of the files that match a glob: those from `start` on and before `end`, if given.

    Only objects can be listed from a name on.
    """
    with _as_os_errors(pattern):
        yield from gcs.matching(pattern, start, end) if is_object(pattern) else _matched([pattern])


def below(folder: str, start: str = "", end: str = "") -> Iterator[FileInfo]:
    """What a remote store says of all files below a folder; `start` and `end` are as in `remote_matching`."""
    with _as_os_errors(folder):
        yield from (
            gcs.listed(f"{folder}/", start, end) if is_object(folder) else _matched([join(glob.escape(folder), "**")])
        )


def _matched(patterns: list[str]) -> Iterator[FileInfo]:
    for match in FileSystems.match(patterns):
        for found in match.metadata_list:
            version = f"{found.size_in_bytes}-{found.last_updated_in_seconds}"
            yield FileInfo(found.path, version, found.size_in_bytes)


def _matching(folder: str, parts: Sequence[str], refused: Callable[[str], None]) -> Iterator[str]:
    """What matches a glob without `**`, files and folders; unlike `glob` it tells of what it can't look into.

    Args:
      folder: where to look; empty for the current one.
      parts: of the glob, below it.
      refused: as in `matching`.
    """
    if not parts:
        yield folder or "."
        return
    name, *rest = parts
    try:
        if has_wildcards(name):
            names = fnmatch.filter(os.listdir(folder or "."), name)
        else:
            os.lstat(os.path.join(folder, name))
            names = [name]
    except OSError as error:
        _refuse(folder or ".", error, refused)
        return
    for name in names:
        yield from _matching(os.path.join(folder, name), rest, refused)


def _refuse(folder: str, error: OSError, refused: Callable[[str], None]) -> None:
    """Tells of a folder that can't be opened, unless there is no such folder."""
    if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        refused(folder)


def _matching_below(start: str, parts: Sequence[str], refused: Callable[[str], None]) -> Iterator[str]:
    """The files that match a glob with `**`; links to folders are followed, each real folder once, unlike `glob`.

    A folder's own path comes before those that links give it. Arguments are as in `_matching`.
    """
    first = parts.index("**")
    seen: set[tuple[int, int]] = set()
    for top in _matching(start, parts[:first], refused):
        left = collections.deque([top])
        while left:
            walk = os.walk(left.popleft(), onerror=lambda error: _refuse(error.filename, error, refused))
            for folder, folders, files in walk:
                try:
                    status = os.stat(folder)
                except OSError:
                    continue
                if (status.st_dev, status.st_ino) in seen:
                    folders.clear()
                    continue
                seen.add((status.st_dev, status.st_ino))
                left += (path for name in sorted(folders) if os.path.islink(path := os.path.join(folder, name)))
                below = [] if folder == top else os.path.relpath(folder, top).split("/")
                yield from (os.path.join(folder, name) for name in files if _matches([*below, name], parts[first:]))


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_matches(names[skipped:], patterns[1:] or ["*"]) for skipped in range(len(names)))
    return bool(names) and fnmatch.fnmatchcase(names[0], patterns[0]) and _matches(names[1:], patterns[1:])


def within(folder: str, *pattern: str) -> Iterator[str]:
    """The files of a folder that match a glob below it; the folder's own name is taken literally."""
    return matching(join(glob.escape(folder), *pattern))


def create(uri: str, data: bytes) -> bool:
    """Writes a whole file where there is none: a reader never sees a part of it.

    Returns:
      Whether this call wrote it; False where it was there already, which it leaves as it is. A
      filesystem that can't create exclusively lets the last writer win.
    """
    if is_local(uri):
        return _create_local(uri, data)
    if is_object(uri):
        with _as_os_errors(uri):
            return gcs.create(uri, data)
    if exists(uri):
        return False
    replace(uri, data)
    return True


def replace(uri: str, data: bytes) -> None:
    """Writes a whole file, over what was there."""
    if is_local(uri):
        with _temporary(uri, data) as temporary:
            os.replace(temporary, uri)
        return
    with _as_os_errors(uri):
        if is_object(uri):
            gcs.replace(uri, data)
            return
        with FileSystems.create(uri, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.write(data)


def delete(uri: str) -> None:
    """Deletes a file, and locally its folder where that is empty then; a file that is gone already is no error.

    Raises:
      OSError: as the store says.
    """
    if is_object(uri):
        with _as_os_errors(uri):
            gcs.delete(uri)
        return
    if not is_local(uri):
        # What is deleted is what matches.
        FileSystems.delete([glob.escape(uri)])
        return
    path = local_path(uri)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    # As in a store of objects, where a folder is only the names of what lies in it.
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))


def _create_local(path: str, data: bytes) -> bool:
    if os.path.exists(path):
        return False
    with _temporary(path, data) as temporary:
        try:
            # Unlike a rename, a link never replaces a file.
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
                raise
            # A filesystem without links, such as exFAT: the last whole file wins.
            os.replace(temporary, path)
    return True


@contextlib.contextmanager
def _temporary(path: str, data: bytes) -> Iterator[str]:
    """A file beside `path` that holds the data, on disk, and is gone afterwards."""
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    # The dot hides it from every glob for committed files.
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
