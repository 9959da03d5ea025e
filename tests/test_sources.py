import contextlib
import errno
import hashlib
import io
import json
import os
import sys
import tarfile
import zipfile

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beamscribe.jobs import cli
from beamscribe.model.errors import UserError
from beamscribe.pipelines import listing
from beamscribe.pipelines.failures import ErrorCode, Failure
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import base, parquets, reading, tfrecords
from beamscribe.pipelines.sources.base import Ignored, ListOptions


def jpeg(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (16, 16), shade).save(buffer, "JPEG")
    return buffer.getvalue()


FILES = {"a.jpg": jpeg(1), "sub/b.png": jpeg(2), "notes.txt": b"text", "c": jpeg(3)}


def listed(uri, **options):
    """What listing an input gives: photos, and kinds of other files."""
    chosen = ListOptions(**options)
    found = [f for source in listing.sources([str(uri)], chosen) for f in listing.list_source(source, chosen)]
    return [f for f in found if isinstance(f, PhotoRef)], sorted(f.kind for f in found if isinstance(f, Ignored))


def names(refs, uri):
    return sorted(ref.photo.removeprefix(str(uri)).lstrip("#/") for ref in refs)


def contents(refs, **options):
    """What reading photos gives, by the last part of their names."""
    found = {}
    for container, run in reading.by_container(sorted(refs, key=lambda ref: (ref.container, ref.place))):
        read = reading.read_members(run, ListOptions(**options)) if container else map(reading.read_photo, run)
        found.update({ref.photo.rpartition("#")[2]: content for ref, content in zip(run, read, strict=True)})
    return found


def make_tar(path, files=FILES, mode="w", mtime=1000):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), mtime
            archive.addfile(member, io.BytesIO(data))
    return path


def make_zip(path, files=FILES, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def example(**features):
    import tensorflow as tf

    values = {
        name.replace("_", "/"): tf.train.Feature(bytes_list=tf.train.BytesList(value=[v]))
        for name, v in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=values)).SerializeToString()


def make_records(path, examples, compression=""):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for one in examples:
            writer.write(one)
    return path


def container(tmp_path, kind):
    if kind == "zip":
        return make_zip(tmp_path / "photos.zip", compression=zipfile.ZIP_DEFLATED)
    if kind == "takeout":
        # Its name says nothing.
        return make_zip(tmp_path / "takeout-001")
    return make_tar(tmp_path / f"photos.{kind}", mode=f"w:{kind.partition('.')[2]}")


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
    with pytest.raises(UserError, match="no feature image/encoded; they have id, photo"):
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


@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "jsonl", "parquet"])
def test_lists(tmp_path, kind):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b, c.jpg", "d#.jpg"):
        (photos / name).write_bytes(jpeg(1))
    entries = [
        "photos/a.jpg",
        str(photos / "b, c.jpg"),
        "photos/d#.jpg",
        (photos / "a.jpg").as_uri(),
        "photos/gone.jpg",
    ]
    path = tmp_path / f"list.{kind}"
    if kind == "txt":
        path.write_text("\ufeff" + "\r\n".join([*entries, "", ""]))
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps({"url": entry, "n": 1}) for entry in entries))
    elif kind == "parquet":
        pq.write_table(pa.table({"url": entries, "n": [1] * 5}), path)
    else:
        separator = "," if kind == "csv" else "\t"
        path.write_text("\n".join(["n" + separator + "url"] + [f'1{separator}"{entry}"' for entry in entries]))
    refs, _ = listed(path)
    assert names(refs, photos) == ["a.jpg", "b, c.jpg", "d#.jpg", "gone.jpg"]
    assert reading.read_photo(next(r for r in refs if r.photo.endswith("gone.jpg"))).error == ErrorCode.NOT_FOUND
    assert {ref.size for ref in refs} == {0, len(jpeg(1))}


def test_lists_that_name_no_column(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("where,what\na.jpg,x\n")
    with pytest.raises(UserError, match="no column with a known name for URIs; it has where, what; name the column"):
        listed(path)
    assert names(listed(path, uri_column="where")[0], tmp_path) == ["a.jpg"]
    with pytest.raises(UserError, match="no column there"):
        listed(path, uri_column="there")


def test_a_broken_line_of_a_list_is_a_failure(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_text('{"uri": "a.jpg"}\n{"uri": \n"b.jpg"\n{"uri": 3}\n')
    refs, _ = listed(path)
    assert names(refs, tmp_path) == ["a.jpg", "b.jpg", "list.jsonl#line 2", "list.jsonl#line 4"]
    assert [ref.failure is None for ref in sorted(refs)] == [True, True, False, False]


def test_what_an_input_is_its_bytes_say(tmp_path):
    make_tar(tmp_path / "archive")
    make_zip(tmp_path / "photos.jpg")
    (tmp_path / "photo").write_bytes(jpeg(1))
    (tmp_path / "broken.jpg").write_bytes(b"text")
    (tmp_path / "riddle").write_bytes(b"text")

    def kind(name, **options):
        (source,) = listing.sources([str(tmp_path / name)], ListOptions(**options))
        return source.kind

    assert [kind(name) for name in ("archive", "photos.jpg", "photo", "broken.jpg")] == ["tar", "zip", "photo", "photo"]
    with pytest.raises(UserError, match=r"can't tell what .*riddle is; name its format"):
        kind("riddle")
    assert kind("riddle", format="list") == "list"
    with pytest.raises(UserError, match="does not exist"):
        kind("nothing")
    with pytest.raises(UserError, match="nothing matches"):
        listing.check(str(tmp_path / "*.gif"), ListOptions())


def test_a_glob_lists_photos_and_what_is_in_archives(tmp_path):
    make_tar(tmp_path / "1.tar")
    make_zip(tmp_path / "2.zip")
    pq.write_table(pa.table({"url": ["x.jpg"]}), tmp_path / "meta.parquet")
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    (tmp_path / "stats.json").write_text("{}")
    refs, ignored = listed(tmp_path / "*")
    assert len(refs) == 7 and ignored.count(".json") == ignored.count(".parquet") == 1
    (only,) = listing.sources([str(tmp_path / "*.tar")], ListOptions())
    assert only == base.Source(str(tmp_path / "*.tar"), "glob")
    assert len(listed(tmp_path / "*.tar")[0]) == 3


def test_includes_and_excludes(tmp_path):
    for name in ("2019/a.jpg", "2019/raw/b.jpg", "2020/c.png", ".hidden/d.jpg", "@eaDir/e.jpg", "2020/.f.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(jpeg(1))

    def of(**options):
        refs, ignored = listed(tmp_path, **options)
        return names(refs, tmp_path), ignored

    assert of() == (["2019/a.jpg", "2019/raw/b.jpg", "2020/c.png"], ["hidden"] * 3)
    assert of(exclude=("raw",))[0] == ["2019/a.jpg", "2020/c.png"]
    assert of(include=("*.png",)) == (["2020/c.png"], ["excluded"] * 2 + ["hidden"] * 3)
    assert of(include=("2019/*",), exclude=("*/raw/*",))[0] == ["2019/a.jpg"]
    assert len(of(hidden=True)[0]) == 6


def test_files_without_a_telling_name_are_looked_into(tmp_path):
    (tmp_path / "IMG_1").write_bytes(jpeg(1))
    (tmp_path / "x.unheardof").write_bytes(jpeg(1))
    (tmp_path / "README").write_bytes(b"text")
    (tmp_path / "movie.mp4").write_bytes(jpeg(1))
    (tmp_path / "raw.NEF").write_bytes(b"text")
    refs, ignored = listed(tmp_path)
    assert names(refs, tmp_path) == ["IMG_1", "raw.NEF", "x.unheardof"] and ignored == ["", ".mp4"]


def test_a_photo_that_is_written_to_while_it_is_read(tmp_path, monkeypatch):
    photo = tmp_path / "a.jpg"
    photo.write_bytes(jpeg(1))
    (ref,) = listed(photo)[0]
    real = reading.stores.read

    def read_and_write(uri):
        data = real(uri)
        photo.write_bytes(jpeg(2) + b"more")
        return data

    monkeypatch.setattr(reading.stores, "read", read_and_write)
    assert reading.read_photo(ref).error == ErrorCode.CHANGED_WHILE_READING


def test_no_name_stops_the_reading():
    for uri in ("nul\0.jpg", "nowhere://x.jpg", "\udcff.jpg"):
        assert isinstance(reading.read_photo(PhotoRef(uri, "")), Failure)


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


def test_a_store_that_fails_within_an_archive_may_have_passed_tomorrow(tmp_path, monkeypatch):
    for make, name in ((make_tar, "x.tar"), (make_zip, "x.zip"), (make_tar, "x.tgz")):
        archive = make(tmp_path / name, **({"mode": "w:gz"} if name == "x.tgz" else {}))
        refs, _ = listed(archive)
        with monkeypatch.context() as patch:
            patch.setattr(parquets.stores, "opened", failing(parquets.stores.opened))
            assert {content.error for content in contents(refs).values()} == {ErrorCode.UNREADABLE}
            (ref,) = listing.list_source(base.Source(str(archive), name[2:].replace("tgz", "tar")), ListOptions())
            assert ref.failure.error == ErrorCode.UNREADABLE


def failing(opened):
    """Opens files that can't be read beyond their first bytes."""

    @contextlib.contextmanager
    def wrapped(uri):
        with opened(uri) as file:

            class Broken(io.RawIOBase):
                readable = seekable = lambda self: True
                tell, seek = file.tell, file.seek

                def read(self, size=-1):
                    if file.tell() > 0 or size != 8:
                        raise OSError(errno.EIO, "Input/output error")
                    return file.read(size)

            yield Broken()

    return wrapped


def test_damaged_archives_of_a_glob_are_failures(tmp_path):
    (tmp_path / "empty.zip").write_bytes(b"")
    (tmp_path / "broken.tar").write_bytes(b"\xff" * 2000)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1" + bytes(100))
    for name in ("at.tarifa.jpg", "b.zip.jpg", "c.tfrecord.png"):
        (tmp_path / name).write_bytes(jpeg(1))
    (tmp_path / "good.tar").write_bytes(make_tar(tmp_path / "x").read_bytes())
    refs, ignored = listed(tmp_path / "*.*")
    assert names([ref for ref in refs if ref.failure], tmp_path) == ["broken.parquet", "broken.tar", "empty.zip"]
    assert len(refs) == 9 and ignored == [".txt"]


def test_a_glob_follows_each_folder_once(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("x.jpg", "a/y.jpg", "a/b/z.jpg"):
        (tmp_path / name).write_bytes(jpeg(1))
    for number in range(3):
        (tmp_path / "a" / f"loop{number}").symlink_to(tmp_path / "a")
    (tmp_path / "a" / ".hidden.jpg").write_bytes(jpeg(2))
    assert names(listed(tmp_path / "**" / "*.jpg")[0], tmp_path) == ["a/b/z.jpg", "a/y.jpg", "x.jpg"]
    assert names(listed(tmp_path / "a" / "**")[0], tmp_path / "a") == ["b/z.jpg", "y.jpg"]
    assert len(listed(tmp_path / "**" / "*.jpg", hidden=True)[0]) == 4


def test_deep_folders(tmp_path):
    deep = str(tmp_path)
    for _ in range(400):
        deep = os.path.join(deep, "d")
    os.makedirs(deep)
    with open(os.path.join(deep, "a.jpg"), "wb") as file:
        file.write(jpeg(1))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(300)
    try:
        assert len(listed(tmp_path)[0]) == 1
    finally:
        sys.setrecursionlimit(limit)


def test_names_that_are_not_utf8(tmp_path):
    folder = os.path.join(str(tmp_path), os.fsdecode(b"caf\xe9"))
    os.mkdir(folder)
    for name in (b"a.jpg", b"no photo.\xe9"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(jpeg(1) if name == b"a.jpg" else b"text")
    make_zip(os.path.join(folder, "x.zip"))
    uri = (tmp_path / "caf").as_uri() + "%E9"
    refs, ignored = listed(uri)
    assert [ref.photo for ref in refs] == [f"{uri}/a.jpg"] and ignored == [".\\udce9", ".zip"]
    assert isinstance(reading.read_photo(refs[0]), bytes)
    refs, _ = listed(f"{tmp_path}/*/*.zip")
    assert {ref.container for ref in refs} == {f"{uri}/x.zip"}
    assert all(isinstance(content, bytes) for content in contents(refs).values())


def test_odd_entries_of_lists(tmp_path):
    folder = tmp_path / ".hidden"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(jpeg(1))
    path = folder / "list.jsonl"
    lines = [
        "{}",
        '{"uri": "\\ud800.jpg"}',
        "[" * 100_000,
        '{"uri": "./a.jpg"}',
        '{"other": 1}',
        '{"uri": "../.hidden/a.jpg"}',
    ]
    path.write_text("\n".join(lines[1:]))
    (tmp_path / "other.txt").write_text(str(folder / "a.jpg"))
    assert len(listed(tmp_path / "other.txt")[0]) == 1
    refs, ignored = listed(path)
    assert names([ref for ref in refs if not ref.failure], folder) == ["a.jpg"] and not ignored
    assert len([ref for ref in refs if ref.failure]) == 3
    path.write_text("\n".join(lines[:1]))
    with pytest.raises(UserError, match="no column"):
        listed(path)


@pytest.mark.parametrize(
    ("name", "data", "option"),
    [
        ("riddle", b"\1\2\3", "--input-format"),
        ("photos.csv", b"where,what\na,b\n", "--uri-column"),
    ],
)
def test_the_command_names_the_option_that_helps(name, data, option, tmp_path, tiny_bundle, capsys):
    (tmp_path / name).write_bytes(data)
    given = ["--input", str(tmp_path / name), "--output", str(tmp_path / "out"), "--bundle", str(tiny_bundle)]
    assert cli.main(["caption", *given]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("beamscribe caption: --input: ") and line.endswith(f" with {option}"), line
