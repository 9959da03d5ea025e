"""Reads the blocks of metadata in photos: EXIF, IPTC-IIM and XMP. What is broken in them is as good as not there."""

import struct
from typing import NamedTuple
from xml.etree import ElementTree

from beamscribe.pipelines.images import tiff_tags

# Bytes of a block of XMP or IPTC that are read: some hold lists of all edits, which take long.
_LONGEST = 2**20

# EXIF 2.32, 4.6.4 and 4.6.5, and the tags of TIFF with other blocks.
DESCRIPTION, XMP, IPTC, _EXIF = 0x010E, 0x02BC, 0x83BB, 0x8769
TAKEN, DIGITIZED, USER_COMMENT, TAKEN_FRACTION, DIGITIZED_FRACTION = 0x9003, 0x9004, 0x9286, 0x9291, 0x9292
_WANTED = (DESCRIPTION, XMP, IPTC, TAKEN, DIGITIZED, USER_COMMENT, TAKEN_FRACTION, DIGITIZED_FRACTION)

# IPTC-IIM 4.2: record and number of a data set.
CAPTION, DATE_CREATED, TIME_CREATED = (2, 120), (2, 55), (2, 60)
_IPTC_MARK = 0x1C

_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_XMP_NAMES = {
    "description": "{http://purl.org/dc/elements/1.1/}description",
    "taken": "{http://ns.adobe.com/exif/1.0/}DateTimeOriginal",
    "created": "{http://ns.adobe.com/photoshop/1.0/}DateCreated",
}
_XMP_LOCAL_NAMES = tuple(tag.partition("}")[2].encode() for tag in _XMP_NAMES.values())
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"


class Exif(NamedTuple):
    """What EXIF says.

    Attributes:
      values: the bytes of the tags that are named in this module, by their numbers.
      is_little: whether numbers in it have the low byte first.
    """

    values: dict[int, bytes]
    is_little: bool


class Xmp(NamedTuple):
    """What XMP says.

    Attributes:
      description: `dc:description` in its default language; empty if there is none.
      taken: `exif:DateTimeOriginal`; empty if there is none.
      created: `photoshop:DateCreated`; empty if there is none.
    """

    description: str = ""
    taken: str = ""
    created: str = ""


def exif(data: bytes) -> Exif:
    """Reads EXIF (EXIF 2.32, 4.6), or a TIFF, which has the same form.

    Args:
      data: the TIFF, which the letters `Exif` and two bytes of 0 may precede.
    """
    data = data.removeprefix(b"Exif\0\0")
    values: dict[int, bytes] = {}
    # Of a damaged block, what stands before the damage counts.
    try:
        directory = _wanted(data, None, values)
        if directory is not None:
            _wanted(data, directory, values)
    except (struct.error, OverflowError):
        pass
    return Exif(values, data.startswith(b"II"))


def _wanted(data: bytes, directory: int | None, values: dict[int, bytes]) -> int | None:
    """Adds the tags of a directory to `values`, and returns the offset of the directory of EXIF's own tags."""
    found = None
    for tag in tiff_tags.tags(data, directory):
        if tag.number in _WANTED and tag.number not in values:
            values[tag.number] = tag.raw(data, _LONGEST)
        elif tag.number == _EXIF:
            found = tag.first(data)
    return found


def iptc(data: bytes) -> dict[tuple[int, int], bytes]:
    """Reads the data sets of IPTC-IIM (version 4.2): the first value of each, by record and number."""
    values: dict[tuple[int, int], bytes] = {}
    at, end = 0, min(len(data), _LONGEST)
    while at + 5 <= end and data[at] == _IPTC_MARK:
        length = int.from_bytes(data[at + 3 : at + 5])
        start = at + 5
        if length & 0x8000:
            # The length's own length.
            size = length & 0x7FFF
            if size > 4:
                break
            length = int.from_bytes(data[start : start + size])
            start += size
        values.setdefault((data[at + 1], data[at + 2]), data[start : start + length])
        at = start + length
    return values


def xmp(packet: bytes) -> Xmp:
    """Reads XMP (ISO 16684-1), which in photos is UTF-8.

    Entities, by which a few bytes can become billions, are not used in XMP: a packet that declares some is not read.
    """
    packet = packet.strip(b"\0 \t\r\n")
    # In UTF-16, which has bytes of 0, the parser would see a declaration that is not found here.
    is_refused = len(packet) > _LONGEST or b"<!DOCTYPE" in packet or b"\0" in packet
    if is_refused or not any(name in packet for name in _XMP_LOCAL_NAMES):
        return Xmp()
    try:
        # For another encoding that the packet declares, Python would import a module.
        root = ElementTree.fromstring(packet, ElementTree.XMLParser(encoding="utf-8"))
    except (ElementTree.ParseError, ValueError):
        return Xmp()
    # Other descriptions, of earlier versions or of regions of the photo, are nested in these.
    about = [node for rdf in root.iter(f"{_RDF}RDF") for node in rdf.findall(f"{_RDF}Description")]
    return Xmp(**{name: _xmp_value(about, tag) for name, tag in _XMP_NAMES.items()})


def _xmp_value(about: list[ElementTree.Element], tag: str) -> str:
    """A property's first value, of several languages' that of the default one; it may be an attribute, too."""
    for node in about:
        if text := node.get(tag):
            return text
        for found in node.findall(tag):
            items = list(found.iter(f"{_RDF}li"))
            items.sort(key=lambda item: item.get(_LANGUAGE) != "x-default")
            texts = (item.text or "" for item in [*items, found])
            if text := next((text for text in texts if text.strip()), ""):
                return text
    return ""
