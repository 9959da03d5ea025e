"""Files, local and remote, behind one small interface.

Local paths go through the operating system, `gs://` writes through google-cloud-storage, which can
create an object only where there is none; the rest goes through Beam's filesystems.
"""

import contextlib
import errno
import functools
import glob
import os
import pathlib
import stat
import urllib.parse
import uuid
from collections.abc import Iterator

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems


def is_local(uri: str) -> bool:
    """Whether a URI is a path of this machine."""
    return FileSystems.get_scheme(uri) in (None, "file")


def local_uri(path: str) -> str:
    """A path as it is written to tables: itself, or a `file:` URI where its name is not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return pathlib.PurePosixPath(path).as_uri()
    return path


def _local_path(uri: str) -> str:
    if not uri.startswith("file://"):
        return uri
    return os.fsdecode(urllib.parse.unquote_to_bytes(uri.removeprefix("file://")))


def join(base: str, *parts: str) -> str:
    """Joins path components with the separator of the base's filesystem."""
    return FileSystems.join(base, *parts)


def read(uri: str) -> bytes:
    """Reads a whole file.

    Raises:
      OSError: as the store says.
    """
    if is_local(uri):
        # Without waiting: a named pipe may have nobody at its other end.
        with open(os.open(_local_path(uri), os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            return file.read()
    try:
        # By name alone a photo called `x.gz` would be unpacked.
        with FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            return file.read()
    except Exception as error:
        raise _as_os_error(error, uri) from error


def _as_os_error(error: Exception, uri: str) -> OSError:
    """What a local file would have raised: each store has exceptions of its own, with an HTTP status in them."""
    kinds = {404: FileNotFoundError, 401: PermissionError, 403: PermissionError}
    kind = kinds.get(int(getattr(error, "code", None) or 0), OSError)
    return error if isinstance(error, OSError) else kind(f"{uri}: {' '.join(str(error).split())}")


def exists(uri: str) -> bool:
    """Whether there is a file (or, locally, anything) of that name."""
    return os.path.exists(uri) if is_local(uri) else FileSystems.exists(uri)


def matching(pattern: str) -> Iterator[str]:
    """The files that match a glob, in any order; none where its folder does not exist."""
    if is_local(pattern):
        yield from (path for path in glob.iglob(pattern, recursive=True) if not os.path.isdir(path))
        return
    for match in FileSystems.match([pattern]):
        for metadata in match.metadata_list:
            yield metadata.path


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
    if FileSystems.get_scheme(uri) == "gs":
        return _create_object(uri, data)
    if FileSystems.exists(uri):
        return False
    replace(uri, data)
    return True


def replace(uri: str, data: bytes) -> None:
    """Writes a whole file, over what was there."""
    if is_local(uri):
        with _temporary(uri, data) as temporary:
            os.replace(temporary, uri)
        return
    with FileSystems.create(uri, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        file.write(data)


def _create_local(path: str, data: bytes) -> bool:
    if os.path.exists(path):
        return False
    with _temporary(path, data) as temporary:
        try:
            # Unlike a rename, a link never replaces a file.
            os.link(temporary, path)
        except FileExistsError:
            return False
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


def _create_object(uri: str, data: bytes) -> bool:
    from google.api_core import exceptions
    from google.cloud import storage  # type: ignore[attr-defined]

    try:
        blob = storage.Blob.from_uri(uri, client=_storage_client())
        blob.upload_from_string(data, content_type="application/octet-stream", if_generation_match=0)
    except exceptions.PreconditionFailed:
        return False
    return True


@functools.cache
def _storage_client():
    from google.auth import credentials
    from google.cloud import storage  # type: ignore[attr-defined]

    if os.environ.get("STORAGE_EMULATOR_HOST"):
        # An emulator knows no accounts, and looking for credentials costs seconds.
        return storage.Client(project="emulator", credentials=credentials.AnonymousCredentials())
    return storage.Client()
