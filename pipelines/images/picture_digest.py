"""A digest of a photo's picture that stays the same when a program edits the metadata around it."""

import hashlib
import re
import struct
from collections.abc import Callable, Iterator

from beamscribe.pipelines.images import png_chunks

# A piece of a picture: some bytes of the file, or other bytes.
_Piece = slice | bytes

# Markers of JPEG that a length follows, and the last one, EOI. Within coded data, FF is followed by 00 or by one of the
# markers RST0 to RST7. The FF is the last of its kind, so that a run of fill bytes is searched once.
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
_EOI, _SOS, _COM = 0xD9, 0xDA, 0xFE
_APP0, _APP14, _APP15 = 0xE0, 0xEE, 0xEF
# Far more than any encoder makes; each takes a microsecond.
_MOST_PIECES = 2**17

# The chunks that decide on pixels. APNG's sequence numbers are left out: they change where data is split anew.
_PNG_KINDS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"acTL", b"fcTL", b"fdAT")
_PNG_NUMBERED = (b"fcTL", b"fdAT")
_PNG_SPLIT = (b"IDAT", b"fdAT")

_WEBP_HEADER = 12
_WEBP_CHUNK = struct.Struct("<4sI")
_WEBP_KINDS = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
# VP8X is there because of metadata, and says what metadata there is. Its last bytes are the size of the canvas.
_WEBP_CANVAS = slice(4, 10)


class _Damaged(Exception):  # noqa: N818 - it says what is wrong with a file
    """A file can't be read to the end of its picture."""


def image_sha256(data: bytes, sha256: str | None = None) -> str:
    """SHA-256 of what the pixels of a photo are decoded from, and of nothing else, hexadecimal.

    Each format's specification says which parts these are:

    - JPEG (ITU-T T.81, annex B): from SOI to the first EOI, or to the end of a file that has none, without the segments
      APPn and COM. Adobe's APP14, which says how the colours are stored, counts.
    - PNG (third edition): IHDR, PLTE, tRNS, and what is in IDAT and in the chunks of an animation, however it is split.
    - WebP (RFC 9649): VP8, VP8L, ALPH, ANIM and ANMF, and the size of an animation's canvas.
    - Other formats, and files that can't be read to the end of their picture: all bytes.

    Args:
      data: bytes of the image file.
      sha256: SHA-256 of them, hexadecimal, where the caller knows it.
    """
    pieces = _pieces_of(data)
    if pieces:
        digest, view = hashlib.sha256(), memoryview(data)
        try:
            for piece in pieces(data):
                digest.update(view[piece] if isinstance(piece, slice) else piece)
            return digest.hexdigest()
        except _Damaged:
            pass
    return sha256 or hashlib.sha256(data).hexdigest()


def _pieces_of(data: bytes) -> Callable[[bytes], Iterator[_Piece]] | None:
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png
    return _webp if data.startswith(b"RIFF") and data[8:12] == b"WEBP" else None


def _jpeg(data: bytes) -> Iterator[_Piece]:
    """Yields the pieces of a JPEG.

    Raises:
      _Damaged: a segment is cut short, or there is no scan.
    """
    yield slice(0, 2)
    # From the first scan on, `kept` is where the bytes begin that are not yielded yet.
    at, kept = 2, -1
    for _ in range(_MOST_PIECES):
        found = _MARKER.search(data, at)
        start, code = (found.start(), data[found.start() + 1]) if found else (len(data), _EOI)
        if code == _EOI:
            break
        at = start + 2 + int.from_bytes(data[start + 2 : start + 4])
        if not start + 4 <= at <= len(data):
            raise _Damaged
        is_left_out = code == _COM or (_APP0 <= code <= _APP15 and not _is_adobe(data, start))
        if kept >= 0 and is_left_out:
            yield slice(kept, start)
            kept = at
        elif kept < 0:
            # Programs that edit metadata write what is before the first scan anew, without bytes between segments.
            yield slice(start, start if is_left_out else at)
            kept = at if code == _SOS else -1
    else:
        raise _Damaged
    if kept < 0:
        raise _Damaged
    yield slice(kept, start + 2)


def _is_adobe(data: bytes, start: int) -> bool:
    return data[start + 1] == _APP14 and data.startswith(b"Adobe", start + 4)


def _png(data: bytes) -> Iterator[_Piece]:
    """Yields the pieces of a PNG: for each chunk, or sequence of parts of a picture, its kind, content and length.

    Raises:
      _Damaged: the file ends before its last chunk.
    """
    last, length = b"", 0
    try:
        for kind, start, end in png_chunks.chunks(data):
            if kind not in _PNG_KINDS:
                continue
            start = min(start + 4 * (kind in _PNG_NUMBERED), end)
            if kind != last or kind not in _PNG_SPLIT:
                yield length.to_bytes(8) + kind
                last, length = kind, 0
            length += end - start
            yield slice(start, end)
    except ValueError:
        raise _Damaged from None
    yield length.to_bytes(8)


def _webp(data: bytes) -> Iterator[_Piece]:
    """Yields the pieces of a WebP: the kind, the content and the length of each chunk.

    Raises:
      _Damaged: the file is shorter than it says, or has no picture.
    """
    at, has_picture, canvas = _WEBP_HEADER, False, b""
    file_end = 8 + int.from_bytes(data[4:8], "little")
    if file_end > len(data):
        raise _Damaged
    for _ in range(_MOST_PIECES):
        if at + _WEBP_CHUNK.size > file_end:
            break
        kind, length = _WEBP_CHUNK.unpack_from(data, at)
        start = at + _WEBP_CHUNK.size
        # Chunks begin at even offsets.
        at = start + length + length % 2
        if start + length > file_end:
            raise _Damaged
        if kind == b"VP8X":
            canvas = data[start : start + length][_WEBP_CANVAS]
        elif kind in _WEBP_KINDS:
            has_picture = has_picture or kind != b"ANIM"
            yield kind + (canvas if kind == b"ANIM" else b"")
            yield slice(start, start + length)
            yield length.to_bytes(8)
    else:
        raise _Damaged
    if not has_picture:
        raise _Damaged
