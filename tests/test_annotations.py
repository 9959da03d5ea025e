import pytest

from beamscribe.model.annotations import AnnotationError, read_captions, read_split
from beamscribe.model.errors import InputError

CSV = """image,caption
b.jpg,A dog runs .
b.jpg,"A dog , a ball and a "" SALE "" sign ."
a.jpg,Two men
"""
TOKEN = """b.jpg#0\tA dog runs .
b.jpg#1\tA dog , a ball and a " SALE " sign .
a.jpg#0\tTwo men
"""
CAPTIONS = {"b.jpg": ["A dog runs .", 'A dog , a ball and a " SALE " sign .'], "a.jpg": ["Two men"]}


@pytest.fixture
def write(tmp_path):
    def write_file(content: str | bytes):
        path = tmp_path / "file.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


@pytest.mark.parametrize("content", [CSV, TOKEN])
def test_reads_both_formats_alike(write, content):
    captions = read_captions(write(content))
    assert captions == CAPTIONS
    assert list(captions) == ["b.jpg", "a.jpg"]


@pytest.mark.parametrize("content", [CSV, TOKEN])
def test_reads_what_other_systems_save(write, content):
    windows = b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode()
    assert read_captions(write(windows)) == CAPTIONS
    assert read_captions(str(write("\n" + content.replace("\n", "\n\n").rstrip()))) == CAPTIONS


def test_keeps_the_characters_of_a_caption(write):
    caption = "Un caf\u00e9\u2028d'\u00e9t\u00e9\u0085#1"
    assert read_captions(write(f"image,caption\na.jpg,{caption}\n")) == {"a.jpg": [caption]}
    assert read_captions(write(f"a#2.jpg#0\t{caption}\n")) == {"a#2.jpg": [caption]}


@pytest.mark.parametrize(
    "content",
    ["image,caption\na.jpg,\na.jpg,  \nb.jpg,A dog\nb.jpg,\n", "a.jpg#0\t\na.jpg#1\t \nb.jpg#0\tA dog\nb.jpg#1\t\n"],
)
def test_drops_empty_captions(write, content):
    assert read_captions(write(content)) == {"b.jpg": ["A dog"]}


@pytest.mark.parametrize(
    ("content", "place", "message"),
    [
        ("image,caption\na.jpg,A dog\na.jpg,A dog , a ball\n", ":3: ", "found 3 fields"),
        ("image,caption\na.jpg\n", ":2: ", "found 1 fields"),
        ("image,caption\n\n,A dog\n", ":3: ", "no photo"),
        ('image,caption\na.jpg,"A dog\na.jpg,A cat\n', ":2: ", "double quotes"),
        ('image,caption\na.jpg,"A" dog\n', ":2: ", "double quotes"),
        ("a.jpg#0\tA dog\na.jpg A cat\n", ":2: ", "tab"),
        ("a.jpg#0\tA dog\n#1\tA cat\n", ":2: ", "expected photo.jpg#0"),
        ("a.jpg|0|A dog\n", ":1: ", "image,caption"),
        (b"a.jpg#0\tA dog\na.jpg#1\tA caf\xe9\n", ":2: ", "UTF-8"),
        ("", " ", "has no captions"),
        ("image,caption\n", " ", "has no captions"),
        ("a.jpg#0\t\n", " ", "has no captions"),
    ],
)
def test_says_what_is_wrong_with_captions_and_where(write, content, place, message):
    path = write(content)
    with pytest.raises(AnnotationError) as error:
        read_captions(path)
    assert str(error.value).startswith(f"{path}{place}")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [read_captions, read_split])
def test_says_which_file_is_missing(tmp_path, read):
    (tmp_path / "file").touch()
    for path in (tmp_path / "absent.txt", tmp_path / "file" / "absent.txt"):
        with pytest.raises(InputError, match=r"there is no .* file .*absent\.txt; check the path"):
            read(path)
    with pytest.raises(AnnotationError, match="can't read"):
        read(tmp_path)


def test_reads_a_split_in_order_and_each_photo_once(write):
    assert read_split(write("b.jpg\n\na.jpg \r\nb.jpg\nc.jpg")) == ["b.jpg", "a.jpg", "c.jpg"]


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_refuses_an_empty_split(write, content):
    with pytest.raises(AnnotationError, match="names no photos"):
        read_split(write(content))


def test_says_where_a_split_is_not_text(write):
    with pytest.raises(AnnotationError, match=":2: not UTF-8"):
        read_split(write(b"a.jpg\n\xff\xd8\n"))
