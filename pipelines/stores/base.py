"""The interface of a store of files, and the errors that all stores raise."""

import abc
import contextlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO, NamedTuple

from beamscribe.model.errors import PROGRAMMING_ERRORS, one_line


class FileInfo(NamedTuple):
    """A store's information about a file.

    Attributes:
      uri: URI of the file, or its path if it is local.
      version: version of the file's bytes; empty if the listing does not contain it, in which case `Store.stat` does.
      size: size in bytes; 0 if unknown.
      md5: MD5 of the bytes, hexadecimal; empty if unknown.
      media_type: media type that the writer of the file declared; empty if unknown.
    """

    uri: str
    version: str = ""
    size: int = 0
    md5: str = ""
    media_type: str = ""


class StoreError(OSError):
    """A store could not serve a request."""


class ObjectNotFoundError(StoreError, FileNotFoundError):
    """The store has no such object."""


class NotAllowedError(StoreError, PermissionError):
    """The store denied access."""


class NotAFileError(OSError):
    """The path is not a regular file: it is a named pipe, a socket or a device."""


class TooLongError(OSError):
    """A file has more bytes than it may have."""


class NoCredentialsError(OSError):
    """There are no credentials for the store. Unlike a denied access to one photo, this error ends the job."""


class NotExclusiveError(OSError):
    """The store can't create files exclusively, so two jobs could overwrite each other's files."""


class Store(abc.ABC):
    """A store of files that are named by URIs. Every method raises `OSError` if the store reports an error.

    Attributes:
      is_local: whether the files are on this machine.
      is_exclusive: whether `create` is exclusive: if several writers create the same file, one of them does.
    """

    is_local: bool = False
    is_exclusive: bool = True

    @abc.abstractmethod
    def read(self, uri: str, most: int | None = None) -> bytes:
        """Reads a whole file.

        Args:
          uri: URI of the file.
          most: number of bytes that the file may have; None for any number.

        Raises:
          TooLongError: the file has more than `most` bytes; hardly more of them were read.
        """

    @abc.abstractmethod
    def open(self, uri: str) -> AbstractContextManager[BinaryIO]:
        """Opens a file as a seekable stream of bytes."""

    def head(self, uri: str, size: int) -> bytes:
        """Reads the first `size` bytes of a file; fewer if the file is shorter.

        Raises:
          NotAFileError: the path can't be read as a file; it is a socket, for example.
        """
        with self.open(uri) as file:
            return file.read(size)

    @abc.abstractmethod
    def stat(self, uri: str) -> FileInfo | None:
        """The store's information about a file; None if the file does not exist."""

    @abc.abstractmethod
    def list(self, folder: str, start: str = "", end: str = "") -> Iterator[FileInfo]:
        """Lists all files below a folder.

        Args:
          folder: URI of the folder.
          start, end: for a `RangedStore`: list only URIs from `start` on and before `end`; empty for no bound.
        """

    @abc.abstractmethod
    def matching(
        self, pattern: str, start: str = "", end: str = "", refused: Callable[[str], None] = lambda _: None
    ) -> Iterator[FileInfo]:
        """Lists the files that match a glob, in any order; none if the folder does not exist.

        Args:
          pattern: the glob.
          start, end: as in `list`.
          refused: called with each folder that can't be opened, since it may contain matching files.
        """

    def exists(self, uri: str) -> bool:
        """Whether a file exists; in a local store, a folder or a broken link counts, too."""
        return self.stat(uri) is not None

    @abc.abstractmethod
    def is_folder(self, uri: str) -> bool:
        """Whether a folder exists; in a store without folders, whether files exist below the name."""

    def is_taken(self, uri: str) -> bool:
        """Whether a file or folder of exactly this name exists; wildcards in it are taken literally."""
        return self.exists(uri) or self.is_folder(uri)

    @abc.abstractmethod
    def create(self, uri: str, data: bytes) -> bool:
        """Writes a new file atomically; an existing file stays as it is.

        Returns:
          Whether this call wrote the file; False if the file already existed.

        Raises:
          NotExclusiveError: the store can't create files exclusively.
        """

    @abc.abstractmethod
    def replace(self, uri: str, data: bytes) -> None:
        """Writes a file atomically; an existing file is replaced."""

    @abc.abstractmethod
    def delete(self, uri: str) -> None:
        """Deletes a file if it exists; in a local store, its folder, too, if that is empty afterwards."""

    @abc.abstractmethod
    def join(self, base: str, *parts: str) -> str:
        """Joins path components with the store's separator."""

    @abc.abstractmethod
    def folder_of(self, uri: str) -> str:
        """The folder that contains a file."""


class RangedStore(Store):
    """A store that lists files in the order of their names, from any name on, so workers can share a listing."""

    @abc.abstractmethod
    def list_prefix(self, prefix: str, start: str = "", end: str = "") -> Iterator[FileInfo]:
        """Lists the files whose URIs begin with `prefix`, in order; `start` and `end` are as in `list`."""

    @abc.abstractmethod
    def first(self, prefix: str, start: str = "") -> str | None:
        """The first URI that begins with `prefix` and is not before `start`; None if there is none."""


def read_at_most(file: BinaryIO, most: int | None) -> bytes:
    """Reads a stream to its end; `most` and the error are those of `Store.read`."""
    if most is None:
        return file.read()
    data = file.read(most + 1)
    if len(data) > most:
        raise TooLongError(f"the file has more than {most:,} bytes")
    return data


@contextlib.contextmanager
def as_os_errors(uri: str) -> Iterator[None]:
    """Converts exceptions that are raised inside the context, as `as_os_error` does, except programming errors.

    Raises:
      OSError: the store reported an error.
    """
    try:
        yield
    except PROGRAMMING_ERRORS:
        raise
    except Exception as error:  # each client has errors of its own kinds
        raise as_os_error(error, uri) from error


def as_os_error(error: Exception, uri: str) -> OSError:
    """Converts a store's exception to the `OSError` that a local file would raise.

    Args:
      error: the exception; its attribute `code`, if there is one, is an HTTP status.
      uri: URI of the file, for the message.
    """
    kinds: dict[int, type[StoreError]] = {404: ObjectNotFoundError, 401: NotAllowedError, 403: NotAllowedError}
    kind = kinds.get(int(getattr(error, "code", None) or 0), StoreError)
    return error if isinstance(error, OSError) else kind(f"{uri}: {one_line(error)}")


class WrappedFile(io.RawIOBase):
    """A stream that reads from another stream; subclasses change how.

    Args:
      file: the other stream, which must be seekable.
    """

    def __init__(self, file: BinaryIO):
        self._file = file

    def read(self, size: int | None = -1) -> bytes:
        """Reads at most `size` bytes, or all remaining bytes if `size` is negative or None."""
        return self._file.read(-1 if size is None else size)

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a position and returns it."""
        return self._file.seek(place, whence)

    def tell(self) -> int:
        """The current position."""
        return self._file.tell()

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True."""
        return True


class RemoteFile(WrappedFile):
    """A stream of a remote store that raises the errors that a local file would raise.

    Args:
      file: the store's stream.
      uri: URI of the file, for error messages.
    """

    def __init__(self, file: BinaryIO, uri: str):
        super().__init__(file)
        self._uri = uri

    def read(self, size: int | None = -1) -> bytes:
        """See `WrappedFile.read`."""
        with as_os_errors(self._uri):
            return super().read(size)

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        """See `WrappedFile.seek`."""
        with as_os_errors(self._uri):
            return super().seek(place, whence)
