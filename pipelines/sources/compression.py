"""Compressed streams, told by their first bytes."""

import bz2
import contextlib
import gzip
import lzma
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from beamscribe.pipelines import stores

# What a stream raises where its bytes are damaged or end too early.
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError)


@contextlib.contextmanager
def opened(uri: str) -> Iterator[tuple[BinaryIO, bool]]:
    """A file's uncompressed bytes, which go backwards only at the cost of a new start, and whether they are its own.

    Raises:
      OSError: as the store says.
    """
    with stores.opened(uri) as file:
        start = file.read(8)
        file.seek(0)
        unpacked = _unpacked(file, start)
        if unpacked is None:
            yield file, True
            return
        with unpacked:
            yield unpacked, False


def _unpacked(file: BinaryIO, start: bytes) -> BinaryIO | None:
    if start.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if start.startswith(b"BZh"):
        return cast(BinaryIO, bz2.BZ2File(file))
    if start.startswith(b"\xfd7zXZ"):
        return cast(BinaryIO, lzma.LZMAFile(file))
    return None
