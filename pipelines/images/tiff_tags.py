"""Reads the directories of a TIFF, which is also the form of EXIF, without its pictures."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

# TIFF's types of values, as `struct` formats of the same length.
_TYPES = {
    **dict.fromkeys((1, 2, 6, 7), "B"),
    **dict.fromkeys((3, 8), "H"),
    **dict.fromkeys((4, 9, 11, 13), "I"),
    **dict.fromkeys((5, 10, 12, 16, 17, 18), "Q"),
}
# As many as a directory may have; a BigTIFF may claim more.
_MOST_TAGS = 65535


class Tag(NamedTuple):
    """An entry of a directory.

    Attributes:
      number: what the value is, such as 256 for the width.
      values: the format of its values.
      place: offset of its values, bytes; it may lie beyond the end.
    """

    number: int
    values: struct.Struct
    place: int

    def raw(self, data: bytes, most: int) -> bytes:
        """The first bytes of the values: at most `most`, and fewer where the file ends."""
        return data[self.place : self.place + min(self.values.size, most)]

    def first(self, data: bytes) -> int:
        """The first of the values.

        Raises:
          struct.error, OverflowError: it lies beyond the end.
        """
        # Unpacking them all could take any amount of memory.
        form = self.values.format
        return int(struct.unpack_from(form[0] + form[-1], data, self.place)[0])


def tags(data: bytes, directory: int | None = None) -> Iterator[Tag]:
    """Yields the tags of a directory (TIFF 6.0, section 2; BigTIFF's have wider numbers).

    Args:
      data: the TIFF.
      directory: offset of the directory, bytes; None for the first one.

    Raises:
      struct.error: the directory lies beyond the end.
      OverflowError: it lies beyond what any file has.
    """
    order = "<" if data.startswith(b"II") else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    offset = struct.Struct(order + ("Q" if is_big else "I"))
    counter = struct.Struct(order + ("Q" if is_big else "H"))
    entry = struct.Struct(order + ("HHQ" if is_big else "HHI"))
    if directory is None:
        (directory,) = offset.unpack_from(data, 8 if is_big else 4)
    (count,) = counter.unpack_from(data, directory)
    for index in range(min(count, _MOST_TAGS)):
        place = directory + counter.size + index * (entry.size + offset.size)
        number, kind, length = entry.unpack_from(data, place)
        values = struct.Struct(f"{order}{length}{_TYPES.get(kind, 'B')}")
        place += entry.size
        if values.size > offset.size:
            (place,) = offset.unpack_from(data, place)
        yield Tag(number, values, place)
