"""Objects in Google Cloud Storage, through Google's client: single requests, all of them with the same retries."""

import base64
import contextlib
import functools
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

import google_crc32c

from beamscribe.pipelines.stores import retries
from beamscribe.pipelines.stores.base import (
    FileInfo,
    NoCredentialsError,
    RangedStore,
    RemoteFile,
    TooLongError,
    as_os_errors,
)

# A request is retried for this long, with exponential backoff and jitter, if the store is busy, fails, does not respond
# or closes the connection (HTTP 408, 429, 5xx), or if a response ends early.
RETRY_SECONDS = 60.0
# A request without a byte of a response for this long is retried.
TIMEOUT_SECONDS = 15.0
# Bytes that a stream reads in one request: large enough for a whole archive, small enough for one member of it.
_CHUNK_BYTES = 4 * 2**20
_PAGE = 1000
# The token tells whether a page is the last: a page without items need not be.
_FIELDS = "items(name,generation,size,md5Hash,contentType,contentEncoding),nextPageToken"
_NAMES = "items(name),nextPageToken"
# Connections to keep open in addition to one per processor, which reads photos: for listing, comparing and committing.
_MORE_CONNECTIONS = 32


class GcsStore(RangedStore):
    """Objects of `gs://`. `create` is exclusive, by the precondition that the object has no generation yet."""

    def read(self, uri: str, most: int | None = None) -> bytes:
        """See `Store.read`."""
        found = _Bounded(most)
        with as_os_errors(uri):
            _blob(uri).download_to_file(found, **_request_options())
        return found.getvalue()

    def head(self, uri: str, size: int) -> bytes:
        """See `Store.head`."""
        from google.api_core import exceptions

        with as_os_errors(uri):
            try:
                return _blob(uri).download_as_bytes(end=size - 1, **_request_options())[:size]
            except exceptions.RequestRangeNotSatisfiable:
                # An empty object has no first byte.
                return b""

    @contextlib.contextmanager
    def open(self, uri: str) -> Iterator[BinaryIO]:
        """See `Store.open`; the stream reads ranges of the object's current generation."""
        with as_os_errors(uri):
            stream = _stream(uri)
        with stream:
            yield cast(BinaryIO, RemoteFile(stream, uri))

    def stat(self, uri: str) -> FileInfo | None:
        """See `Store.stat`."""
        from google.api_core import exceptions

        if not _split(uri)[1]:
            return None
        with as_os_errors(uri):
            blob = _blob(uri)
            try:
                blob.reload(**_request_options())
            except exceptions.NotFound:
                return None
            return _info(blob)

    def list(self, folder: str, start: str = "", end: str = "") -> Iterator[FileInfo]:
        """See `Store.list`; the files come in order."""
        return self.list_prefix(f"{folder}/", start, end)

    def list_prefix(self, prefix: str, start: str = "", end: str = "") -> Iterator[FileInfo]:
        """See `RangedStore.list_prefix`."""
        with as_os_errors(prefix):
            yield from map(_info, _list(prefix, start, end, fields=_FIELDS, page_size=_PAGE))

    def matching(
        self, pattern: str, start: str = "", end: str = "", refused: Callable[[str], None] = lambda _: None
    ) -> Iterator[FileInfo]:
        """See `Store.matching`; the files come in order.

        Globs are those of Beam, except that `**/` also matches no folder at all, as it does in local globs.
        """
        # Beam takes seconds to import, and only globs need it.
        from apache_beam.io.filesystem import FileSystem

        matches = re.compile(re.sub(r"(?<=/)\.\*/", "(?:.*/)?", FileSystem.translate_pattern(pattern))).match
        prefix = re.split(r"[[*?]", pattern)[0]
        return (found for found in self.list_prefix(prefix, start, end) if matches(found.uri))

    def first(self, prefix: str, start: str = "") -> str | None:
        """See `RangedStore.first`."""
        with as_os_errors(prefix):
            return next((_uri(blob) for blob in _list(prefix, start, fields=_NAMES, max_results=1)), None)

    def is_folder(self, uri: str) -> bool:
        """See `Store.is_folder`."""
        return self.stat(uri) is None and self.first(f"{uri}/") is not None

    def is_taken(self, uri: str) -> bool:
        """See `Store.is_taken`; for most globs, no name starts with the same characters, so one request is enough."""
        return self.first(uri) is not None and super().is_taken(uri)

    def create(self, uri: str, data: bytes) -> bool:
        """See `Store.create`."""
        from google.api_core import exceptions

        failed: list[Exception] = []
        with as_os_errors(uri):
            try:
                _upload(_blob(uri), data, failed.append, if_generation_match=0)
            except exceptions.PreconditionFailed:
                # If a response was lost, the existing object may be the one that this call wrote.
                return bool(failed) and _holds(_blob(uri), data)
            return True

    def replace(self, uri: str, data: bytes) -> None:
        """See `Store.replace`."""
        with as_os_errors(uri):
            _upload(_blob(uri), data)

    def delete(self, uri: str) -> None:
        """See `Store.delete`."""
        from google.api_core import exceptions

        with as_os_errors(uri), contextlib.suppress(exceptions.NotFound):
            _blob(uri).delete(**_request_options())

    def join(self, base: str, *parts: str) -> str:
        """See `Store.join`."""
        return "/".join((base.rstrip("/"), *parts))

    def folder_of(self, uri: str) -> str:
        """See `Store.folder_of`."""
        return uri.rpartition("/")[0]


class _Bounded(io.BytesIO):
    """What is written to it, unless that is more than `most` bytes: the store may send more than it has listed."""

    def __init__(self, most: int | None):
        super().__init__()
        self._most = most

    def write(self, data: Any) -> int:
        if self._most is not None and self.tell() + len(data) > self._most:
            raise TooLongError(f"the object has more than {self._most:,} bytes")
        return super().write(data)


def _stream(uri: str) -> BinaryIO:
    from google.cloud.storage import fileio

    blob = _blob(uri)
    blob.reload(**_request_options())
    if blob.content_encoding:
        # The store decompresses the object, and then can't serve ranges.
        return io.BytesIO(_blob(uri).download_as_bytes(**_request_options()))
    return cast(BinaryIO, fileio.BlobReader(blob, chunk_size=_CHUNK_BYTES, **_request_options()))


def _list(prefix: str, start: str = "", end: str = "", **options: Any) -> Iterator[Any]:
    bucket, name = _split(prefix)
    offsets = {"start_offset": _split(start)[1] or None, "end_offset": _split(end)[1] or None}
    return iter(_client().list_blobs(bucket, prefix=name, **offsets, **options, **_request_options()))


def _upload(blob: Any, data: bytes, failed: Callable[[Exception], Any] = lambda _: None, **conditions: Any) -> None:
    blob.upload_from_string(data, content_type="application/octet-stream", **conditions, **_request_options(failed))


def _holds(blob: Any, data: bytes) -> bool:
    """Whether an object consists of the given bytes."""
    blob.reload(**_request_options())
    if blob.md5_hash:
        return base64.b64decode(blob.md5_hash) == hashlib.md5(data, usedforsecurity=False).digest()
    return base64.b64decode(blob.crc32c or "") == google_crc32c.value(data).to_bytes(4, "big")


def _info(blob: Any) -> FileInfo:
    version, media_type = str(blob.generation or ""), blob.content_type or ""
    if blob.content_encoding:
        # Size and MD5 are those of the compressed bytes, but reads return the decompressed ones.
        return FileInfo(_uri(blob), version, 0, "", media_type)
    return FileInfo(_uri(blob), version, blob.size or 0, base64.b64decode(blob.md5_hash or "").hex(), media_type)


def _uri(blob: Any) -> str:
    return f"gs://{blob.bucket.name}/{blob.name}"


def _split(uri: str) -> tuple[str, str]:
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    return bucket, name


def _blob(uri: str) -> Any:
    bucket, name = _split(uri)
    return _client().bucket(bucket).blob(name)


def _request_options(failed: Callable[[Exception], Any] = lambda _: None) -> dict[str, Any]:
    """The timeout and the retries of a request; `failed` is called with each transient error."""
    from google.api_core.retry import Retry

    from beamscribe.pipelines.stores import gcs_internals

    def count(error: Exception) -> None:
        retries.count()
        failed(error)

    is_transient = gcs_internals.is_transient
    return {"retry": Retry(is_transient, timeout=RETRY_SECONDS, on_error=count), "timeout": TIMEOUT_SECONDS}


@functools.cache
def _client() -> Any:
    import loky
    from google.auth import credentials, exceptions
    from google.cloud import storage

    from beamscribe.pipelines.stores import gcs_internals

    if os.environ.get("STORAGE_EMULATOR_HOST"):
        # An emulator has no accounts, and looking for credentials takes seconds.
        client = storage.Client(project="emulator", credentials=credentials.AnonymousCredentials())
    else:
        try:
            # Requests for objects need no project.
            client = storage.Client(project=None)
        except exceptions.DefaultCredentialsError:
            raise NoCredentialsError(
                "there are no credentials for Google Cloud Storage; run `gcloud auth application-default login`"
            ) from None
    gcs_internals.keep_connections(client, loky.cpu_count() + _MORE_CONNECTIONS)
    return client
