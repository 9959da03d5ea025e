"""Photos that were touched, moved, copied or re-tagged keep their captions; those that are gone are marked."""

import dataclasses
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import beamscribe
from beamscribe.jobs import cli
from beamscribe.pipelines import captioning
from beamscribe.pipelines.output import edits, layout, rows
from beamscribe.pipelines.photos import Origin, caption_rows
from beamscribe.pipelines.sources import reading


@pytest.fixture
def archive(tmp_path, make_photo) -> Path:
    photos = tmp_path / "photos"
    for name in ("a/1.jpg", "a/2.png", "b/3.jpg", "b/4.webp"):
        make_photo(photos / name)
    return photos


@pytest.fixture
def run(tmp_path, tiny_bundle):
    """Captions inputs, by default the archive; returns the report."""

    def caption(*inputs, **options):
        return beamscribe.caption(list(inputs) or tmp_path / "photos", tmp_path / "out", bundle=tiny_bundle, **options)

    return caption


@pytest.fixture
def no_model(monkeypatch):
    """Has every attempt to load a model end the job."""

    def refuse(*_: object) -> None:
        raise AssertionError("the model was loaded")

    return lambda: monkeypatch.setattr(captioning, "CaptionModel", refuse)


def account(report):
    assert report.listed == report.skipped + report.taken_over + report.captioned + report.failed and report.balanced
    return report.skipped, report.taken_over, report.captioned, report.failed


def table(tmp_path, history=False):
    return {row["photo"]: row for row in beamscribe.read(tmp_path / "out", history=history).to_pylist()}


def all_rows(tmp_path):
    found = rows.read_tables(layout.committed_files(str(tmp_path / "out")))
    return [row for one in found for row in caption_rows(one)]


def test_the_columns_of_a_first_run(tmp_path, archive, run):
    assert account(run()) == (0, 0, 4, 0)
    for photo, row in table(tmp_path).items():
        assert row["bytes"] == os.path.getsize(photo) and row["orientation"] == 1
        assert len(row["image_sha256"]) == 64 and row["image_sha256"] != row["sha256"]
        assert isinstance(row["perceptual_hash"], int)
        assert (row["source"], row["engine"], row["taken_from"]) == ("model", "tensorflow", None)
        assert row["tags"] is None and row["familiarity"] is None and row["edited_by"] is None


def test_touched_photos_are_read_and_not_captioned(tmp_path, archive, run, no_model):
    run()
    before = table(tmp_path)
    for photo in archive.rglob("*.*"):
        os.utime(photo, (1_000_000_000, 1_000_000_000))
    no_model()
    assert account(run()) == (0, 4, 0, 0)
    after = table(tmp_path)
    assert before.keys() == after.keys()
    for photo, row in after.items():
        kept = ("caption", "score", "alternatives", "model", "engine", "settings", "width", "height", "perceptual_hash")
        assert {name: row[name] for name in kept} == {name: before[photo][name] for name in kept}
        assert row["taken_from"] == {"photo": photo, "run_number": 1} and row["run_number"] == 2
        assert row["etag"] != before[photo]["etag"]
    assert account(run()) == (4, 0, 0, 0)


def test_a_renamed_folder_keeps_its_captions_and_the_old_names_are_gone(tmp_path, archive, run, no_model, monkeypatch):
    run()
    before = table(tmp_path)
    (archive / "a").rename(archive / "holidays")
    no_model()
    report = run()
    assert account(report) == (2, 2, 0, 0) and (report.gone, report.vanished) == (2, 0)
    after = table(tmp_path)
    assert set(after) == {str(path) for path in archive.rglob("*.*")}
    assert after[f"{archive}/holidays/1.jpg"]["caption"] == before[f"{archive}/a/1.jpg"]["caption"]
    assert after[f"{archive}/holidays/1.jpg"]["taken_from"] == {"photo": f"{archive}/a/1.jpg", "run_number": 1}
    statuses = [row.status for row in all_rows(tmp_path) if row.photo == f"{archive}/a/1.jpg"]
    assert statuses == ["captioned", "gone"]
    # Back again: the old rows say all, so that nothing is read.
    (archive / "holidays").rename(archive / "a")
    monkeypatch.setattr(reading, "read_photo", no_reading)
    report = run()
    assert account(report) == (2, 2, 0, 0) and report.gone == 2
    assert set(table(tmp_path)) == set(before)


def no_reading(ref):
    raise AssertionError(f"{ref.photo} was read")


def test_the_same_photos_in_other_places(tmp_path, archive, run, no_model):
    run()
    copied, tar, zipped = tmp_path / "copy", tmp_path / "a.tar", tmp_path / "a.zip"
    shutil.copytree(archive, copied)
    with tarfile.open(tar, "w") as file:
        file.add(archive, "photos")
    with zipfile.ZipFile(zipped, "w") as file:
        for photo in sorted(archive.rglob("*.*")):
            file.write(photo, f"zipped/{photo.name}")
    no_model()
    for place in (copied, tar, zipped):
        report = run(place)
        # What is not an input of a run is none of its concern.
        assert account(report) == (0, 4, 0, 0) and report.gone == 0, place
    assert len(table(tmp_path)) == 16
    assert {row["taken_from"]["run_number"] for row in table(tmp_path).values() if row["taken_from"]} == {1}


def tagged(path: Path) -> None:
    """Adds a comment to a JPEG, as an editor of metadata does."""
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xfe\x00\x07stars" + data[2:])


def test_other_metadata_is_not_another_picture(tmp_path, archive, run, no_model):
    run()
    before = table(tmp_path)
    tagged(archive / "a/1.jpg")
    tagged(archive / "b/3.jpg")
    (archive / "b/3.jpg").rename(archive / "a/3.jpg")
    no_model()
    assert account(run()) == (2, 2, 0, 0)
    after = table(tmp_path)
    for old, new in (("a/1.jpg", "a/1.jpg"), ("b/3.jpg", "a/3.jpg")):
        one, other = before[f"{archive}/{old}"], after[f"{archive}/{new}"]
        assert one["image_sha256"] == other["image_sha256"] and one["sha256"] != other["sha256"]
        assert one["caption"] == other["caption"] and other["bytes"] == one["bytes"] + 9


def test_another_picture_is_captioned(tmp_path, archive, run, make_photo):
    run()
    Image.open(archive / "a/2.png").transpose(Image.Transpose.ROTATE_180).save(archive / "a/2.png")
    # Another photo of the same name.
    (archive / "c").mkdir()
    make_photo(archive / "c/other.jpg").rename(archive / "c/1.jpg")
    assert account(run()) == (3, 0, 2, 0)


def test_a_turned_photo_is_captioned_again_but_not_a_persons(tmp_path, archive, run):
    def turn(path, orientation):
        image = Image.open(path)
        exif = image.getexif()
        exif[0x0112] = orientation
        data, segment = path.read_bytes(), b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
        path.write_bytes(data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:])

    run()
    photo = archive / "b/3.jpg"
    row = next(row for row in all_rows(tmp_path) if row.photo == str(photo))
    edits.write(str(tmp_path / "out"), [dataclasses.replace(row, caption="my cat", edited_by="Ada")])
    turn(archive / "a/1.jpg", 6)
    turn(photo, 6)
    assert account(run()) == (2, 0, 2, 0)
    assert table(tmp_path)[str(photo)]["caption"] == "my cat"
    # Moved, too: no model knows the picture this way up, but the person's words are of the same picture.
    turned = archive / "a/3.jpg"
    photo.rename(turned)
    shutil.copy(turned, archive / "copy of 3.jpg")
    assert account(run()) == (3, 2, 0, 0)
    assert table(tmp_path)[str(turned)]["caption"] == "my cat"
    assert table(tmp_path)[str(turned)]["source"] == "person"


@pytest.mark.parametrize("again", ["all", "settings"])
def test_recaption_captions(tmp_path, archive, run, again):
    run(settings={"beam_width": 1})
    for photo in archive.rglob("*.*"):
        os.utime(photo, (1_000_000_000, 1_000_000_000))
    shutil.copytree(archive, tmp_path / "copy")
    assert account(run(recaption=[again])) == (0, 0, 4, 0)
    if again == "settings":
        assert account(run(recaption=[again])) == (4, 0, 0, 0)
        assert account(run(tmp_path / "copy", recaption=[again])) == (0, 4, 0, 0)
    else:
        assert account(run(tmp_path / "copy", recaption=[again])) == (0, 0, 4, 0)


def test_a_persons_photo_is_done_for_every_recaption(tmp_path, archive, run):
    run()
    first = next(row for row in all_rows(tmp_path) if row.photo.endswith("1.jpg"))
    edits.write(str(tmp_path / "out"), [dataclasses.replace(first, caption="Ada's dog", edited_by="Ada")])
    assert account(run(recaption=["all"])) == (1, 0, 3, 0)
    assert table(tmp_path)[first.photo]["caption"] == "Ada's dog"
    # The words go with the photo, and stay where the photo is only touched.
    os.utime(first.photo, (1_000_000_000, 1_000_000_000))
    shutil.copy(first.photo, archive / "b/copy.jpg")
    assert account(run()) == (3, 2, 0, 0)
    assert {row["caption"] for name, row in table(tmp_path).items() if name.endswith(("1.jpg", "copy.jpg"))} == {
        "Ada's dog"
    }
    copy = table(tmp_path)[str(archive / "b/copy.jpg")]
    assert (copy["source"], copy["edited_by"]) == ("person", "Ada")
    assert account(run(recaption=["all"])) == (2, 0, 3, 0)
    # Taken back, the model's caption counts again, and a copy that has none gets one.
    edits.write(str(tmp_path / "out"), [dataclasses.replace(first, status="withdrawn", caption=None, edited_by="Ada")])
    assert table(tmp_path)[first.photo]["source"] == "model"
    withdrawn = next(row for row in all_rows(tmp_path) if row.photo.endswith("copy.jpg"))
    edits.write(
        str(tmp_path / "out"),
        [dataclasses.replace(withdrawn, status="withdrawn", caption=None, edited_by="Ada", taken_from=None)],
    )
    assert account(run()) == (4, 0, 1, 0)
    assert table(tmp_path)[withdrawn.photo]["source"] == "model"


def test_a_changed_picture_is_to_be_looked_at(tmp_path, archive, run, make_photo):
    run()
    first = next(row for row in all_rows(tmp_path) if row.photo.endswith("1.jpg"))
    edits.write(str(tmp_path / "out"), [dataclasses.replace(first, caption="Ada's dog", edited_by="Ada")])
    make_photo(archive / "new.jpg").rename(archive / "a/1.jpg")
    report = run()
    assert account(report) == (3, 0, 1, 0) and report.to_look_at == (first.photo,)
    assert table(tmp_path)[first.photo]["source"] == "model"


def test_what_was_not_listed_whole_marks_nothing(tmp_path, archive, run):
    run()
    before = set(table(tmp_path))
    (archive / "a/1.jpg").unlink()
    for options in ({"limit": 1}, {"include": ["*.png"]}, {"exclude": ["1.jpg"]}):
        report = run(**options)
        assert (report.gone, report.vanished) == (0, 0), options
    # A quarter of all photos is more than a tenth.
    report = run()
    assert (report.gone, report.vanished) == (0, 1) and set(table(tmp_path)) == before
    report = run(accept_gone=True)
    assert (report.gone, report.vanished) == (1, 0) and account(report) == (3, 0, 0, 0)
    assert set(table(tmp_path)) == before - {f"{archive}/a/1.jpg"}
    assert run().gone == 0


def test_a_half_mounted_archive_marks_nothing(tmp_path, archive, run):
    run()
    away = tmp_path / "unmounted"
    (archive / "a").rename(away)
    # The place where a disk is mounted is an empty folder without it.
    (archive / "a").mkdir()
    report = run(accept_gone=True)
    assert (report.gone, report.vanished) == (0, 0) and len(table(tmp_path)) == 4
    (archive / "a").rmdir()
    away.rename(archive / "a")
    assert account(run()) == (4, 0, 0, 0)


def test_the_report_and_its_file_say_what_was_taken_over(tmp_path, archive, run, capsys, tiny_bundle):
    run()
    (archive / "a").rename(archive / "c")
    given = ["--input", str(archive), "--output", str(tmp_path / "out"), "--bundle", str(tiny_bundle)]
    assert cli.main(["plan", *given]) == 0
    said = capsys.readouterr().out
    assert "listed 4 = to skip 2 + to caption 2" in said and "to caption: 2 new" in said
    assert "may be taken over: 2 of those" in said and "gone: 2 photos that are no longer there\n" in said
    assert cli.main(["verify", str(tmp_path / "out"), "--input", str(archive)]) == 1
    said = capsys.readouterr().out
    assert "moved" in said and "has no row" not in said
    assert cli.main(["caption", *given]) == 0
    said = capsys.readouterr().out
    assert "listed 4 = skipped 2 + taken over 2 + captioned 0 + failed 0" in said
    assert "photos that are no longer there: 2" in said
    (path,) = (tmp_path / "out/runs").glob("r00000002-*/report.json")
    report = json.loads(path.read_text())
    assert (report["taken_over"], report["gone"]) == (2, 2)
    assert "taken over" in path.with_name("report.html").read_text()
    assert cli.main(["verify", str(tmp_path / "out"), "--input", str(archive)]) == 0
    assert cli.main(["compact", str(tmp_path / "out")]) == 0
    assert cli.main(["verify", str(tmp_path / "out"), "--input", str(archive)]) == 0
    assert Origin(**table(tmp_path)[f"{archive}/c/1.jpg"]["taken_from"]) == Origin(f"{archive}/a/1.jpg", 1)
