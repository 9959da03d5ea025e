"""Photos inside tar and zip archives, TFRecord and Parquet files: how they are listed and read."""

import hashlib
import io
import os
import tarfile
import zipfile

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beamscribe.model.errors import BeamscribeError
from beamscribe.pipelines.failures import ErrorCode, Failure
from beamscribe.pipelines.sources import parquets, reading, tfrecords
from beamscribe.pipelines.sources.base import ListOptions
from tests.containers import FILES, container, contents, example, jpeg, listed, make_records, make_tar, make_zip, names


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.bz2", "tar.xz", "zip", "takeout"])
def test_the_photos_of_an_archive(tmp_path, kind):
    archive = container(tmp_path, kind)
    refs, ignored = listed(archive)
    assert names(refs, archive) == ["a.jpg", "c", "sub/b.png"] and ignored == [".txt"]
    assert contents(refs) == {name: data for name, data in FILES.items() if name != "notes.txt"}
    assert all(ref.container == str(archive) and ref.size == len(jpeg(1)) and ref.etag for ref in refs)
    # Only a part of them, as a shard has it.
    assert contents(refs[1:]) == {name.removeprefix(f"{archive}#"): FILES[name] for name in names(refs[1:], archive)}


@pytest.mark.parametrize("kind, blocks", [("tar", 3), ("zip", 3), ("tar.gz", 1)])
def test_what_can_be_divided(tmp_path, kind, blocks):
    refs, _ = listed(container(tmp_path, kind))
    assert len({ref.block for ref in refs}) == blocks


def test_the_last_member_of_a_name_counts(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for shade in (1, 2):
            member = tarfile.TarInfo("a.jpg")
            member.size = len(jpeg(shade))
            archive.addfile(member, io.BytesIO(jpeg(shade)))
    refs, _ = listed(tmp_path / "x.tar")
    assert contents(refs) == {"a.jpg": jpeg(2)}


def test_names_that_lead_out_and_links(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("/etc/a.jpg", "../../b.jpg", "sub/c.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(jpeg(1))
            archive.addfile(member, io.BytesIO(jpeg(1)))
        for name, kind, target in (
            ("hard.jpg", tarfile.LNKTYPE, "sub/c.jpg"),
            ("soft.jpg", tarfile.SYMTYPE, "./sub/../sub/c.jpg"),
            ("sub/up.jpg", tarfile.SYMTYPE, "../sub/c.jpg"),
            ("out.jpg", tarfile.SYMTYPE, "/etc/passwd"),
            ("loop.jpg", tarfile.SYMTYPE, "loop.jpg"),
            ("pipe.jpg", tarfile.FIFOTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    refs, ignored = listed(tmp_path / "x.tar")
    found = contents(refs)
    assert len(found) == 8 and ignored == [".jpg"]
    failed = {name: content.error for name, content in found.items() if isinstance(content, Failure)}
    assert failed == {"out.jpg": ErrorCode.NOT_FOUND, "loop.jpg": ErrorCode.NOT_FOUND}
    assert {content for name, content in found.items() if name not in failed} == {jpeg(1)}


def test_a_huge_header_is_not_read(tmp_path):
    member = tarfile.TarInfo("a.jpg")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 10 * 2**30
    (tmp_path / "x.tar").write_bytes(member.tobuf() + bytes(10_000))
    refs, _ = listed(tmp_path / "x.tar")
    (content,) = contents(refs).values()
    assert content.error in (ErrorCode.CORRUPT, ErrorCode.TRUNCATED)


def test_a_huge_member_is_one_failure(tmp_path):
    member = tarfile.TarInfo("a.jpg")
    member.size = 10 * 2**30
    with open(tmp_path / "x.tar", "wb") as file:
        file.write(member.tobuf())
        # Takes no place on disk.
        file.truncate(member.size + 4096)
    refs, _ = listed(tmp_path / "x.tar")
    assert [content.error for content in contents(refs).values()] == [ErrorCode.TOO_LARGE]


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_of_a_cut_tar_the_beginning_and_a_failure_are_listed(tmp_path, kind):
    files = {f"{n}.jpg": os.urandom(3000) for n in range(20)}
    archive = make_tar(tmp_path / f"x.{kind}", files, mode=f"w:{kind.partition('.')[2]}")
    archive.write_bytes(archive.read_bytes()[:30_000])
    refs, _ = listed(archive)
    failed = [ref for ref in refs if ref.failure]
    assert [ref.photo for ref in failed] == [str(archive)]
    assert failed[0].failure.error == ErrorCode.TRUNCATED
    found = contents([ref for ref in refs if not ref.failure])
    whole = {name: content for name, content in found.items() if isinstance(content, bytes)}
    assert len(whole) >= 5 and all(files[name] == content for name, content in whole.items())


def test_garbage_within_a_tar_is_a_failure_not_its_end(tmp_path):
    archive = make_tar(tmp_path / "x.tar", {f"{n}.jpg": bytes(600) for n in range(9)})
    data = bytearray(archive.read_bytes())
    data[3 * 1536 : 3 * 1536 + 512] = b"\xff" * 512
    archive.write_bytes(data)
    refs, _ = listed(archive)
    assert names(refs, archive) == ["", "0.jpg", "1.jpg", "2.jpg"]
    assert next(ref for ref in refs if ref.failure).failure.error == ErrorCode.CORRUPT


def test_an_archive_that_was_replaced_since_it_was_listed(tmp_path):
    for make, name in ((make_tar, "x.tar"), (make_zip, "x.zip")):
        archive = make(tmp_path / name)
        refs, _ = listed(archive)
        make(archive, {"other.jpg": bytes(3000), **FILES})
        assert {content.error for content in contents(refs).values()} == {ErrorCode.CHANGED_WHILE_READING}


def test_a_tar_without_times_has_etags_that_follow_the_file(tmp_path):
    archive = make_tar(tmp_path / "x.tar", mtime=0)
    before = {ref.etag for ref in listed(archive)[0]}
    os.utime(archive, ns=(0, 99))
    assert not before & {ref.etag for ref in listed(archive)[0]}


def test_zip_members_that_can_not_be_read(tmp_path):
    archive = make_zip(tmp_path / "x.zip", {"a.jpg": jpeg(1), "b.jpg": jpeg(2)}, compression=zipfile.ZIP_DEFLATED)
    data = bytearray(archive.read_bytes())
    # In the bytes of the first member.
    data[60:80] = bytes(20)
    archive.write_bytes(data)
    found = contents(listed(archive)[0])
    assert found["a.jpg"].error == ErrorCode.CORRUPT and found["b.jpg"] == jpeg(2)
    # The flag of encryption, in the directory.
    at = data.index(b"PK\x01\x02") + 8
    data[at] |= 1
    archive.write_bytes(data)
    assert contents(listed(archive)[0])["a.jpg"].error == ErrorCode.UNSUPPORTED_FORMAT
    archive.write_bytes(data[:-60])
    ((_, content),) = contents(listed(archive)[0]).items()
    assert content.error == ErrorCode.TRUNCATED


def test_a_zip_member_that_may_be_a_photo_is_listed(tmp_path):
    archive = make_zip(tmp_path / "x.zip", {"a.jpg": jpeg(1), "unnamed": jpeg(2), "notes": b"text"})
    # The bytes no longer match their checksum.
    archive.write_bytes(archive.read_bytes().replace(jpeg(2), jpeg(2)[:20] + b"damage" + jpeg(2)[26:]))
    refs, ignored = listed(archive)
    found = contents(refs)
    assert found["a.jpg"] == jpeg(1) and found["unnamed"].error == ErrorCode.CORRUPT and ignored == [""]


def test_a_zip_member_whose_name_is_lost_costs_no_other(tmp_path):
    archive = make_zip(tmp_path / "x.zip", {"a.jpg": jpeg(1), "b": jpeg(2)})
    data = bytearray(archive.read_bytes())
    # In the directory, the only byte of the second name becomes one of the extra field.
    at = data.rindex(b"PK\x01\x02") + 28
    data[at : at + 4] = b"\0\0\1\0"
    archive.write_bytes(data)
    found = contents(listed(archive)[0])
    assert found["a.jpg"] == jpeg(1) and found[""].error == ErrorCode.CORRUPT


def test_parquet_row_groups_that_state_more_rows_than_there_are(tmp_path, monkeypatch):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"jpg": [jpeg(1), jpeg(2)], "key": ["a", "b"]}), path)
    monkeypatch.setattr(parquets, "_sizes", lambda table: [3])
    (ref,) = listed(path)[0]
    assert ref.failure.error == ErrorCode.CORRUPT and "3 rows" in ref.failure.message


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    from beamscribe.pipelines.sources import zips

    monkeypatch.setattr(zips, "MAX_BYTES", 100_000)
    archive = make_zip(tmp_path / "x.zip", {"a.jpg": bytes(10_000_000)}, compression=zipfile.ZIP_DEFLATED)
    (ref,) = listed(archive)[0]
    lying = ref._replace(size=100)
    (content,) = reading.read_members([lying], ListOptions())
    assert content.error == ErrorCode.TOO_LARGE


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_tfrecord(tmp_path, compression):
    photos = [example(image_encoded=jpeg(n), image_filename=f"{n}.jpg".encode(), other=b"x") for n in range(3)]
    nameless = example(image_encoded=jpeg(9))
    path = make_records(
        tmp_path / "photos.tfrecord", [*photos, photos[0], nameless, example(other=b"x"), b"\xff"], compression
    )
    refs, _ = listed(path)
    assert names(refs, path) == ["0.jpg", "0.jpg~3", "1.jpg", "2.jpg", "4", "5", "6"]
    found = contents(refs)
    assert {name: found[name] for name in ("1.jpg", "0.jpg~3", "4")} == {
        "1.jpg": jpeg(1),
        "0.jpg~3": jpeg(0),
        "4": jpeg(9),
    }
    assert (found["5"].error, found["6"].error) == (ErrorCode.EMPTY, ErrorCode.CORRUPT)
    assert contents(refs[2:4]) == {"2.jpg": jpeg(2), "0.jpg~3": jpeg(0)}
    assert len({ref.block for ref in refs}) == (1 if compression else 7)


def test_tfrecord_with_other_features(tmp_path):
    path = make_records(tmp_path / "x.tfrecord", [example(photo=jpeg(1), id=b"one")])
    with pytest.raises(BeamscribeError, match="no feature image/encoded; they have id, photo"):
        listed(path)
    options = {"image_column": "photo", "name_column": "id"}
    assert contents(listed(path, **options)[0], **options) == {"one": jpeg(1)}


def test_a_damaged_tfrecord(tmp_path):
    path = make_records(tmp_path / "x.tfrecord", [example(image_encoded=jpeg(n)) for n in range(3)])
    data = bytearray(path.read_bytes())
    size = len(data) // 3
    data[size + 100] ^= 1
    path.write_bytes(data)
    refs, _ = listed(path)
    assert [ref.failure and ref.failure.error for ref in refs] == [None, ErrorCode.CORRUPT, None]
    data[size] ^= 1
    path.write_bytes(data)
    refs, _ = listed(path)
    assert [ref.photo for ref in refs] == [f"{path}#0", str(path)]
    path.write_bytes(bytes(data)[: size - 3])
    assert [ref.failure.error for ref in listed(path)[0]] == [ErrorCode.TRUNCATED]


def test_a_record_that_says_it_is_huge(tmp_path):
    length = (2**62).to_bytes(8, "little")
    crc = google_crc32c.value(length)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    (tmp_path / "x.tfrecord").write_bytes(length + masked.to_bytes(4, "little") + bytes(100))
    assert tfrecords.is_header((tmp_path / "x.tfrecord").read_bytes())
    (ref,) = listed(tmp_path / "x.tfrecord")[0]
    assert ref.failure.error in (ErrorCode.TRUNCATED, ErrorCode.CORRUPT)


@pytest.mark.parametrize("kind", ["struct", "jpg", "named"])
def test_parquet_with_photos_inside(tmp_path, kind):
    photos = [jpeg(n) for n in range(10)]
    column, options = photos, {}
    if kind == "struct":
        column = [{"bytes": photo, "path": f"{n}.jpg"} for n, photo in enumerate(photos)]
    name = {"struct": "image", "jpg": "jpg", "named": "x"}[kind]
    if kind == "named":
        options = {"image_column": "x", "name_column": "y"}
    table = pa.table({name: column, "key": [f"{n}.jpg" for n in range(10)] if kind == "jpg" else ["same"] * 10})
    table = table.append_column("y", [[f"{n}.jpg" for n in range(10)]])
    path = tmp_path / "photos.parquet"
    pq.write_table(table, path, row_group_size=4)
    refs, _ = listed(path, **options)
    assert names(refs, path) == [f"{n}.jpg" for n in range(10)]
    assert [ref.block for ref in refs] == [0] * 4 + [1] * 4 + [2] * 2
    assert contents(refs, **options) == {f"{n}.jpg": photo for n, photo in enumerate(photos)}
    some = [refs[5], refs[8]]
    assert contents(some, **options) == {"5.jpg": photos[5], "8.jpg": photos[8]}


def test_parquet_rows_without_names_or_bytes(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": [jpeg(1), None], "key": ["a", "a"]}), path)
    refs, _ = listed(path)
    found = contents(refs)
    assert found["0"] == jpeg(1) and found["1"].error == ErrorCode.EMPTY
    pq.write_table(pa.table({"image": [jpeg(1)], "key": ["a"]}), path)
    assert {content.error for content in contents(refs).values()} == {ErrorCode.CHANGED_WHILE_READING}


def test_a_header_that_leads_backwards(tmp_path):
    member = tarfile.TarInfo("a.jpg")
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + (-512).to_bytes(2, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "x.tar").write_bytes(bytes(header) + bytes(2048))
    refs, _ = listed(tmp_path / "x.tar")
    assert {ref.failure.error for ref in refs} == {ErrorCode.CORRUPT}


def test_links_of_an_archive_of_the_current_folder(tmp_path):
    (tmp_path / "x" / ".git").mkdir(parents=True)
    (tmp_path / "x" / ".git" / "b").write_bytes(jpeg(2))
    (tmp_path / "x" / "a.jpg").write_bytes(jpeg(1))
    (tmp_path / "x" / "l.jpg").symlink_to("a.jpg")
    (tmp_path / "x" / "hidden.jpg").symlink_to(".git/b")
    (tmp_path / "x" / os.fsdecode(b"odd\xe9.jpg")).symlink_to(os.fsdecode(b"no\xe9.jpg"))
    for mode in ("w", "w:gz"):
        with tarfile.open(tmp_path / "x.tar", mode) as archive:
            archive.add(tmp_path / "x", ".")
        found = contents(listed(tmp_path / "x.tar")[0])
        odd = found.pop("./odd\\udce9.jpg")
        assert odd.error == ErrorCode.NOT_FOUND and odd.message.encode()
        assert found == {"./a.jpg": jpeg(1), "./l.jpg": jpeg(1), "./hidden.jpg": jpeg(2)}


def test_a_compressed_tar_is_unpacked_once_to_compare_its_photos(tmp_path):
    refs, _ = listed(make_tar(tmp_path / "x.tgz", mode="w:gz"))
    assert {ref.sha256 for ref in refs} == {hashlib.sha256(jpeg(n)).hexdigest() for n in (1, 2, 3)}
