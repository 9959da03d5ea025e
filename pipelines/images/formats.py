"""Tells image formats by the bytes of a file, as the command `file` does, and never by its name."""

import contextlib
import itertools
import re
import struct
from collections.abc import Iterator

from beamscribe.pipelines.images import tiff_tags

_JPEG2000_CODESTREAM = b"\xff\x4f\xff\x51"

# The first bytes of the formats that are decoded, and the names of Pillow's codecs.
_DECODED = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (_JPEG2000_CODESTREAM, "JPEG2000"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
)
# Pillow's codecs for the brands of ISO media files. The brands `mif1` and `msf1` may hold HEIF or AVIF: the AVIF codec
# refuses HEIF at once.
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), ("HEIF",)),
    **dict.fromkeys((b"avif", b"avis"), ("AVIF",)),
    **dict.fromkeys((b"mif1", b"msf1"), ("AVIF", "HEIF")),
}
_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)

# The first bytes of formats that are not decoded. They are compared before `_DECODED`, since some match both.
_NOT_DECODED = (
    (b"\xff\xd8\xff\xf7", "JPEG-LS"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"8BPS", "Photoshop (PSD)"),
    (b"gimp xcf", "GIMP (XCF)"),
    (b"%PDF-", "PDF"),
    (b"%!PS", "PostScript (PS, EPS)"),
    (b"\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (b"AT&TFORM", "DjVu"),
    (b"II\x1a\0\0\0HEAPCCDR", "camera RAW (CRW)"),
    (b"FUJIFILMCCD-RAW", "camera RAW (RAF)"),
    (b"IIRO", "camera RAW (ORF)"),
    (b"IIRS", "camera RAW (ORF)"),
    (b"MMOR", "camera RAW (ORF)"),
    (b"IIU\0", "camera RAW (RW2)"),
    (b"FOVb", "camera RAW (X3F)"),
    (b"\0MRM", "camera RAW (MRW)"),
    (b"\0\0\x02\0\0\0\0\0", "TGA"),
    (b"\0\0\x0a\0\0\0\0\0", "TGA"),
    (b"\0\0\1\0", "icon (ICO)"),
    (b"\0\0\2\0", "cursor (CUR)"),
    (b"icns", "icon (ICNS)"),
    (b"\x8aMNG", "MNG"),
    (b"\x8bJNG", "JNG"),
    (b"BPG\xfb", "BPG"),
    (b"FLIF", "FLIF"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"\x0a\x05\x01\x08", "PCX"),
    (b"\xd7\xcd\xc6\x9a", "Windows metafile (WMF)"),
)
_NETPBM = re.compile(rb"P[1-7]\s(?:#|\s*\d+\s|WIDTH)")

_NEW_SUBFILE_TYPE = 254
_SUB_IFDS = 330
_DNG_VERSION = 50706
# Tags of the offsets and lengths of a page's strips or tiles.
_EXTENTS = ((273, 279), (324, 325))


def codecs(data: bytes) -> tuple[str, ...]:
    """The names of Pillow's codecs to try on a file; empty if the file does not look like a photo."""
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], ())
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return ("WEBP",)
    if data.startswith(b"BM"):
        # A text may begin with these two letters, too.
        is_bmp = data[6:10] == bytes(4) or _little(data, 14, 4) in _BMP_HEADER_SIZES
        return ("BMP",) if is_bmp else ()
    return tuple(name for start, name in _DECODED if data.startswith(start))


def unsupported(data: bytes) -> str | None:
    """The name of a format that is recognized but not decoded; None for all others."""
    if data[4:8] == b"ftyp" and data[8:12] not in _BRANDS:
        brand = data[8:12]
        return "camera RAW (CR3)" if brand == b"crx " else f"ISO media of the brand {brand!r}"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _camera_raw(data)
    if _NETPBM.match(data):
        return "Netpbm (PBM, PGM, PPM, PAM)"
    if _is_svg(data[:4096]):
        return "SVG"
    return next((name for start, name in _NOT_DECODED if data.startswith(start)), None)


def _is_svg(head: bytes) -> bool:
    head = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return head.startswith(b"<svg") or (
        head.startswith((b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in head and b"<html" not in head
    )


def _camera_raw(data: bytes) -> str | None:
    """The kind of camera RAW in a TIFF, or None. Pillow can't develop RAW, and may decode its thumbnail instead."""
    if data[8:10] == b"CR":
        return "camera RAW (CR2)"
    found = {}
    with contextlib.suppress(struct.error, OverflowError):
        for tag, numbers, place in _tiff_tags(data):
            if tag in (_NEW_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION):
                found[tag] = numbers.unpack_from(data, place)
    if _DNG_VERSION in found:
        return "camera RAW (DNG)"
    # Bit 0: the page is a thumbnail of another page, which NEF, ARW and others store in a sub-directory of it.
    if _SUB_IFDS in found and found.get(_NEW_SUBFILE_TYPE, (0,))[:1] == (1,):
        return "camera RAW (NEF, ARW or another format based on TIFF)"
    return None


def _tiff_tags(data: bytes) -> Iterator[tiff_tags.Tag]:
    """Yields the tags of a TIFF's first page.

    Raises:
      struct.error, OverflowError: tags or values lie beyond the end of the file.
    """
    for tag in tiff_tags.tags(data):
        if tag.place + tag.values.size > len(data):
            raise struct.error(f"tag {tag.number} ends at {tag.place + tag.values.size}, the file at {len(data)}")
        yield tag


def is_cut_short(data: bytes) -> bool:
    """Whether a file that can't be decoded lacks the end that its format or its header calls for."""
    if data.startswith(b"\xff\xd8\xff"):
        return b"\xff\xd9" not in data[-64:]
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-64:]
    if data.startswith(b"GIF8"):
        return not data.rstrip(b"\0").endswith(b";")
    if data.startswith(b"RIFF"):
        return len(data) < _little(data, 4, 4) + 8
    if data.startswith(b"BM"):
        return len(data) < _little(data, 2, 4)
    if data.startswith((b"II", b"MM")):
        return _is_tiff_cut_short(data)
    if data.startswith(_JPEG2000_CODESTREAM):
        return not data.endswith(b"\xff\xd9")
    return _last_box_ends(data) != len(data)


def _is_tiff_cut_short(data: bytes) -> bool:
    wanted = set(itertools.chain(*_EXTENTS))
    try:
        found = {tag: values.unpack_from(data, place) for tag, values, place in _tiff_tags(data) if tag in wanted}
    except (struct.error, OverflowError):
        return True
    extents = (zip(found.get(starts, ()), found.get(lengths, ()), strict=False) for starts, lengths in _EXTENTS)
    return any(start + length > len(data) for start, length in itertools.chain(*extents))


def _last_box_ends(data: bytes) -> int:
    """The offset at which the boxes of an ISO media or JPEG 2000 file end, by the sizes that they state."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4])
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16])
        if size < 8:
            # 0 means "to the end of the file"; other sizes are invalid.
            return len(data)
        at += size
    return at


def webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Width and height of an extended WebP's canvas, for which the codec allocates memory at once; None for others."""
    if data[12:16] != b"VP8X" or len(data) < 30:
        return None
    return _little(data, 24, 3) + 1, _little(data, 27, 3) + 1


def jpeg2000_levels(data: bytes) -> int:
    """How many times a JPEG 2000 can be halved while it is decoded; 0 if unknown."""
    start = data.find(_JPEG2000_CODESTREAM)
    marker = data.find(b"\xff\x52\x00", start)
    return data[marker + 9] if 0 <= start < marker < len(data) - 9 else 0


def without_metadata(data: bytes) -> bytes:
    """Removes metadata that can make a codec fail on an intact photo; returns most formats unchanged."""
    if data[4:12] in (b"ftypavif", b"ftypavis", b"ftypmif1"):
        # This renames the type of the EXIF item: the codec ignores items of unknown types.
        return data.replace(b"Exif", b"none", 1)
    return _png_without_text(data) if data.startswith(b"\x89PNG") else data


def _png_without_text(data: bytes) -> bytes:
    """Removes the texts and the colour profile: the chunks that may be compressed."""
    kept = [data[:8]]
    at = 8
    while at < len(data):
        end = at + int.from_bytes(data[at : at + 4]) + 12
        if data[at + 4 : at + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _little(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(data[start : start + length], "little")
