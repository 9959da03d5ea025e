"""Files of this machine, through the operating system: on disks and on mounted filesystems."""

import contextlib
import errno
import glob
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterator
from typing import BinaryIO

from beamscribe.pipelines.stores import globs, renaming
from beamscribe.pipelines.stores.base import FileInfo, NotAFileError, NotExclusiveError, Store, read_at_most
from beamscribe.pipelines.stores.uris import file_uri, local_path, local_uri

# The errors of filesystems without hard links, such as exFAT and some SMB shares.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EINVAL)


class LocalStore(Store):
    """The operating system's files, by their paths or `file:` URIs."""

    is_local = True

    def read(self, uri: str, most: int | None = None) -> bytes:
        """See `Store.read`."""
        with self.open(uri) as file:
            return read_at_most(file, most)

    @contextlib.contextmanager
    def open(self, uri: str) -> Iterator[BinaryIO]:
        """See `Store.open`; a named pipe is refused at once, since it may have no writer to wait for."""
        with open(os.open(local_path(uri), os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise NotAFileError(errno.EINVAL, "not a regular file")
            yield file

    def stat(self, uri: str) -> FileInfo | None:
        """See `Store.stat`; follows links."""
        try:
            status = os.stat(local_path(uri))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return FileInfo(uri, etag_of(status), status.st_size)

    def list(self, folder: str, start: str = "", end: str = "") -> Iterator[FileInfo]:
        """See `Store.list`; only the URIs are filled in."""
        return self.matching(os.path.join(glob.escape(local_path(folder)), "**"))

    def matching(
        self, pattern: str, start: str = "", end: str = "", refused: Callable[[str], None] = lambda _: None
    ) -> Iterator[FileInfo]:
        """See `Store.matching`; only the URIs are filled in."""
        return (FileInfo(path) for path in globs.matching(local_path(pattern), refused))

    def exists(self, uri: str) -> bool:
        """See `Store.exists`."""
        return os.path.lexists(local_path(uri))

    def is_folder(self, uri: str) -> bool:
        """See `Store.is_folder`."""
        return os.path.isdir(local_path(uri))

    def create(self, uri: str, data: bytes) -> bool:
        """See `Store.create`."""
        path = local_path(uri)
        with _temporary(path, data) as temporary:
            # Unlike a plain rename, neither of these replaces an existing file.
            for give_name in (os.link, renaming.rename_to_new):
                try:
                    give_name(temporary, path)
                    return True
                except FileExistsError:
                    return False
                except FileNotFoundError:
                    # Whoever takes over from this process deletes its temporary files, and has taken their places.
                    if not os.path.lexists(path):
                        raise
                    return False
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    number = error.errno
        raise NotExclusiveError(
            number, "its filesystem supports neither hard links nor renames that keep an existing file"
        )

    def replace(self, uri: str, data: bytes) -> None:
        """See `Store.replace`."""
        path = local_path(uri)
        with _temporary(path, data) as temporary:
            os.replace(temporary, path)

    def delete(self, uri: str) -> None:
        """See `Store.delete`."""
        path = local_path(uri)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        # As in an object store, a folder without files does not exist.
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(path))

    def join(self, base: str, *parts: str) -> str:
        """See `Store.join`."""
        return os.path.join(base, *parts)

    def folder_of(self, uri: str) -> str:
        """See `Store.folder_of`."""
        return os.path.dirname(uri)


def etag_of(status: os.stat_result) -> str:
    """The version of a local file's bytes: its size and its modification time in nanoseconds."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def absolute(uri: str) -> str:
    """The absolute path of a local file, in the form that tables contain; see `uris.local_uri`."""
    return local_uri(os.path.abspath(local_path(uri)))


def name_of(path: str) -> str:
    """The name of a local file in tables, which no photo in an archive has; else it is as `uris.local_uri` says.

    A file `x.zip#a.jpg` beside an archive `x.zip` is called like the photo `a.jpg` in the archive: its name is its
    `file:` URI. The photo in the archive keeps its name, by which rows of earlier runs know it.
    """
    is_like_a_member = any(os.path.isfile(path[: sign.start()]) for sign in re.finditer("#", path))
    return file_uri(path) if is_like_a_member and os.path.isabs(path) else local_uri(path)


@contextlib.contextmanager
def _temporary(path: str, data: bytes) -> Iterator[str]:
    """Writes the data to a temporary file beside `path`, flushes it to disk, and deletes it afterwards."""
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    # The dot hides the file from every glob for committed files.
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
