"""What a photo's own metadata says: when it was taken, and what it shows. No pixel is decoded for it."""

import datetime
import hashlib
import io
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from PIL import Image

from beamscribe.pipelines.images import metadata_blocks, png_chunks
from beamscribe.pipelines.images.metadata_blocks import Exif, Xmp
from beamscribe.pipelines.images.pictures import LONGEST_DESCRIPTION

# A character of UTF-8 has at most 4 bytes.
_LONGEST_BYTES = 4 * LONGEST_DESCRIPTION

# Photography began later.
_FIRST_YEAR = 1800

# What Pillow's `info` has of a PNG's metadata that stands behind the picture, which it reads with the pixels only.
_RAW_EXIF = "Raw profile type exif"
_LATE = ("exif", "xmp", "XML:com.adobe.xmp", _RAW_EXIF, "Description")
# Characters of EXIF as a text that are read: more than a JPEG may have.
_LONGEST_RAW = 2**18

# Photoshop's image resources in a JPEG: a block of IPTC-IIM, and the MD5 of the one that the XMP was made with.
_IPTC_RESOURCE, _IPTC_DIGEST_RESOURCE = 0x0404, 0x0425

# Dates of EXIF (`2003:05:04 03:02:01`) and of XMP (ISO 8601, also without a time). A time zone may follow.
_TIME = re.compile(
    r"\s*(\d{4})[-:/.](\d{1,2})[-:/.](\d{1,2})(?:[T\s]+(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.(\d+))?)?)?", re.ASCII
)

# Control characters that are no white space.
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
# What cameras, phones and programs write where a description would be.
_NO_DESCRIPTIONS = re.compile(
    r"""
    (olympus|minolta|konica\ minolta|samsung|kodak|vivitar|medion|benq|polaroid)?\ *(digital\ (still\ )?camera|dsc)
    | sony\ dsc | digital\ stillcamera | dcim\b.* | samsung | <?\ *kenox\b.* | my\ beautiful\ picture | camera | image
    | default | untitled | picture | photo | jpe?g | exif[_ ]jpeg(_picture)? | lead\ technologies\b.* | applemark
    | creator:\ gd-jpeg\b.* | intel\(r\)\ jpeg\ library\b.* | file\ written\ by\ adobe\ photoshop\b.*
    | created\ with\ (the\ )?gimp\b.* | processed\ with\ vsco\b.* | ascii\W* | unicode\W* | binary\ comment
    | screenshot | oplus_\d+ | hw_?jpeg\b.* | filter:\ *-?\d.* | \{.*\}
    # Modes of Huawei's cameras.
    | (oz)?(btf|btr|bty|cbt|cof|dav|dig|edf|fac|fbt|hdr|hdrpl|mde|nor|ptf|ptfbty|ptr|rbt|rhdr|rpt|sdr|tpf|vhdr)(wo)?
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)

# The lengths and names of the character sets in EXIF's UserComment (EXIF 2.32, 4.6.5).
_CHARACTER_SET_SIZE = 8
_UNREAD_CHARACTER_SETS = (b"JIS",)


class Metadata(NamedTuple):
    """What a photo's metadata says.

    Attributes:
      taken_at: date and time of the shot, as the camera wrote it, without a time zone; None if unknown.
      description: what the photo shows, in one line of at most `LONGEST_DESCRIPTION` characters; None for none.
    """

    taken_at: datetime.datetime | None = None
    description: str | None = None


class _Blocks(NamedTuple):
    """The blocks of metadata of one photo; an empty one is not there."""

    exif: Exif
    xmp: Xmp
    iptc: dict[tuple[int, int], bytes]
    text: str
    is_iptc_newer: bool


def add_late(image: Image.Image, data: bytes) -> None:
    """Adds the metadata to `image.info` that stands behind the picture of a PNG, which is not decoded for it.

    Args:
      image: an opened image, of any format.
      data: bytes of the file.
    """
    late = png_chunks.late_metadata(data) if image.format == "PNG" else None
    if late:
        try:
            with Image.open(io.BytesIO(late), formats=("PNG",)) as other:
                image.info.update({name: other.info[name] for name in _LATE if name in other.info})
        except Exception:  # noqa: BLE001 - Pillow raises nearly anything on broken metadata, and this PNG has no more
            return


def read(image: Image.Image, data: bytes) -> Metadata:
    """Reads what the metadata of a photo says; what is broken in it is as good as not there.

    Of several descriptions, the first is taken that is one, in the order of the Metadata Working Group's "Guidelines
    for Handling Image Metadata" 2.0: EXIF's ImageDescription; then XMP's `dc:description`, or IPTC's
    Caption-Abstract if it was edited after it, which a digest of the IPTC tells. Then come those that the guidelines
    don't name: a PNG's text `Description`, and EXIF's UserComment. What cameras write there by themselves is none.

    Of several dates, the first valid one is taken of: EXIF's DateTimeOriginal, XMP's `exif:DateTimeOriginal`, XMP's
    `photoshop:DateCreated` and IPTC's date and time created in the order of the descriptions, EXIF's DateTimeDigitized.
    The last one is that of the scan where a print was scanned. EXIF's DateTime is that of the last edit, and says
    nothing.

    Args:
      image: the opened image; `add_late` adds what a PNG has behind its picture.
      data: bytes of the file.
    """
    blocks = _blocks(image, data)
    taken_at = next((moment for moment in _moments(blocks) if moment), None)
    return Metadata(taken_at, next((text for text in map(_cleaned, _descriptions(blocks)) if text), None))


def _blocks(image: Image.Image, data: bytes) -> _Blocks:
    info: dict[Any, Any] = image.info
    block = data if image.format == "TIFF" else _bytes(info.get("exif")) or _raw_exif(info.get(_RAW_EXIF))
    exif = metadata_blocks.exif(block)
    packet = exif.values.get(metadata_blocks.XMP) or _bytes(info.get("xmp"))
    iptc = exif.values.get(metadata_blocks.IPTC, b"")
    is_newer = False
    if image.format in ("JPEG", "MPO") and (resources := info.get("photoshop")):
        iptc = _bytes(resources.get(_IPTC_RESOURCE))
        digest = _bytes(resources.get(_IPTC_DIGEST_RESOURCE))
        is_newer = bool(iptc and digest) and hashlib.md5(iptc, usedforsecurity=False).digest() != digest
    text = info.get("Description")
    return _Blocks(
        exif,
        metadata_blocks.xmp(packet),
        metadata_blocks.iptc(iptc),
        str(text) if image.format == "PNG" and isinstance(text, str) else "",
        is_newer,
    )


def _bytes(value: object) -> bytes:
    """A value of Pillow's `info`, which holds texts and numbers, too."""
    return value if isinstance(value, bytes) else b""


def _raw_exif(value: object) -> bytes:
    """EXIF as ImageMagick and exiv2 write it into a PNG: a name and a length, a line each, and hexadecimal digits."""
    try:
        return bytes.fromhex("".join(value[:_LONGEST_RAW].split("\n")[3:])) if isinstance(value, str) else b""
    except ValueError:
        return b""


def _descriptions(blocks: _Blocks) -> Iterator[str]:
    yield _text(blocks.exif.values.get(metadata_blocks.DESCRIPTION, b""))
    of_xmp, of_iptc = blocks.xmp.description, _text(blocks.iptc.get(metadata_blocks.CAPTION, b""))
    yield from (of_iptc, of_xmp) if blocks.is_iptc_newer else (of_xmp, of_iptc)
    yield blocks.text
    yield _user_comment(blocks.exif.values.get(metadata_blocks.USER_COMMENT, b""), blocks.exif.is_little)


def _moments(blocks: _Blocks) -> Iterator[datetime.datetime | None]:
    exif, iptc = blocks.exif.values, blocks.iptc
    yield _moment(exif.get(metadata_blocks.TAKEN), exif.get(metadata_blocks.TAKEN_FRACTION))
    yield _moment_of(blocks.xmp.taken)
    of_xmp = _moment_of(blocks.xmp.created)
    of_iptc = _moment_of_iptc(iptc.get(metadata_blocks.DATE_CREATED, b""), iptc.get(metadata_blocks.TIME_CREATED, b""))
    yield from (of_iptc, of_xmp) if blocks.is_iptc_newer else (of_xmp, of_iptc)
    yield _moment(exif.get(metadata_blocks.DIGITIZED), exif.get(metadata_blocks.DIGITIZED_FRACTION))


def _moment(text: bytes | None, fraction: bytes | None) -> datetime.datetime | None:
    """A date and time of EXIF; the digits of its fraction of a second are a tag of their own."""
    digits = (fraction or b"").strip(b"\0 ").decode("latin-1")
    return _moment_of((text or b"").decode("latin-1"), digits if digits.isdecimal() else "")


def _moment_of_iptc(date: bytes, time: bytes) -> datetime.datetime | None:
    """A date (`20030504`) and a time (`030201+0100`) of IPTC-IIM (4.2, data sets 2:55 and 2:60)."""
    day, hour = date.decode("latin-1"), time.decode("latin-1")
    return _moment_of(f"{day[:4]}-{day[4:6]}-{day[6:8]} {hour[:2]}:{hour[2:4]}:{hour[4:6]}")


def _moment_of(text: str, fraction: str = "") -> datetime.datetime | None:
    """The date and time of a text, at midnight if it has no time; None if it is no date, or unknown, as zeros are."""
    found = _TIME.match(text)
    if not found:
        return None
    *numbers, digits = found.groups(default="")
    year, month, day, hour, minute, second = (int(number or 0) for number in numbers)
    microsecond = int((digits or fraction)[:6].ljust(6, "0"))
    try:
        moment = datetime.datetime(year, month, day, hour, minute, second, microsecond)
    except ValueError:
        return None
    return moment if moment.year >= _FIRST_YEAR else None


def _text(data: bytes) -> str:
    """Decodes a text of metadata, which should be UTF-8, and in files of old programs is that of Windows."""
    data = data.partition(b"\0")[0][:_LONGEST_BYTES]
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        # A text that is too long for its field is cut anywhere.
        if error.start >= len(data) - 3 and error.reason == "unexpected end of data":
            return data[: error.start].decode()
    return data.decode("cp1252", "ignore")


def _user_comment(data: bytes, is_little: bool) -> str:
    """Decodes EXIF's UserComment, which begins with the name of a character set."""
    name, data = data[:_CHARACTER_SET_SIZE].rstrip(b"\0 "), data[_CHARACTER_SET_SIZE:]
    if name in _UNREAD_CHARACTER_SETS:
        return ""
    if name != b"UNICODE":
        return _text(data)
    data = data[:_LONGEST_BYTES]
    # Programs differ in the order of bytes; in most scripts the high bytes are those that are the same.
    high, low = data[0::2].count(0), data[1::2].count(0)
    order = "le" if low > high or (low == high and is_little) else "be"
    return data.decode(f"utf-16-{order}", "ignore").lstrip("\ufeff").partition("\0")[0]


def _cleaned(text: str) -> str | None:
    """A description in one line, without control characters; None for what is none."""
    text = " ".join(_CONTROLS.sub("", text[: 2 * LONGEST_DESCRIPTION]).split())[:LONGEST_DESCRIPTION].rstrip()
    is_said = any(map(str.isalpha, text)) and not _NO_DESCRIPTIONS.fullmatch(text)
    return text if is_said else None
