"""Whole objects of Google Cloud Storage, through its own client."""

import functools
import os

# Waits, longer each time and by chance, where the store is too busy, out of order or hangs up (HTTP 408, 429, 5xx), and
# where what came is not what its checksum says.
PATIENCE_SECONDS = 60.0


def read(uri: str) -> bytes:
    """Reads an object.

    Raises:
      Exception: as google-cloud-storage raises it; `code` is the HTTP status.
    """
    return _blob(uri).download_as_bytes(retry=_retry())


def create(uri: str, data: bytes) -> bool:
    """Writes an object where there is none; returns whether it did."""
    from google.api_core import exceptions

    try:
        _blob(uri).upload_from_string(
            data, content_type="application/octet-stream", if_generation_match=0, retry=_retry()
        )
    except exceptions.PreconditionFailed:
        return False
    return True


def _blob(uri: str):
    from google.cloud import storage

    return storage.Blob.from_uri(uri, client=_client())


def _retry():
    from google.cloud.storage import retry

    return retry.DEFAULT_RETRY.with_timeout(PATIENCE_SECONDS)


@functools.cache
def _client():
    from google.auth import credentials
    from google.cloud import storage

    if os.environ.get("STORAGE_EMULATOR_HOST"):
        # An emulator knows no accounts, and looking for credentials costs seconds.
        return storage.Client(project="emulator", credentials=credentials.AnonymousCredentials())
    return storage.Client()
