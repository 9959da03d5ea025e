import collections
import hashlib
import tracemalloc

import pytest

from beamscribe.pipelines import duplicates
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import reading
from beamscribe.pipelines.sources.base import ListOptions
from tests.containers import jpeg, listed, make_tar, make_zip


def marked(refs):
    return {ref.photo: ref for ref in duplicates.marked(refs, ListOptions())}


@pytest.fixture
def read(monkeypatch):
    """Names of the photos that are read whole."""
    names = []
    real = reading.digest_photo
    monkeypatch.setattr(reading, "digest_photo", lambda ref: names.append(ref.photo.rpartition("/")[2]) or real(ref))
    return names


def test_only_photos_of_equal_size_and_beginning_are_read(tmp_path, read):
    large = duplicates.HEAD_BYTES + 10
    contents = {
        "a": b"1",
        "b": b"22",
        "c": b"33",
        "d": b"4" * large,
        "e": b"5" + b"4" * (large - 1),
        "f": b"4" * (large - 1) + b"6",
        "g": b"4" * large,
    }
    for name, data in contents.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
    refs, _ = listed(tmp_path)
    found = marked(refs)
    assert sorted(read) == ["b.jpg", "c.jpg", "d.jpg", "f.jpg", "g.jpg"]
    assert {ref.photo[-5]: ref.same_as[-5:-4] for ref in found.values()} == {
        **dict.fromkeys("abcdef", ""),
        "g": "d",
    }
    assert found[str(tmp_path / "d.jpg")].sha256 == hashlib.sha256(contents["d"]).hexdigest()


def test_photos_in_archives_are_compared_with_files(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    archives = [make_tar(tmp_path / "x.tar"), make_zip(tmp_path / "y.zip"), make_tar(tmp_path / "z.tgz", mode="w:gz")]
    refs = [ref for uri in (tmp_path / "a.jpg", *archives) for ref in listed(uri)[0]]
    found = marked(refs)
    assert len(found) == 10
    originals = [ref for ref in found.values() if not ref.same_as]
    assert sorted(ref.sha256 for ref in originals) == sorted(hashlib.sha256(jpeg(n)).hexdigest() for n in (1, 2, 3))
    assert all(found[ref.same_as].sha256 == ref.sha256 for ref in found.values() if ref.same_as)


def test_what_can_not_be_read_is_like_nothing(tmp_path, read, monkeypatch):
    monkeypatch.setattr(duplicates, "_READERS", 1)
    refs = [PhotoRef(str(tmp_path / f"{number:03d}.jpg"), "1", 5) for number in range(100)]
    found = marked(refs)
    assert len(found) == 100 and not any(ref.same_as or ref.sha256 for ref in found.values())
    # After some it has lost its patience.
    assert len(read) == duplicates.MAX_FAILURES


def test_photos_of_unknown_size_do_not_all_lie_in_one_part():
    parts = dict(duplicates.by_size(PhotoRef(f"/p/x.parquet#{n}", etag="1") for n in range(2000)))
    assert len(parts) > 200 and max(map(len, parts.values())) < 30
    sized = dict(duplicates.by_size(PhotoRef(f"/p/{n}.jpg", etag="1", size=7 + n % 2) for n in range(100)))
    assert {part: len(refs) for part, refs in sized.items()} == {7: 50, 8: 50}


def test_large_photos_are_compared_piece_by_piece(tmp_path):
    size = 300 * 2**20
    for name in "abcd":
        with open(tmp_path / f"{name}.jpg", "wb") as file:
            file.write(jpeg(1))
            file.truncate(size)
    refs, _ = listed(tmp_path)
    tracemalloc.start()
    found = marked(refs)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sorted(bool(ref.same_as) for ref in found.values()) == [False, True, True, True]
    assert peak < 32 * 2**20


def test_many_copies_have_several_originals():
    refs = [PhotoRef(f"/{number:05d}.jpg", "", 5, sha256="d") for number in range(duplicates.COPIES * 2 + 3)]
    found = marked(refs)
    originals = collections.Counter(ref.same_as or ref.photo for ref in found.values())
    assert sorted(originals.values()) == [3, duplicates.COPIES, duplicates.COPIES]
    assert all(not found[name].same_as for name in originals)
