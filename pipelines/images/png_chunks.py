"""The chunks of a PNG, and the metadata among them that stands behind the picture."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">I4s")
_CHECKSUM_SIZE = 4
# Far more than any encoder makes of the largest photo; each takes a microsecond.
MOST_CHUNKS = 2**17

_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")


class Chunk(NamedTuple):
    """A chunk of a PNG.

    Attributes:
      kind: its name, such as `b"IDAT"`.
      start, end: where its content begins and ends, bytes.
    """

    kind: bytes
    start: int
    end: int


def chunks(data: bytes) -> Iterator[Chunk]:
    """Yields the chunks of a PNG, the last one, IEND, too (PNG specification, third edition, 5.3).

    Raises:
      ValueError: the file ends before that, or has more than `MOST_CHUNKS` chunks.
    """
    at = len(_SIGNATURE)
    for _ in range(MOST_CHUNKS):
        if at + _HEADER.size > len(data):
            raise ValueError("the last chunk is missing")
        length, kind = _HEADER.unpack_from(data, at)
        chunk = Chunk(kind, at + _HEADER.size, at + _HEADER.size + length)
        at = chunk.end + _CHECKSUM_SIZE
        if at > len(data):
            raise ValueError("a chunk is cut short")
        yield chunk
        if kind == b"IEND":
            return
    raise ValueError(f"there are more than {MOST_CHUNKS} chunks")


def late_metadata(data: bytes) -> bytes | None:
    """A PNG that has only what a PNG's header and the metadata behind its picture are; None where there is none behind.

    A codec reads this metadata from it without decoding the picture.
    """
    header, late, is_late = b"", [], False
    try:
        for kind, start, end in chunks(data):
            whole = slice(start - _HEADER.size, end + _CHECKSUM_SIZE)
            if kind == b"IHDR" and not header:
                header = data[whole]
            elif kind == b"IDAT":
                is_late = True
            elif is_late and kind in _METADATA:
                late.append(data[whole])
    except ValueError:
        # What there is before the damage counts.
        pass
    return _SIGNATURE + header + b"".join(late) + _HEADER.pack(0, b"IDAT") if header and late else None
