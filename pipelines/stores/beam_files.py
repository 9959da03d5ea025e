"""Files of the other filesystems that Beam knows, such as HDFS. They can hold a job's inputs, but not its output.

Beam, which takes seconds to import, is imported with the first request.
"""

import contextlib
import functools
import glob
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO, cast

from beamscribe.pipelines.stores import retries
from beamscribe.pipelines.stores.base import FileInfo, RemoteFile, Store, TooLongError, as_os_errors, read_at_most

if TYPE_CHECKING:
    from apache_beam.io.filesystems import FileSystems
    from google.api_core.retry import Retry

# Beam's name for bytes as they are: by default, it compresses and decompresses a file that is named `x.gz`.
_UNCOMPRESSED = "uncompressed"


def _is_transient(error: Exception) -> bool:
    # A ValueError means that no filesystem has the scheme of the URI.
    permanent = isinstance(error, FileNotFoundError | PermissionError | TooLongError) or isinstance(
        error.__cause__, ValueError
    )
    return isinstance(error, OSError) and not permanent


@functools.cache
def _with_retries() -> "Retry":
    from google.api_core.retry import Retry

    return Retry(
        predicate=_is_transient, initial=0.5, multiplier=2.0, maximum=8.0, timeout=60.0, on_error=retries.count
    )


def _filesystems() -> "type[FileSystems]":
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


class BeamStore(Store):
    """The files of Beam's filesystems. They can't be created exclusively: the last writer wins."""

    is_exclusive = False

    def read(self, uri: str, most: int | None = None) -> bytes:
        """See `Store.read`."""
        from google.api_core.exceptions import RetryError

        try:
            return _with_retries()(self._read)(uri, most)
        except RetryError as error:
            raise error.cause or OSError(str(error)) from error

    def _read(self, uri: str, most: int | None) -> bytes:
        with self.open(uri) as file:
            return read_at_most(file, most)

    @contextlib.contextmanager
    def open(self, uri: str) -> Iterator[BinaryIO]:
        """See `Store.open`."""
        with as_os_errors(uri):
            remote = _filesystems().open(uri, compression_type=_UNCOMPRESSED)
        with remote:
            yield cast(BinaryIO, RemoteFile(remote, uri))

    def stat(self, uri: str) -> FileInfo | None:
        """See `Store.stat`."""
        return next(self.matching(glob.escape(uri)), None)

    def list(self, folder: str, start: str = "", end: str = "") -> Iterator[FileInfo]:
        """See `Store.list`."""
        return self.matching(self.join(glob.escape(folder), "**"))

    def matching(
        self, pattern: str, start: str = "", end: str = "", refused: Callable[[str], None] = lambda _: None
    ) -> Iterator[FileInfo]:
        """See `Store.matching`."""
        with as_os_errors(pattern):
            for match in _filesystems().match([pattern]):
                for found in match.metadata_list:
                    version = f"{found.size_in_bytes}-{found.last_updated_in_seconds}"
                    yield FileInfo(found.path, version, found.size_in_bytes)

    def exists(self, uri: str) -> bool:
        """See `Store.exists`."""
        with as_os_errors(uri):
            return _filesystems().exists(uri)

    def is_folder(self, uri: str) -> bool:
        """See `Store.is_folder`."""
        return self.stat(uri) is None and next(self.list(uri), None) is not None

    def create(self, uri: str, data: bytes) -> bool:
        """See `Store.create`; this one is neither atomic nor exclusive."""
        if self.exists(uri):
            return False
        self.replace(uri, data)
        return True

    def replace(self, uri: str, data: bytes) -> None:
        """See `Store.replace`."""
        with as_os_errors(uri), _filesystems().create(uri, compression_type=_UNCOMPRESSED) as file:
            file.write(data)

    def delete(self, uri: str) -> None:
        """See `Store.delete`."""
        with as_os_errors(uri):
            # Beam deletes all files that match a glob.
            _filesystems().delete([glob.escape(uri)])

    def join(self, base: str, *parts: str) -> str:
        """See `Store.join`."""
        return _filesystems().join(base, *parts)

    def folder_of(self, uri: str) -> str:
        """See `Store.folder_of`."""
        return _filesystems().split(uri)[0]
