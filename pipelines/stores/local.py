"""Files of this machine, through the operating system: disks, and what is mounted like one."""

import contextlib
import errno
import glob
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from typing import BinaryIO

from beamscribe.pipelines.stores import globs, renaming
from beamscribe.pipelines.stores.base import FileInfo, NotAFileError, NotExclusiveError, Store
from beamscribe.pipelines.stores.uris import local_path, local_uri

# What a filesystem says that has no hard links: exFAT, and some shares of SMB.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EINVAL)


class LocalStore(Store):
    """The operating system's files, by their paths or `file:` URIs."""

    is_local = True

    def read(self, uri: str) -> bytes:
        """As the base class says."""
        with self.open(uri) as file:
            return file.read()

    @contextlib.contextmanager
    def open(self, uri: str) -> Iterator[BinaryIO]:
        """As the base class says; a named pipe is not waited for, which may have nobody at its other end."""
        with open(os.open(local_path(uri), os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise NotAFileError(errno.EINVAL, "not a regular file")
            yield file

    def stat(self, uri: str) -> FileInfo | None:
        """As the base class says; links are followed."""
        try:
            status = os.stat(local_path(uri))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return FileInfo(uri, etag_of(status), status.st_size)

    def list(self, folder: str, start: str = "", end: str = "") -> Iterator[FileInfo]:
        """As the base class says, names alone."""
        return self.matching(os.path.join(glob.escape(local_path(folder)), "**"))

    def matching(
        self, pattern: str, start: str = "", end: str = "", refused: Callable[[str], None] = lambda _: None
    ) -> Iterator[FileInfo]:
        """As the base class says, names alone."""
        return (FileInfo(path) for path in globs.matching(local_path(pattern), refused))

    def exists(self, uri: str) -> bool:
        """As the base class says."""
        return os.path.lexists(local_path(uri))

    def is_folder(self, uri: str) -> bool:
        """As the base class says."""
        return os.path.isdir(local_path(uri))

    def create(self, uri: str, data: bytes) -> bool:
        """As the base class says."""
        path = local_path(uri)
        with _temporary(path, data) as temporary:
            try:
                # Unlike a rename, a link never replaces a file.
                os.link(temporary, path)
                return True
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
            try:
                renaming.rename_to_new(temporary, path)
                return True
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                raise NotExclusiveError(
                    error.errno, "its filesystem can neither make hard links nor rename a file only where there is none"
                ) from None

    def replace(self, uri: str, data: bytes) -> None:
        """As the base class says."""
        path = local_path(uri)
        with _temporary(path, data) as temporary:
            os.replace(temporary, path)

    def delete(self, uri: str) -> None:
        """As the base class says."""
        path = local_path(uri)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        # As in a store of objects, where a folder is only the names of what lies in it.
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(path))

    def join(self, base: str, *parts: str) -> str:
        """As the base class says."""
        return os.path.join(base, *parts)

    def folder_of(self, uri: str) -> str:
        """As the base class says."""
        return os.path.dirname(uri)


def etag_of(status: os.stat_result) -> str:
    """The version of a local file's bytes: its size and the time when it was changed."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def absolute(uri: str) -> str:
    """A local file's absolute path, as it is written to tables."""
    return local_uri(os.path.abspath(local_path(uri)))


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
