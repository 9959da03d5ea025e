"""Objects of Google Cloud Storage, through its own client: single requests only, each with the same patience.

Everything here raises what google-cloud-storage raises; `code` is the HTTP status.
"""

import base64
import contextlib
import functools
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple, cast

import google_crc32c
from apache_beam.io.filesystem import FileSystem

from beamscribe.pipelines.stores import retries

# Waits, longer each time and by chance, where the store is too busy, out of order, silent or hangs up (HTTP 408, 429,
# 5xx), and where an answer ends early.
PATIENCE_SECONDS = 60.0
# Without a byte of an answer, after which a request is made again.
TIMEOUT_SECONDS = 15.0
# What a stream reads at once: large enough for archives, small enough for one member of them.
_CHUNK_BYTES = 4 * 2**20
_PAGE = 1000
# With the token: a page without any item need not be the last.
_FIELDS = "items(name,generation,size,md5Hash,contentType,contentEncoding),nextPageToken"
_NAMES = "items(name),nextPageToken"
# Kept open besides one for each processor, whose photos are read at once: for what lists, compares and commits.
_MORE_CONNECTIONS = 32


class FileInfo(NamedTuple):
    """What a remote store says of a file.

    Attributes:
      uri: its URI.
      version: of its bytes.
      size: bytes; 0 where that is not known.
      md5: of the bytes, hexadecimal; empty where the store does not say.
      media_type: what the file was said to be when it was written; empty where the store does not say.
    """

    uri: str
    version: str
    size: int
    md5: str = ""
    media_type: str = ""


class NoCredentialsError(OSError):
    """Nothing says who asks, for any object: unlike a refusal, no failure of a single photo, and the job's end."""


def read(uri: str) -> bytes:
    """Reads an object."""
    return _blob(uri).download_as_bytes(**_patience())


def head(uri: str, size: int) -> bytes:
    """The first bytes of an object."""
    from google.api_core import exceptions

    try:
        return _blob(uri).download_as_bytes(end=size - 1, **_patience())[:size]
    except exceptions.RequestRangeNotSatisfiable:
        # There is no first byte of one that is empty.
        return b""


def opened(uri: str) -> BinaryIO:
    """An object as a stream that can seek, and reads ranges of the version that there is now."""
    from google.cloud.storage import fileio

    blob = _blob(uri)
    blob.reload(**_patience())
    if blob.content_encoding:
        # The store unpacks it, and then knows no ranges.
        return io.BytesIO(read(uri))
    return cast(BinaryIO, fileio.BlobReader(blob, chunk_size=_CHUNK_BYTES, **_patience()))


def create(uri: str, data: bytes) -> bool:
    """Writes an object where there is none; returns whether it did."""
    from google.api_core import exceptions

    failed: list[Exception] = []
    blob = _blob(uri)
    try:
        _upload(blob, data, failed.append, if_generation_match=0)
    except exceptions.PreconditionFailed:
        # Where an answer was lost, what is there may be what this call has written.
        return bool(failed) and _holds(_blob(uri), data)
    return True


def replace(uri: str, data: bytes) -> None:
    """Writes an object, over what was there."""
    _upload(_blob(uri), data)


def delete(uri: str) -> None:
    """Deletes an object; one that is gone already is no error."""
    from google.api_core import exceptions

    with contextlib.suppress(exceptions.NotFound):
        _blob(uri).delete(**_patience())


def metadata(uri: str) -> FileInfo | None:
    """What the store says of an object; None where there is none of that name."""
    from google.api_core import exceptions

    if not _split(uri)[1]:
        return None
    blob = _blob(uri)
    try:
        blob.reload(**_patience())
    except exceptions.NotFound:
        return None
    return _info(blob)


def listed(prefix: str, start: str = "", end: str = "") -> Iterator[FileInfo]:
    """The objects whose URI begins with a text, in order; from `start` on and before `end`, where they are given."""
    return map(_info, _list(prefix, start, end, fields=_FIELDS, page_size=_PAGE))


def matching(pattern: str, start: str = "", end: str = "") -> Iterator[FileInfo]:
    """The objects that match a glob, in order; `start` and `end` are as in `listed`.

    Beam's globs, but for `**/`, which is no folder, too, as in local ones.
    """
    matches = re.compile(re.sub(r"(?<=/)\.\*/", "(?:.*/)?", FileSystem.translate_pattern(pattern))).match
    return (found for found in listed(re.split(r"[[*?]", pattern)[0], start, end) if matches(found.uri))


def first(prefix: str, start: str = "") -> str | None:
    """The first object whose URI begins with a text, from `start` on; None where there is none."""
    return next((_uri(blob) for blob in _list(prefix, start, fields=_NAMES, max_results=1)), None)


def _list(prefix: str, start: str = "", end: str = "", **options: Any) -> Iterator[Any]:
    bucket, name = _split(prefix)
    offsets = {"start_offset": _split(start)[1] or None, "end_offset": _split(end)[1] or None}
    return iter(_client().list_blobs(bucket, prefix=name, **offsets, **options, **_patience()))


def _upload(blob: Any, data: bytes, failed: Callable[[Exception], Any] = lambda _: None, **conditions: Any) -> None:
    blob.upload_from_string(data, content_type="application/octet-stream", **conditions, **_patience(failed))


def _holds(blob: Any, data: bytes) -> bool:
    """Whether an object has these bytes."""
    blob.reload(**_patience())
    if blob.md5_hash:
        return base64.b64decode(blob.md5_hash) == hashlib.md5(data, usedforsecurity=False).digest()
    return base64.b64decode(blob.crc32c or "") == google_crc32c.value(data).to_bytes(4, "big")


def _info(blob: Any) -> FileInfo:
    version, media_type = str(blob.generation or ""), blob.content_type or ""
    if blob.content_encoding:
        # Size and MD5 are of the packed bytes, which nobody gets to see.
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


def _patience(failed: Callable[[Exception], Any] = lambda _: None) -> dict[str, Any]:
    """How long a request may take and how often it is made; `failed` is called with each error that may pass."""
    from google.api_core.retry import Retry
    from google.cloud.storage import retry

    def count(error: Exception) -> None:
        retries.count()
        failed(error)

    may_pass = retry.DEFAULT_RETRY._predicate
    return {"retry": Retry(may_pass, timeout=PATIENCE_SECONDS, on_error=count), "timeout": TIMEOUT_SECONDS}


@functools.cache
def _client() -> Any:
    import loky
    from google.auth import credentials, exceptions
    from google.cloud import storage
    from requests.adapters import HTTPAdapter

    if os.environ.get("STORAGE_EMULATOR_HOST"):
        # An emulator knows no accounts, and looking for credentials costs seconds.
        client = storage.Client(project="emulator", credentials=credentials.AnonymousCredentials())
    else:
        try:
            # Objects belong to no project.
            client = storage.Client(project=None)
        except exceptions.DefaultCredentialsError:
            raise NoCredentialsError(
                "there are no credentials for Google Cloud Storage; run `gcloud auth application-default login`"
            ) from None
    for scheme in ("http://", "https://"):
        client._http.mount(scheme, HTTPAdapter(pool_maxsize=loky.cpu_count() + _MORE_CONNECTIONS))
    return client
