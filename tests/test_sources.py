"""Inputs of all kinds: how they are told apart, and which of their files are listed."""

import gzip
import json
import os
import sys
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beamscribe.jobs import cli
from beamscribe.model.errors import BeamscribeError, InputError
from beamscribe.pipelines import listing, stores
from beamscribe.pipelines.failures import ErrorCode, Failure
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import base, detect, parquets, reading
from beamscribe.pipelines.sources.base import ListOptions
from tests.containers import contents, example, failing, jpeg, listed, make_records, make_tar, make_zip, names


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
    with pytest.raises(
        BeamscribeError, match="no column with a known name for URIs; it has where, what; name the column"
    ):
        listed(path)
    assert names(listed(path, uri_column="where")[0], tmp_path) == ["a.jpg"]
    with pytest.raises(BeamscribeError, match="no column there"):
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
    with pytest.raises(BeamscribeError, match=r"can't tell what .*riddle is; name its format"):
        kind("riddle")
    assert kind("riddle", format="list") == "list"
    with pytest.raises(BeamscribeError, match="does not exist"):
        kind("nothing")
    with pytest.raises(BeamscribeError, match="nothing matches"):
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
    assert only == base.Source(str(tmp_path / "*.tar"), "glob", input=str(tmp_path / "*.tar"))
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

    def read_and_write(uri, most):
        data = real(uri, most)
        photo.write_bytes(jpeg(2) + b"more")
        return data

    monkeypatch.setattr(reading.stores, "read", read_and_write)
    assert reading.read_photo(ref).error == ErrorCode.CHANGED_WHILE_READING


def test_no_more_of_a_photo_is_read_than_was_listed(tmp_path, monkeypatch):
    photo = tmp_path / "a.jpg"
    photo.write_bytes(jpeg(1))
    (ref,) = listed(photo)[0]
    # Sparse: it takes no space.
    os.truncate(photo, 2**40)
    failure = reading.read_photo(ref)
    assert (failure.error, failure.message) == (
        ErrorCode.CHANGED_WHILE_READING,
        "the file has grown since it was listed",
    )
    assert reading.digest_photo(ref) == ""
    # Where no listing has said a size, no more is read than any photo may have.
    monkeypatch.setattr(reading, "MAX_BYTES", 2**20)
    assert reading.read_photo(PhotoRef(str(photo), "")).error == ErrorCode.TOO_LARGE
    os.truncate(photo, 2**20)
    assert reading.read_photo(PhotoRef(str(photo), "")) == photo.read_bytes()


@pytest.mark.parametrize("many", [False, True])
def test_a_name_that_is_no_utf_8_costs_no_other_photo_of_a_zip(tmp_path, many):
    archive = make_zip(tmp_path / "x.zip", {"a.jpg": jpeg(1), "\u00e9\u00e8.jpg": jpeg(2), "c.jpg": jpeg(3)})
    if many:
        # More members than the directory's first form can count.
        with zipfile.ZipFile(archive, "a") as more:
            for number in range(2**16):
                more.writestr(f"{number}.txt", b"")
            more.comment = b"a comment"
    data = archive.read_bytes().replace("\u00e9\u00e8".encode(), b"\xff\xfe\xfd\xfc")
    archive.write_bytes(data)
    refs, _ = listed(archive)
    found = contents(refs)
    assert len(refs) == 3 and set(found.values()) == {jpeg(1), jpeg(2), jpeg(3)}


def test_a_name_that_is_no_utf_8_costs_no_other_photo_of_a_parquet_file(tmp_path):
    offsets = pa.array([0, 5, 10], pa.int32()).buffers()[1]
    names = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"a.jpgb\xff.jp")])
    images = pa.array([jpeg(1), jpeg(2)], pa.binary())
    for number, table in enumerate(
        (
            pa.table({"name": names, "image": images}),
            pa.table({"image": pa.StructArray.from_arrays([images, names], ["bytes", "path"])}),
        )
    ):
        pq.write_table(table, tmp_path / f"{number}.parquet")
        refs, _ = listed(tmp_path / f"{number}.parquet")
        assert contents(refs) == {"a.jpg": jpeg(1), "b\\xff.jp": jpeg(2)}


def test_no_name_stops_the_reading():
    for uri in ("nul\0.jpg", "nowhere://x.jpg", "\udcff.jpg"):
        assert isinstance(reading.read_photo(PhotoRef(uri, "")), Failure)


def test_a_store_that_fails_within_an_archive_may_have_passed_tomorrow(tmp_path, monkeypatch):
    for make, name in ((make_tar, "x.tar"), (make_zip, "x.zip"), (make_tar, "x.tgz")):
        archive = make(tmp_path / name, **({"mode": "w:gz"} if name == "x.tgz" else {}))
        refs, _ = listed(archive)
        with monkeypatch.context() as patch:
            patch.setattr(parquets.stores, "opened", failing(parquets.stores.opened))
            assert {content.error for content in contents(refs).values()} == {ErrorCode.UNREADABLE}
            (ref,) = listing.list_source(base.Source(str(archive), name[2:].replace("tgz", "tar")), ListOptions())
            assert ref.failure.error == ErrorCode.UNREADABLE


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


TAR_OF_NOTHING = bytes(10240)


EMPTY = dict(
    [
        *((f"empty.{kind}", b"") for kind in ("txt", "csv", "tsv", "jsonl", "tar", "tfrecord")),
        ("mark.csv", b"\xef\xbb\xbf"),
        ("line.csv", b"\r\n"),
        ("header.csv", b"uri\n"),
        ("nothing.tar", TAR_OF_NOTHING),
        ("nothing.tar.gz", gzip.compress(TAR_OF_NOTHING)),
        ("nothing.tgz", gzip.compress(b"")),
        ("nothing.tfrecord.gz", gzip.compress(b"")),
        ("nothing.zip", b"PK\x05\x06" + bytes(18)),
    ],
)


@pytest.mark.parametrize("name", EMPTY)
def test_an_input_of_nothing_holds_no_photos(name, tmp_path, tiny_bundle, capsys):
    (tmp_path / name).write_bytes(EMPTY[name])
    given = ["--input", str(tmp_path / name), "--output", str(tmp_path / "out"), "--bundle", str(tiny_bundle)]
    for command in ("plan", "caption") if name in ("empty.csv", "empty.tar", "nothing.tar") else ("plan",):
        assert cli.main([command, *given]) == 5
        assert f"no photos in {tmp_path / name}; " in capsys.readouterr().err
        assert cli.main([command, *given, "--allow-empty"]) == 0
        assert "listed 0 = " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a.zip", "a.tgz", "a.tar.gz", "a.tar.xz", "a.tfrecord.gz"])
def test_what_can_not_be_empty_is_cut_short(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    ((ref,), _) = listed(tmp_path / name)
    assert (ref.photo, ref.failure.error) == (str(tmp_path / name), ErrorCode.TRUNCATED)


@pytest.mark.parametrize("data", [b"", bytes(512), b"a.jpg\n"])
def test_what_is_called_parquet_and_is_none(data, tmp_path):
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(InputError, match=f"^can't read {tmp_path / 'a.parquet'}: "):
        listed(tmp_path / "a.parquet")


def test_a_tar_without_bytes_is_counted_in_a_glob(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"")
    (tmp_path / "b.tar").write_bytes(make_tar(tmp_path / "x").read_bytes())
    refs, ignored = listed(tmp_path / "*.tar")
    assert refs and not any(ref.failure for ref in refs) and ignored == [".tar", ".txt"]


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
    with pytest.raises(BeamscribeError, match="no column"):
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
    assert cli.main(["caption", *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("beamscribe caption: --input: ") and line.endswith(f" with {option}"), line


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_a_store_that_fails_while_the_kind_is_told_is_not_taken_for_damage(tmp_path, monkeypatch, compression):
    path = make_records(tmp_path / "a.tfrecord", [example(image_encoded=jpeg(1))], compression)
    assert detect.source_of(str(path), ListOptions()).kind == "tfrecord"
    monkeypatch.setattr(stores, "opened", failing(stores.opened))
    with pytest.raises(OSError, match="Input/output error"):
        detect.source_of(str(path), ListOptions())
