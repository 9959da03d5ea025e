"""Names in zip archives that are said to be UTF-8 and are not.

`zipfile` refuses an archive with one such name, and with it all other members.
"""

import struct
from typing import BinaryIO

from beamscribe.pipelines.stores.base import WrappedFile

# ZIP File Format Specification 6.3.10: the end of central directory record (4.3.16), which only a comment may follow;
# what precedes it in ZIP64 (4.3.14, 4.3.15); and a file header of the central directory (4.3.12).
_END = b"PK\5\6"
_END_BYTES = 22
_LONGEST_COMMENT = 2**16 - 1
_LOCATOR = b"PK\6\7"
_LOCATOR_BYTES = 20
_END_64_BYTES = 56
_HEADER = b"PK\1\2"
_HEADER_BYTES = 46
_FLAGS = 8
# Places of the flags in the header right before a member's bytes (4.3.7).
_LOCAL_FLAGS = 6
# General purpose bit flag 11 (4.4.4), of the second byte: the name is UTF-8.
_UTF_8 = 0x08


class WithoutWrongFlags(WrappedFile):
    """An archive that does not say of a name that it is UTF-8 where it is not.

    Args:
      file: the archive.
    """

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        # The places of the second bytes of flags.
        self._wrong = set(_wrong_flags(file))
        file.seek(0)

    def read(self, size: int | None = -1) -> bytes:
        """See `WrappedFile.read`."""
        start = self.tell()
        data = super().read(size)
        found = [place - start for place in self._wrong if start <= place < start + len(data)]
        if not found:
            return data
        changed = bytearray(data)
        for place in found:
            changed[place] &= ~_UTF_8
        return bytes(changed)


def _wrong_flags(file: BinaryIO) -> list[int]:
    start, shift, directory = _directory(file)
    found, place = [], 0
    while directory[place : place + 4] == _HEADER and len(directory) >= place + _HEADER_BYTES:
        name, extra, comment = struct.unpack_from("<3H", directory, place + 28)
        first = place + _HEADER_BYTES
        if directory[place + _FLAGS + 1] & _UTF_8 and not _is_utf_8(directory[first : first + name]):
            (local,) = struct.unpack_from("<I", directory, place + 42)
            found += [start + place + _FLAGS + 1, shift + local + _LOCAL_FLAGS + 1]
        place = first + name + extra + comment
    return found


def _directory(file: BinaryIO) -> tuple[int, int, bytes]:
    """The central directory: its place, how far that is from the place that the archive states, and its bytes."""
    length = file.seek(0, 2)
    tail_start = max(0, length - _END_BYTES - _LONGEST_COMMENT - _LOCATOR_BYTES - _END_64_BYTES)
    file.seek(tail_start)
    tail = file.read(length - tail_start)
    end = tail.rfind(_END)
    if end < 0 or len(tail) < end + _END_BYTES:
        return 0, 0, b""
    size, said = struct.unpack_from("<II", tail, end + 12)
    after = end
    if tail[max(end - _LOCATOR_BYTES, 0) :].startswith(_LOCATOR) and end >= _LOCATOR_BYTES + _END_64_BYTES:
        after = end - _LOCATOR_BYTES - _END_64_BYTES
        size, said = struct.unpack_from("<QQ", tail, after + 40)
    start = tail_start + after - size
    if start < 0:
        return 0, 0, b""
    file.seek(start)
    return start, start - said, file.read(size)


def _is_utf_8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
