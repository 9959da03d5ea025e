"""What photos' own metadata says, in every format, and that broken metadata says nothing and costs nothing."""

import datetime
import hashlib
import io
import random
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pillow_heif
import pytest
from PIL import Image, PngImagePlugin

from beamscribe.pipelines.images import metadata_blocks, photo_metadata, to_pixels
from beamscribe.pipelines.images.process_pool import ImagePool
from tests.test_process_pool import misbehave, said
from tests.test_to_pixels import encoded, png_chunk, quadrants

pillow_heif.register_heif_opener()

TAKEN = datetime.datetime(2003, 5, 4, 3, 2, 1, 250_000)
XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
 xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/">
 <rdf:Description rdf:about="" {attributes}>{elements}</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


def xmp(elements: str = "", attributes: str = "") -> bytes:
    return XMP.format(elements=elements, attributes=attributes).encode()


def described_by_xmp(text: str) -> bytes:
    return xmp(f'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{text}</rdf:li></rdf:Alt></dc:description>')


def exif(own: dict[int, object] | None = None, **first: object) -> bytes:
    """EXIF with tags of its own directory, and with tags of the first one."""
    block = Image.Exif()
    for name, value in first.items():
        block[{"description": 0x010E, "date": 0x0132, "orientation": 0x0112}[name]] = value
    block.get_ifd(0x8769).update(own or {})
    return block.tobytes()


def iptc(**values: bytes) -> bytes:
    numbers = {"caption": 120, "date": 55, "time": 60}
    return b"".join(b"\x1c\2" + struct.pack(">BH", numbers[name], len(value)) + value for name, value in values.items())


def with_iptc(jpeg: bytes, block: bytes, digest: bytes | None = None) -> bytes:
    resources = [(0x0404, block), *([(0x0425, digest)] if digest else [])]
    content = b"Photoshop 3.0\0" + b"".join(
        b"8BIM" + struct.pack(">HHI", code, 0, len(data)) + data + bytes(len(data) % 2) for code, data in resources
    )
    return jpeg[:2] + b"\xff\xed" + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def of(data: bytes):
    picture = to_pixels.convert(data, 16)
    assert picture.failure is None and picture.fault is None
    return picture


def jpeg(**options) -> bytes:
    return encoded(quadrants(), "JPEG", **options)


DATES = {0x9003: "2003:05:04 03:02:01", 0x9291: "25"}
KINDS = ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_says_it_in_exif(kind):
    block = exif(DATES, description="A dog on a beach.", orientation=6)
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = of(encoded(quadrants(), kind, exif=block, **options))
    assert (picture.taken_at, picture.description) == (TAKEN, "A dog on a beach.")
    # The plugin of HEIF has the picture turned as the file's own structure says, and not by EXIF.
    assert picture.orientation == (1 if kind == "HEIF" else 6)
    nothing = of(encoded(quadrants(), kind, **options))
    assert (nothing.taken_at, nothing.description, nothing.orientation) == (None, None, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_says_it_in_xmp(kind):
    packet = xmp(
        '<dc:description><rdf:Alt><rdf:li xml:lang="de">Ein Hund</rdf:li><rdf:li xml:lang="x-default">A dog, Übersee'
        "</rdf:li></rdf:Alt></dc:description>",
        'exif:DateTimeOriginal="2003-05-04T03:02:01.25+02:00"',
    )
    if kind == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", packet.decode())
        data = encoded(quadrants(), kind, pnginfo=texts)
    elif kind == "TIFF":
        data = encoded(quadrants(), kind, tiffinfo={700: packet})
    else:
        data = encoded(quadrants(), kind, xmp=packet)
    picture = of(data)
    assert (picture.taken_at, picture.description) == (TAKEN, "A dog, Übersee")


def test_a_tiff_says_it_in_iptc_too():
    data = encoded(quadrants(), "TIFF", tiffinfo={33723: iptc(caption=b"A dog", date=b"20030504", time=b"030201+0100")})
    picture = of(data)
    assert (picture.taken_at, picture.description) == (TAKEN.replace(microsecond=0), "A dog")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_orientation_is_the_one_that_was_applied(kind, orientation):
    data = encoded(quadrants(), kind, exif=exif(orientation=orientation))
    picture = of(data)
    assert picture.orientation == orientation
    assert (picture.width, picture.height) == ((40, 60) if orientation >= 5 else (60, 40))
    with Image.open(io.BytesIO(data)) as image:
        assert to_pixels.convert_image(image, 16).orientation == orientation


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_is_1(orientation):
    assert of(jpeg(exif=exif(orientation=orientation))).orientation == 1


# --- PNG ------------------------------------------------------------------------------------------------------------


def behind(png: bytes, *chunks: bytes) -> bytes:
    end = png.rindex(b"IEND") - 4
    return png[:end] + b"".join(chunks) + png[end:]


def test_metadata_behind_the_picture_of_a_png_is_read_before_the_picture_is_decoded(monkeypatch):
    block = exif(DATES, orientation=6)
    itxt = b"XML:com.adobe.xmp\0\0\0\0\0" + described_by_xmp("A dog")
    data = behind(
        encoded(quadrants(), "PNG"), png_chunk(b"eXIf", block.removeprefix(b"Exif\0\0")), png_chunk(b"iTXt", itxt)
    )
    picture = of(data)
    assert (picture.taken_at, picture.description, picture.orientation) == (TAKEN, "A dog", 6)
    assert (picture.width, picture.height) == (40, 60)

    def load(self):
        raise AssertionError("it was decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    refused = to_pixels.convert(data, 16, max_pixels=2399)
    assert (refused.taken_at, refused.description, refused.orientation) == (TAKEN, "A dog", 6)


def test_the_orientation_of_xmp_counts_where_exif_has_none_behind_the_picture_of_a_png_too():
    itxt = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(attributes='tiff:Orientation="6"'))
    png = encoded(quadrants(), "PNG")
    for data in (behind(png, itxt), png[:33] + itxt + png[33:]):
        picture = of(data)
        assert (picture.orientation, picture.width, picture.height) == (6, 40, 60)


def test_broken_metadata_behind_the_picture_of_a_png_costs_nothing():
    too_long = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 * 10**8)))
    block = png_chunk(b"eXIf", exif(DATES, orientation=6).removeprefix(b"Exif\0\0"))
    picture = of(behind(encoded(quadrants(), "PNG"), block, too_long))
    assert (picture.orientation, picture.taken_at, picture.width) == (6, TAKEN, 40)


@pytest.mark.parametrize("kind", [b"tEXt", b"iTXt", b"zTXt"])
def test_a_png_has_a_text_for_it(kind):
    content = {
        b"tEXt": "Description\0Blick aufs Meer, März".encode("latin-1"),
        b"iTXt": b"Description\0\0\0\0\0" + "Blick aufs Meer, März".encode(),
        b"zTXt": b"Description\0\0" + zlib.compress("Blick aufs Meer, März".encode("latin-1")),
    }[kind]
    png = encoded(quadrants(), "PNG")
    assert of(behind(png, png_chunk(kind, content))).description == "Blick aufs Meer, März"
    assert of(png[:33] + png_chunk(kind, content) + png[33:]).description == "Blick aufs Meer, März"


def test_a_png_may_have_exif_as_a_text():
    digits = exif(DATES, orientation=6).hex()
    text = f"\nexif\n{len(digits) // 2:8}\n" + "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Raw profile type exif", text, zip=True)
    picture = of(encoded(quadrants(), "PNG", pnginfo=texts))
    assert (picture.taken_at, picture.orientation) == (TAKEN, 6)
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Raw profile type exif", "\nexif\n 4\nno digits")
    assert of(encoded(quadrants(), "PNG", pnginfo=texts)).taken_at is None


# --- which one counts -------------------------------------------------------------------------------------------------


def test_of_descriptions_the_guidelines_say_which_one_counts():
    """EXIF; XMP, or IPTC if it was edited later; EXIF's comment."""
    block, packet = iptc(caption=b"by IPTC"), described_by_xmp("by XMP")
    comment = {0x9286: b"ASCII\0\0\0by comment"}
    same, other = hashlib.md5(block).digest(), hashlib.md5(b"before").digest()
    everything = with_iptc(jpeg(exif=exif(comment, description="by EXIF"), xmp=packet), block, other)
    assert of(everything).description == "by EXIF"
    no_exif = jpeg(exif=exif(comment), xmp=packet)
    assert of(with_iptc(no_exif, block)).description == "by XMP"
    assert of(with_iptc(no_exif, block, same)).description == "by XMP"
    assert of(with_iptc(no_exif, block, other)).description == "by IPTC"
    assert of(with_iptc(no_exif, iptc(caption=b" "), other)).description == "by XMP"
    assert of(with_iptc(jpeg(exif=exif(comment)), block)).description == "by IPTC"
    assert of(jpeg(exif=exif(comment))).description == "by comment"
    # What is none does not stand before one that is.
    assert of(jpeg(exif=exif(comment, description="OLYMPUS DIGITAL CAMERA"), xmp=packet)).description == "by XMP"


def test_of_dates_that_of_the_shot_counts():
    created = 'photoshop:DateCreated="1975-07-01T12:00:00"'
    digitized = {0x9004: "2020:01:02 03:04:05", 0x9292: "5"}
    scanned = of(jpeg(exif=exif(digitized), xmp=xmp(attributes=created)))
    assert scanned.taken_at == datetime.datetime(1975, 7, 1, 12)
    assert of(jpeg(exif=exif(digitized))).taken_at == datetime.datetime(2020, 1, 2, 3, 4, 5, 500_000)
    assert of(jpeg(exif=exif({**DATES, **digitized}), xmp=xmp(attributes=created))).taken_at == TAKEN
    # An invalid one does not stand before a valid one.
    assert of(jpeg(exif=exif({0x9003: "0000:00:00 00:00:00", **digitized}))).taken_at.year == 2020
    # The date of the last edit says nothing.
    assert of(jpeg(exif=exif(date="2021:01:01 00:00:00"))).taken_at is None
    block = iptc(date=b"19740504", time=b"030201+0100")
    photo = jpeg(xmp=xmp(attributes=created))
    assert of(with_iptc(jpeg(), block)).taken_at == datetime.datetime(1974, 5, 4, 3, 2, 1)
    assert of(with_iptc(jpeg(), iptc(date=b"19740504"))).taken_at == datetime.datetime(1974, 5, 4)
    assert of(with_iptc(photo, block)).taken_at.year == 1975
    assert of(with_iptc(photo, block, bytes(16))).taken_at.year == 1974


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2003:05:04 03:02:01", "2003-05-04T03:02:01"),
        ("2003:05:04 03:02:01+02:00", "2003-05-04T03:02:01"),
        ("2003-05-04T03:02:01.123456789Z", "2003-05-04T03:02:01.123456"),
        ("2003-05-04T03:02", "2003-05-04T03:02:00"),
        ("2003-05-04", "2003-05-04T00:00:00"),
        ("2003/05/04 3:2:1", "2003-05-04T03:02:01"),
        ("1839:01:01 00:00:00", "1839-01-01T00:00:00"),
        *((text, None) for text in ("", "2003", "2003-05", "0000:00:00 00:00:00", "    :  :     :  :  ", "no date")),
        *((text, None) for text in ("2003:13:04 03:02:01", "2003:02:30 03:02:01", "2003:05:04 25:00:00")),
        *(
            (text, None)
            for text in ("1799:12:31 23:59:59", "0001:01:01 00:00:00", "12003:05:04 03:02:01", "٢٠٠٣:05:04")
        ),
    ],
)
def test_dates(text, expected):
    moment = photo_metadata._moment_of(text)
    assert (moment and moment.isoformat()) == expected


@pytest.mark.parametrize(
    ("digits", "expected"), [("5", 500_000), ("05 ", 50_000), ("1234567", 123_456), ("x", 0), ("", 0)]
)
def test_fractions_of_a_second(digits, expected):
    assert of(jpeg(exif=exif({**DATES, 0x9291: digits}))).taken_at == TAKEN.replace(microsecond=expected)


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *(
            "OLYMPUS DIGITAL CAMERA",
            "OLYMPUS DIGITAL CAMERA         ",
            "SONY DSC",
            "Minolta DSC",
            "MINOLTA DIGITAL CAMERA",
        ),
        *("KONICA MINOLTA DIGITAL CAMERA", "Digital StillCamera", "Digital Still Camera", "DIGITAL CAMERA", "DCIM"),
        *(
            "DCIM\\100MEDIA\\DJI_0001.JPG",
            "SAMSUNG",
            "Exif_JPEG_PICTURE",
            "LEAD Technologies Inc. V1.01",
            "AppleMark\n",
        ),
        *(
            "CREATOR: gd-jpeg v1.0 (using IJG JPEG v62), quality = 90\n",
            "ASCII",
            "ASCII...",
            "<KENOX S760  / Samsung S760>",
        ),
        *("oplus_32", "oznorWO", "edf", "hdrpl", '{"mirror":false}', "filter: 0; fileterIntensity: 0.0;", "Screenshot"),
        *(
            "Kodak Digital Still Camera",
            "My beautiful picture",
            "untitled",
            "",
            "   ",
            "\0\0",
            "-",
            "...",
            "2003",
            "12/34",
        ),
    ],
)
def test_what_cameras_write_by_themselves_is_no_description(text):
    assert photo_metadata._cleaned(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog.", "A dog."),
        ("  two\r\n\tlines \x00", "two lines"),
        ("a\x1b[31mred\x07 \x9bone\x7f", "a[31mred one"),
        ("line\u2028\u0085separators", "line separators"),
        ("猫", "猫"),
        ("a family 👩‍👩‍👧", "a family 👩‍👩‍👧"),
        ("Samsung's new camera", "Samsung's new camera"),
        ("digital cameras on a table", "digital cameras on a table"),
        ("dav and a friend", "dav and a friend"),
        ("a" * 20_000, "a" * 10_000),
    ],
)
def test_descriptions_are_one_line_without_control_characters(text, expected):
    assert photo_metadata._cleaned(text) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("März".encode(), "März"),
        ("März".encode("latin-1"), "März"),
        ("“März”".encode("cp1252"), "“März”"),
        # IPTC-IIM's fields are cut at 2000 bytes, wherever that is.
        ("März, ä".encode()[:-1], "März, "),
        (b"text\0what was there before", "text"),
    ],
)
def test_texts_are_utf_8_or_that_of_windows(data, expected):
    assert photo_metadata._text(data) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"ASCII\0\0\0A dog", "A dog"),
        (b"ASCII\0\0\0" + bytes(20), None),
        (bytes(8) + "März".encode(), "März"),
        (b"UNICODE\0" + "A dög".encode("utf-16-le"), "A dög"),
        (b"UNICODE\0" + "A dög".encode("utf-16-be"), "A dög"),
        (b"UNICODE\0" + "\ufeffA dög".encode("utf-16-be"), "A dög"),
        (b"UNICODE\0" + "A dog\0\0".encode("utf-16-be"), "A dog"),
        # Cut short, and half a surrogate.
        (b"UNICODE\0" + "A dog".encode("utf-16-be") + b"\xd8\x3d\0", "A dog"),
        (b"JIS\0\0\0\0\0\x1b$B", None),
        (b"ASCII", None),
        (b"", None),
    ],
)
def test_comments_of_exif_say_how_they_are_written(data, expected):
    assert of(jpeg(exif=exif({0x9286: data}))).description == expected


def test_nested_descriptions_of_xmp_are_those_of_something_else():
    nested = (
        "<photoshop:Other><rdf:Description><dc:description><rdf:Alt><rdf:li>of a region</rdf:li></rdf:Alt>"
        "</dc:description></rdf:Description></photoshop:Other>"
    )
    assert of(jpeg(xmp=xmp(nested))).description is None
    assert metadata_blocks.xmp(xmp("<dc:description>plain</dc:description>")).description == "plain"
    assert metadata_blocks.xmp(xmp(attributes='dc:description="short"')).description == "short"
    # Whatever it declares, it is UTF-8.
    declared = b'<?xml version="1.0" encoding="koi8-r"?>' + xmp("<dc:description>März</dc:description>")
    assert metadata_blocks.xmp(declared.replace(b"\xef\xbb\xbf", b"")).description == "März"
    lists = '<dc:description><rdf:Alt><rdf:li xml:lang="x-default"/><rdf:li>other</rdf:li></rdf:Alt></dc:description>'
    assert metadata_blocks.xmp(xmp(lists)).description == "other"


# --- broken and hostile -----------------------------------------------------------------------------------------------

BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(f'<!ENTITY {new} "{f"&{old};" * 10}">'.encode() for old, new in zip("abcdefgh", "bcdefghi", strict=True))
    + b"]>"
)


DECLARED = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "a dog">]>' + xmp(
    "<dc:description>&a;</dc:description>"
).decode().replace("\ufeff", "")


@pytest.mark.parametrize(
    "packet",
    [
        *(b"", b"\0", b"description", b"<description", b"\xff\xfe<\0d\0e\0s\0", b"<a>description</a>"),
        BOMB + xmp("<dc:description>&i;</dc:description>"),
        xmp("<dc:description>&undeclared;</dc:description>"),
        DECLARED.encode(),
        # In an encoding that hides what it declares.
        ("\ufeff" + DECLARED.replace("?>", f"?><!--{b'description '.decode('utf-16-be')}-->")).encode("utf-16-be"),
        xmp("<dc:description>a dog</dc:description>") + b"<more/>",
        xmp("<dc:description>a dog</dc:description>" + " " * 2**20),
        b"<a>" * 10_000 + b"description",
        xmp("<dc:description>\xff\xfe\xff</dc:description>").decode().encode("latin-1", "ignore"),
    ],
)
def test_xmp_that_is_broken_or_means_harm_says_nothing(packet):
    started = time.process_time()
    assert metadata_blocks.xmp(packet) == metadata_blocks.Xmp()
    assert time.process_time() - started < 1


def test_large_blocks_take_neither_long_nor_much_memory():
    packets = [xmp("<dc:description>" + "<a/>" * 250_000 + "</dc:description>"), b"<a>" * 340_000 + b"description"]
    tiffs = [
        # Every tag has the whole file for its value.
        b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHII", 0x010E, 7, 2**22, 0) * 65_535 + bytes(2**22),
        # A directory that is its own directory of EXIF's tags.
        b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x8769, 4, 1, 8) + bytes(4),
        b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x8769, 4, 2**32 - 1, 8) + bytes(4),
        b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" + b"\xff" * 2**16,
    ]
    datasets = b"\x1c\2\x78\0\0" * 2**19
    started = time.process_time()
    for packet in packets:
        assert not metadata_blocks.xmp(packet).taken
    tracemalloc.start()
    for data in tiffs:
        metadata_blocks.exif(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert metadata_blocks.iptc(datasets) == {(2, 120): b""}
    assert peak < 2**22 and time.process_time() - started < 5


def samples() -> list[bytes]:
    block = exif({**DATES, 0x9286: b"UNICODE\0" + "A dog".encode("utf-16-le")}, description="A dog", orientation=6)
    packet = described_by_xmp("by XMP")
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", packet.decode())
    texts.add_text("Description", "a text", zip=True)
    png = encoded(quadrants(), "PNG", exif=block, pnginfo=texts)
    return [
        with_iptc(jpeg(exif=block, xmp=packet), iptc(caption=b"by IPTC", date=b"20030504", time=b"030201"), bytes(16)),
        png,
        behind(encoded(quadrants(), "PNG"), png_chunk(b"eXIf", block), png_chunk(b"tEXt", b"Description\0text")),
        encoded(quadrants(), "WEBP", exif=block, xmp=packet),
        encoded(quadrants(), "TIFF", exif=block, tiffinfo={700: packet, 33723: iptc(caption=b"by IPTC")}),
        encoded(quadrants(), "HEIF", exif=block, xmp=packet),
        encoded(quadrants(), "AVIF", exif=block, xmp=packet),
    ]


def test_damaged_metadata_is_no_fault_of_ours():
    chance = random.Random(7)
    whole = samples()
    for _ in range(4000):
        data = bytearray(chance.choice(whole))
        for _ in range(chance.choice((1, 2, 8))):
            place = chance.randrange(min(len(data), chance.choice((600, len(data)))))
            number = chance.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), chance.randbytes(1)))
            data[place : place + len(number)] = number
        picture = to_pixels.convert(bytes(data), 16, 10**5)
        assert picture.fault is None, (bytes(data).hex(), picture.fault.traceback)
        assert picture.description is None or (picture.description and len(picture.description) <= 10_000)
        picture.description and picture.description.encode()


def test_a_fault_of_ours_costs_no_photo_and_is_logged(monkeypatch):
    monkeypatch.setattr(photo_metadata, "_moments", None)
    picture = to_pixels.convert(jpeg(exif=exif(DATES, orientation=6)), 16)
    assert picture.failure is None and picture.pixels is not None and picture.orientation == 6
    assert picture.fault.kind.startswith("TypeError pipelines/images/photo_metadata.py")


def test_photos_that_fail_say_it_too():
    block = exif(DATES, description="A dog", orientation=6)
    cut = jpeg(exif=block)[:-300]
    for data, most in ((cut, 10**6), (jpeg(exif=block), 100)):
        picture = to_pixels.convert(data, 16, most)
        assert picture.failure is not None and picture.perceptual_hash is None
        assert (picture.taken_at, picture.description, picture.orientation) == (TAKEN, "A dog", 6)
        assert len(picture.image_sha256) == 64
    nothing = to_pixels.convert(b"no photo", 16)
    assert nothing.image_sha256 == nothing.sha256 and nothing.orientation is None


def test_image_processes_read_it_without_importing_anything(monkeypatch, tmp_path):
    misbehave(monkeypatch, tmp_path)
    pool = ImagePool(workers=1)
    try:
        before = said(pool, "sorted(sys.modules)")
        for data in samples():
            [there] = pool.convert([data], 16, 10**6)
            here = to_pixels.convert(data, 16, 10**6)
            assert there.description and there.orientation == here.orientation
            assert np.array_equal(there.pixels, here.pixels)
            nothing = {"pixels": None, "decode_ms": None}
            assert there._replace(**nothing) == here._replace(**nothing)
        assert said(pool, "sorted(sys.modules)") == before
    finally:
        pool.close()
