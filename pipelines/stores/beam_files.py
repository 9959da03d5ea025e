"""Files of the other filesystems that Beam knows, such as HDFS: to be read from, not to be written captions to."""

import contextlib
import glob
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from google.api_core.exceptions import RetryError
from google.api_core.retry import Retry

from beamscribe.pipelines.stores import retries
from beamscribe.pipelines.stores.base import FileInfo, RemoteFile, Store, as_os_errors


def _may_pass(error: Exception) -> bool:
    # A ValueError is about the name: there is no such filesystem.
    lasting = isinstance(error, FileNotFoundError | PermissionError) or isinstance(error.__cause__, ValueError)
    return isinstance(error, OSError) and not lasting


_patiently = Retry(predicate=_may_pass, initial=0.5, multiplier=2.0, maximum=8.0, timeout=60.0, on_error=retries.count)


class BeamStore(Store):
    """The files of Beam's filesystems, which can create none exclusively: the last writer wins."""

    is_exclusive = False

    def read(self, uri: str) -> bytes:
        """As the base class says."""
        try:
            return _patiently(self._read)(uri)
        except RetryError as error:
            raise error.cause or OSError(str(error)) from error

    def _read(self, uri: str) -> bytes:
        with self.open(uri) as file:
            return file.read()

    @contextlib.contextmanager
    def open(self, uri: str) -> Iterator[BinaryIO]:
        """As the base class says."""
        with as_os_errors(uri):
            # By name alone a photo called `x.gz` would be unpacked.
            remote = FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED)
        with remote:
            yield cast(BinaryIO, RemoteFile(remote, uri))

    def stat(self, uri: str) -> FileInfo | None:
        """As the base class says."""
        return next(self.matching(glob.escape(uri)), None)

    def list(self, folder: str, start: str = "", end: str = "") -> Iterator[FileInfo]:
        """As the base class says."""
        return self.matching(self.join(glob.escape(folder), "**"))

    def matching(
        self, pattern: str, start: str = "", end: str = "", refused: Callable[[str], None] = lambda _: None
    ) -> Iterator[FileInfo]:
        """As the base class says."""
        with as_os_errors(pattern):
            for match in FileSystems.match([pattern]):
                for found in match.metadata_list:
                    version = f"{found.size_in_bytes}-{found.last_updated_in_seconds}"
                    yield FileInfo(found.path, version, found.size_in_bytes)

    def exists(self, uri: str) -> bool:
        """As the base class says."""
        with as_os_errors(uri):
            return FileSystems.exists(uri)

    def is_folder(self, uri: str) -> bool:
        """As the base class says."""
        return self.stat(uri) is None and next(self.list(uri), None) is not None

    def create(self, uri: str, data: bytes) -> bool:
        """As the base class says, but for another writer at the same moment."""
        if self.exists(uri):
            return False
        self.replace(uri, data)
        return True

    def replace(self, uri: str, data: bytes) -> None:
        """As the base class says."""
        with (
            as_os_errors(uri),
            FileSystems.create(uri, compression_type=CompressionTypes.UNCOMPRESSED) as file,
        ):
            file.write(data)

    def delete(self, uri: str) -> None:
        """As the base class says."""
        with as_os_errors(uri):
            # What is deleted is what matches.
            FileSystems.delete([glob.escape(uri)])

    def join(self, base: str, *parts: str) -> str:
        """As the base class says."""
        return FileSystems.join(base, *parts)

    def folder_of(self, uri: str) -> str:
        """As the base class says."""
        return FileSystems.split(uri)[0]
