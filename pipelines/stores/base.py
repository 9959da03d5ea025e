"""What a store of files can do, and the errors that all stores have in common."""

import abc
import contextlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO, NamedTuple

from beamscribe.model.errors import one_line


class FileInfo(NamedTuple):
    """What a store says of a file.

    Attributes:
      uri: its URI, or its path where it is local.
      version: of its bytes; empty where a listing does not tell it, and `Store.stat` does.
      size: bytes; 0 where that is not known.
      md5: of the bytes, hexadecimal; empty where the store does not say.
      media_type: what the file was said to be when it was written; empty where the store does not say.
    """

    uri: str
    version: str = ""
    size: int = 0
    md5: str = ""
    media_type: str = ""


class StoreError(OSError):
    """A store did not do what it was asked for."""


class ObjectNotFoundError(StoreError, FileNotFoundError):
    """The store has no such object."""


class NotAllowedError(StoreError, PermissionError):
    """The store does not allow that."""


class NotAFileError(OSError):
    """Something that has a name but no bytes of its own: a named pipe, a socket, a device."""


class NoCredentialsError(OSError):
    """Nothing says who asks, for any object: unlike a refusal, no failure of a single photo, and the job's end."""


class NotExclusiveError(OSError):
    """The store can't create a file only where there is none, so that two jobs could overwrite each other's files."""


class Store(abc.ABC):
    """A place of files that are named by URIs. Every method raises `OSError` as the store says.

    Attributes:
      is_local: whether the files are this machine's.
      is_exclusive: whether `create` creates a file only where there is none, whoever else creates it meanwhile.
      lists_ranges: whether `list` and `matching` can begin and end at a name, so that several workers share a folder.
    """

    is_local: bool = False
    is_exclusive: bool = True
    lists_ranges: bool = False

    @abc.abstractmethod
    def read(self, uri: str) -> bytes:
        """Reads a whole file."""

    @abc.abstractmethod
    def open(self, uri: str) -> AbstractContextManager[BinaryIO]:
        """A file's bytes as a stream that can seek."""

    def head(self, uri: str, size: int) -> bytes:
        """The first `size` bytes of a file; fewer where it has fewer.

        Raises:
          NotAFileError: it can't be read as a file, such as a socket.
        """
        with self.open(uri) as file:
            return file.read(size)

    @abc.abstractmethod
    def stat(self, uri: str) -> FileInfo | None:
        """What the store says of a file; None where it has none of that name."""

    @abc.abstractmethod
    def list(self, folder: str, start: str = "", end: str = "") -> Iterator[FileInfo]:
        """All files below a folder; in a store that lists ranges from the URI `start` on and before `end`, if given."""

    @abc.abstractmethod
    def matching(
        self, pattern: str, start: str = "", end: str = "", refused: Callable[[str], None] = lambda _: None
    ) -> Iterator[FileInfo]:
        """The files that match a glob, in any order; none where its folder does not exist.

        Args:
          pattern: the glob.
          start, end: as in `list`.
          refused: called with each folder that can't be opened, in which other files may match.
        """

    def exists(self, uri: str) -> bool:
        """Whether there is a file of that name; in a local store anything, even a link to nothing."""
        return self.stat(uri) is not None

    @abc.abstractmethod
    def is_folder(self, uri: str) -> bool:
        """Whether there is a folder of that name, or, where a store has none, something below the name."""

    def is_taken(self, uri: str) -> bool:
        """Whether there is a file or a folder of exactly that name, whatever wildcards it holds."""
        return self.exists(uri) or self.is_folder(uri)

    @abc.abstractmethod
    def create(self, uri: str, data: bytes) -> bool:
        """Writes a whole file where there is none: a reader never sees a part of it.

        Returns:
          Whether this call wrote it; False where the file was there already, which stays as it is.

        Raises:
          NotExclusiveError: the store can't tell.
        """

    @abc.abstractmethod
    def replace(self, uri: str, data: bytes) -> None:
        """Writes a whole file, over what was there."""

    @abc.abstractmethod
    def delete(self, uri: str) -> None:
        """Deletes a file; in a local store its folder, too, where that is empty then. A missing file is no error."""

    @abc.abstractmethod
    def join(self, base: str, *parts: str) -> str:
        """Joins components with the store's separator."""

    @abc.abstractmethod
    def folder_of(self, uri: str) -> str:
        """The folder that a file lies in."""


@contextlib.contextmanager
def as_os_errors(uri: str) -> Iterator[None]:
    """What is raised within, as what a local file would have raised."""
    try:
        yield
    except Exception as error:
        raise as_os_error(error, uri) from error


def as_os_error(error: Exception, uri: str) -> OSError:
    """What a local file would have raised: each store has exceptions of its own, with an HTTP status in them."""
    kinds: dict[int, type[StoreError]] = {404: ObjectNotFoundError, 401: NotAllowedError, 403: NotAllowedError}
    kind = kinds.get(int(getattr(error, "code", None) or 0), StoreError)
    return error if isinstance(error, OSError) else kind(f"{uri}: {one_line(error)}")


class RemoteFile(io.RawIOBase):
    """A stream of a remote store that raises what a local file would."""

    def __init__(self, file: BinaryIO, uri: str):
        self._file, self._uri = file, uri

    def read(self, size: int | None = -1) -> bytes:
        """As any stream."""
        with as_os_errors(self._uri):
            return self._file.read(-1 if size is None else size)

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        """As any stream."""
        with as_os_errors(self._uri):
            return self._file.seek(place, whence)

    def tell(self) -> int:
        """As any stream."""
        return self._file.tell()

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True
