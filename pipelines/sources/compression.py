"""Opens compressed files; their first bytes tell the compression."""

import bz2
import contextlib
import gzip
import lzma
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from beamscribe.pipelines import stores

# The exceptions that a stream raises if its bytes are damaged or end too early.
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError)
_NAMES = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz")


@contextlib.contextmanager
def opened(uri: str) -> Iterator[tuple[BinaryIO, bool]]:
    """Opens a file as a stream of uncompressed bytes. Seeking backwards decompresses again from the beginning.

    Yields:
      The stream, and whether the file is plain, that is, not compressed.

    Raises:
      OSError: the store reported an error.
    """
    with stores.opened(uri) as file:
        start = file.read(8)
        file.seek(0)
        unpacked = _unpacked(uri, file, start)
        if unpacked is None:
            yield file, True
            return
        with unpacked:
            yield unpacked, False


def _unpacked(uri: str, file: BinaryIO, start: bytes) -> BinaryIO | None:
    if start.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if start.startswith(b"BZh"):
        return cast(BinaryIO, bz2.BZ2File(file))
    # The reader of xz says of an empty file that it ends too early; that of gzip would take it for a stream of nothing.
    if start.startswith(b"\xfd7zXZ") or (not start and uri.lower().endswith(_NAMES)):
        return cast(BinaryIO, lzma.LZMAFile(file))
    return None
