"""The caption job as a user runs it, with a tiny model, on Beam's direct runner."""

import collections
import datetime
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import apache_beam as beam
import pyarrow.dataset as ds
import pytest
from PIL import Image

from beamscribe.jobs import cli
from beamscribe.model import bundle
from beamscribe.model.caption_settings import draws
from beamscribe.model.captioners.exported_model import CaptionModel
from beamscribe.pipelines import caption_shard, failures, stores, tf_examples
from beamscribe.pipelines.batches import shards_of
from beamscribe.pipelines.caption_archive import CaptionArchive
from beamscribe.pipelines.caption_options import CaptionOptions
from beamscribe.pipelines.control import lease, progress, stopping
from beamscribe.pipelines.inference import PhotoStream
from beamscribe.pipelines.output import copies, frozen_plan, layout
from beamscribe.pipelines.photos import CAPTION_SCHEMA, CaptionRow, PhotoRef, Shard


@pytest.fixture
def archive(tmp_path, make_photo) -> Path:
    folder = tmp_path / "photos"
    for index in range(40):
        make_photo(folder / f"{index:03d}.jpg", width=50 + index)
    make_photo(
        folder / "sub" / "rotated.jpg",
        60,
        20,
        exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
    )
    return folder


def captioned(archive: Path, output: Path, bundle: Path, *options: str) -> int:
    return cli.main(["caption", "--input", str(archive), "--output", str(output), "--bundle", str(bundle), *options])


def options_for(archive: Path, output: Path, bundle_folder: Path, **more) -> CaptionOptions:
    model = bundle.describe(bundle_folder)
    return CaptionOptions(
        inputs=(str(archive),),
        output=str(output),
        run="run",
        bundle=str(bundle_folder),
        model=model.fingerprint,
        settings=model.settings,
        **more,
    )


def rows_of(output: Path, run: str = "*") -> list[dict]:
    files = sorted(map(str, output.glob(f"captions/run={run}/shard-*.parquet")))
    return ds.dataset(files).to_table().to_pylist() if files else []


def runs_of(output: Path) -> list[str]:
    return sorted(os.listdir(output / "runs"), key=lambda run: (output / "runs" / run).stat().st_ctime)


def report_of(output: Path, run: str) -> dict:
    return json.loads((output / "runs" / run / "report.json").read_text())


def break_some(archive: Path) -> dict[str, str]:
    """Mixes broken files in; returns the code that each must get."""
    good = (archive / "000.jpg").read_bytes()
    (archive / "empty.jpg").write_bytes(b"")
    (archive / "cut.jpg").write_bytes(good[: len(good) // 2])
    (archive / "text.jpg").write_text("not a photo")
    (archive / "nothing.jpg").symlink_to(archive / "gone")
    (archive / "folder.jpg").mkdir()
    os.mkfifo(archive / "pipe.jpg")
    return {
        "empty.jpg": "empty",
        "cut.jpg": "truncated",
        "text.jpg": "not_an_image",
        "nothing.jpg": "not_found",
        "pipe.jpg": "unreadable",
    }


def test_every_photo_is_one_row(archive, tmp_path, tiny_bundle, capsys):
    broken = break_some(archive)
    output = tmp_path / "out"
    assert captioned(archive, output, tiny_bundle, "--shard-size", "8", "--alternatives", "1") == 0

    rows = {os.path.relpath(row["photo"], archive): row for row in rows_of(output)}
    assert len(rows) == len(rows_of(output)) == 41 + len(broken)
    assert {name: row["error"] for name, row in rows.items() if row["status"] == "failed"} == broken
    good = rows["sub/rotated.jpg"]
    assert (good["width"], good["height"]) == (20, 60)
    assert good["status"] == "captioned" and good["caption"] and good["score"] < 0
    assert len(good["alternatives"]) == 1 and good["error"] is None
    assert good["model"] == bundle.describe(tiny_bundle).fingerprint
    for name in broken:
        assert rows[name]["caption"] is None and rows[name]["message"] and rows[name]["stage"] in ("read", "decode")

    (run,) = runs_of(output)
    report = report_of(output, run)
    assert (report["listed"], report["skipped"], report["captioned"], report["failed"]) == (46, 0, 41, 5)
    assert (output / "runs" / run / "_SUCCESS").exists()
    assert "listed 46 = skipped 0 + taken over 0 + captioned 41 + failed 5" in capsys.readouterr().out
    files = list((output / "captions" / f"run={run}").iterdir())
    assert len(files) > 1 and all(ds.dataset(str(file)).schema.equals(CAPTION_SCHEMA) for file in files)


def test_captions_are_those_of_the_model(archive, tmp_path, tiny_bundle):
    from beamscribe.pipelines.images import to_pixels

    captioned(archive, tmp_path / "out", tiny_bundle, "--batch-size", "7")
    model = CaptionModel(tiny_bundle)
    settings = bundle.describe(tiny_bundle).settings
    for row in rows_of(tmp_path / "out")[:10]:
        pixels = to_pixels.convert(Path(row["photo"]).read_bytes(), model.image_size).pixels
        captions, scores = model.caption(pixels[None], settings)
        assert row["caption"] == captions[0, 0]
        assert row["score"] == pytest.approx(scores[0, 0], abs=1e-4)


def test_a_second_run_does_only_what_is_new_changed_or_may_have_passed(archive, tmp_path, tiny_bundle, make_photo):
    break_some(archive)
    output = tmp_path / "out"
    captioned(archive, output, tiny_bundle)
    make_photo(archive / "new.jpg")
    make_photo(archive / "000.jpg", width=99)
    captioned(archive, output, tiny_bundle)
    _, second = runs_of(output)
    redone = {os.path.basename(row["photo"]) for row in rows_of(output, second)}
    assert redone == {"new.jpg", "000.jpg", "nothing.jpg", "pipe.jpg"}
    report = report_of(output, second)
    assert (report["listed"], report["skipped"], report["captioned"], report["failed"]) == (47, 43, 2, 2)


def test_other_settings_caption_again_where_that_is_asked_for(archive, tmp_path, tiny_bundle, capsys):
    output = tmp_path / "out"
    captioned(archive, output, tiny_bundle, "--limit", "3")
    shorter = ("--limit", "3", "--max-length", "2")
    captioned(archive, output, tiny_bundle, *shorter)
    said = "other settings: 3 (--recaption model or --recaption settings captions them again)"
    assert said in capsys.readouterr().out
    assert len(rows_of(output)) == 3
    captioned(archive, output, tiny_bundle, *shorter, "--recaption", "settings")
    _, _, second = runs_of(output)
    assert len(rows_of(output, second)) == 3
    assert all(len(row["caption"].split()) <= 2 for row in rows_of(output, second))
    assert report_of(output, second)["listed"] == 3


def texts_of(output: Path) -> dict[str, list[str]]:
    """The captions of every photo that has some, best first."""
    rows = [row for row in rows_of(output) if row["status"] == "captioned"]
    return {row["photo"]: [row["caption"], *(other["caption"] for other in row["alternatives"])] for row in rows}


def words_of(output: Path) -> list[list[str]]:
    return [caption.split() for captions in texts_of(output).values() for caption in captions]


DRAWING = ("--top-p", "0.95", "--temperature", "2", "--alternatives", "3")
BOUNDS = ("--min-length", "4", "--max-length", "7", "--no-repeat-ngram", "1")


def are_within_bounds(captions: list[list[str]]) -> bool:
    return all(4 <= len(words) == len(set(words)) <= 7 for words in captions)


def test_drawn_captions_depend_on_the_photo_and_the_seed_alone(archive, tmp_path, tiny_bundle):
    from beamscribe.pipelines.images import to_pixels

    break_some(archive)
    captioned(archive, tmp_path / "one", tiny_bundle, *DRAWING, "--shard-size", "8", "--batch-size", "3")
    rows = [row for row in rows_of(tmp_path / "one") if row["status"] == "captioned"]
    assert len(rows) == 41 and all(len(row["alternatives"]) == 3 for row in rows)
    # They are those of the model, best first.
    model = CaptionModel(tiny_bundle)
    settings = bundle.describe(tiny_bundle).settings._replace(top_p=0.95, temperature=2.0)
    for row in rows[::8]:
        pixels = to_pixels.convert(Path(row["photo"]).read_bytes(), model.image_size).pixels
        uniforms = draws([row["photo"]], settings, 4, model.longest)
        captions, scores = model.caption(pixels[None], settings, uniforms)
        assert texts_of(tmp_path / "one")[row["photo"]] == captions[0].tolist()
        found = [row["score"], *(other["score"] for other in row["alternatives"])]
        assert found == pytest.approx(scores[0].tolist(), abs=1e-4) and found == sorted(found, reverse=True)
    # The same photos in other places of other batches and shards.
    (archive / "000.jpg").unlink()
    captioned(archive, tmp_path / "two", tiny_bundle, *DRAWING, "--batch-size", "16")
    captioned(archive, tmp_path / "three", tiny_bundle, *DRAWING, *BOUNDS, "--seed", "1")
    one, two, three = (texts_of(tmp_path / name) for name in ("one", "two", "three"))
    assert len(set(map(str, one.values()))) > 35
    assert not are_within_bounds(words_of(tmp_path / "one")) and are_within_bounds(words_of(tmp_path / "three"))
    del one[str(archive / "000.jpg")]
    assert two == one
    assert three.keys() == one.keys() and not any(three[photo] == one[photo] for photo in one)


def test_a_search_keeps_to_its_options(archive, tmp_path, tiny_bundle):
    lengths = []
    for penalty, options in (("0", ()), ("10", ()), ("0", BOUNDS)):
        output = tmp_path / f"{penalty} {bool(options)}"
        chosen = ("--beam-width", "6", "--alternatives", "5", "--length-penalty", penalty, *options)
        captioned(archive, output, tiny_bundle, *chosen, "--limit", "12")
        assert len(words_of(output)) == 6 * 12
        assert are_within_bounds(words_of(output)) == bool(options)
        lengths.append([len(captions[0].split()) for captions in texts_of(output).values()])
    unpenalised, penalised, _ = lengths
    assert all(short <= long for short, long in zip(unpenalised, penalised, strict=True)) and unpenalised != penalised


def test_what_changes_no_caption_is_not_captioned_again(archive, tmp_path, tiny_bundle):
    def again(*options):
        captioned(archive, output, tiny_bundle, "--limit", "3", "--recaption", "settings", *options)
        run = runs_of(output)[-1]
        config = json.loads((output / "runs" / run / "config.json").read_text())
        rows = rows_of(output, run)
        assert {row["settings"] for row in rows} <= {config["settings"]}
        return len(rows), config["settings"]

    output = tmp_path / "out"
    written, settings = again()
    searched = "beam_width=2,max_length=6,min_length=1,length_penalty=1.0,no_repeat_ngram=0,alternatives=0"
    assert (written, settings) == (3, searched)
    # The bundle's own values, said aloud.
    assert again("--beam-width", "2", "--length-penalty", "1") == (0, searched)
    drawn = "max_length=6,min_length=1,no_repeat_ngram=0,top_p=0.9,temperature=1.0,seed=0,alternatives=0"
    assert again("--top-p", "0.9") == (3, drawn)
    assert again("--top-p", "0.9", "--seed", "0") == (0, drawn)


def test_a_committed_shard_is_not_read_again(archive, tmp_path, tiny_bundle, monkeypatch):
    """An engine that runs the whole job again finds the plan and the commits, and leaves them alone."""
    options = options_for(archive, tmp_path / "out", tiny_bundle, shard_size=8)

    def attempt():
        with beam.Pipeline(runner="FnApiRunner") as pipeline:
            _ = pipeline | CaptionArchive(options)

    attempt()
    files = sorted((tmp_path / "out" / "captions").rglob("*.parquet"))
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}
    lost = files[0]
    lost.unlink()
    index = layout.index_of(str(lost))
    (planned,) = [shard for shard in frozen_plan.read(options.folder).shards if shard.index == index]
    expected = {ref.photo for ref in frozen_plan.read_shard(planned).photos}
    # Only the lost shard's photos are still there to be read.
    for photo in archive.rglob("*.jpg"):
        if str(photo) not in expected:
            photo.unlink()
    attempt()
    assert {row["photo"] for row in ds.dataset(str(lost)).to_table().to_pylist()} == expected
    assert all(row["status"] == "captioned" for row in ds.dataset(str(lost)).to_table().to_pylist())
    for file in files[1:]:
        assert (file.stat().st_mtime_ns, file.read_bytes()) == before[file]


def test_a_step_kept_apart_commits_each_shard_and_looks_first(archive, tmp_path, tiny_bundle, monkeypatch):
    """As an engine does that opens all shards before it captions one."""
    options = options_for(archive, tmp_path / "out", tiny_bundle)
    refs = [PhotoRef(str(path), "1-1") for path in sorted(archive.glob("*.jpg"))]
    streams = [PhotoStream(shard) for shard in shards_of(refs, 16)]
    handler = caption_shard.CaptionHandler(options)
    loaded = handler.load_model()
    for stream in streams[:2]:
        (path,) = handler.run_inference(stream, loaded)
        assert [row["photo"] for row in ds.dataset(path).to_table().to_pylist()] == [
            ref.photo for ref in stream.shard.photos
        ]
    monkeypatch.setattr(PhotoStream, "pictures", lambda *_: pytest.fail("reads photos"))
    assert list(handler.run_inference(streams[0], loaded)) == []
    stopping.stop(options.folder, "enough")
    assert list(handler.run_inference(streams[2], loaded)) == []
    assert len(rows_of(tmp_path / "out")) == 32


def test_exports_are_copies_of_the_rows(archive, tmp_path, tiny_bundle, monkeypatch):
    import tensorflow as tf

    # Several times a file.
    monkeypatch.setattr(tf_examples, "_ENCODED_ROWS", 10)
    monkeypatch.setattr(copies, "_ENCODED_ROWS", 10)
    output = tmp_path / "out"
    (archive / "empty.jpg").write_bytes(b"")
    captioned(archive, output, tiny_bundle, "--limit", "5", "--alternatives", "1")
    captioned(archive, output, tiny_bundle, "--alternatives", "1", "--export", "jsonl")
    captioned(archive, output, tiny_bundle, "--alternatives", "1", "--export", "tfrecord")
    rows = {row["photo"]: row for row in rows_of(output)}
    lines = [json.loads(line) for file in output.glob("exports/jsonl/run=*/*.jsonl") for line in file.open()]
    assert {line["photo"]: line["caption"] for line in lines} == {photo: row["caption"] for photo, row in rows.items()}
    files = [str(file) for file in output.glob("exports/tfrecord/run=*/*.tfrecord.gz")]
    written = [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(files, "GZIP")]
    assert len(written) == len(lines) == len(rows) == 42
    for example in written:
        features = example.features.feature
        row = rows[features["photo"].bytes_list.value[0].decode()]
        assert [v.decode() for v in features["caption"].bytes_list.value] == (
            [row["caption"]] if row["caption"] else []
        )
        others = [v.decode() for v in features["alternatives/caption"].bytes_list.value]
        assert others == [other["caption"] for other in row["alternatives"]]


def test_a_photo_that_the_model_fails_on_costs_no_other(archive, tmp_path, tiny_bundle, monkeypatch):
    import tensorflow as tf

    real = CaptionModel.caption

    def fragile(self, images, *settings):
        if any(image.mean() > 250 for image in images):
            raise tf.errors.ResourceExhaustedError(None, None, "too bright")
        return real(self, images, *settings)

    Image.new("RGB", (30, 30), "white").save(archive / "white.png")
    monkeypatch.setattr(CaptionModel, "caption", fragile)
    captioned(archive, tmp_path / "out", tiny_bundle)
    failed = [row for row in rows_of(tmp_path / "out") if row["status"] == "failed"]
    assert [(Path(r["photo"]).name, r["stage"], r["error"], r["message"]) for r in failed] == [
        ("white.png", "caption", "model_error", "too bright")
    ]
    assert len(rows_of(tmp_path / "out")) == 42


def test_a_fault_of_the_code_is_told_and_costs_no_other_photo(archive, tmp_path, tiny_bundle, monkeypatch, caplog):
    real = CaptionModel.caption

    def wrong(self, images, *settings):
        if any(image.mean() > 250 for image in images):
            raise TypeError("no such argument")
        return real(self, images, *settings)

    Image.new("RGB", (30, 30), "white").save(archive / "white.png")
    Image.new("RGB", (40, 30), "white").save(archive / "snow.png")
    monkeypatch.setattr(CaptionModel, "caption", wrong)
    monkeypatch.setattr(failures, "_logged", set())
    captioned(archive, tmp_path / "out", tiny_bundle)
    failed = [row for row in rows_of(tmp_path / "out") if row["status"] == "failed"]
    assert sorted((Path(row["photo"]).name, row["stage"], row["error"]) for row in failed) == [
        (name, "caption", "internal_error") for name in ("snow.png", "white.png")
    ]
    assert failed[0]["message"].startswith("TypeError: no such argument (tests/test_caption.py, line ")
    assert len(rows_of(tmp_path / "out")) == 43
    # Once, with its traceback.
    (record,) = (record for record in caplog.records if "a fault of Beamscribe" in record.getMessage())
    assert record.levelname == "ERROR" and record.exc_info[0] is TypeError


@pytest.mark.parametrize("lacking", ["a photo's captions", "all captions of a photo"])
def test_a_result_that_lacks_captions_is_a_fault(archive, tmp_path, tiny_bundle, monkeypatch, caplog, lacking):
    real = CaptionModel.caption

    def forgetful(self, images, *settings):
        texts, scores = real(self, images, *settings)
        return (texts[:-1], scores[:-1]) if lacking == "a photo's captions" else (texts[:, :0], scores[:, :0])

    monkeypatch.setattr(CaptionModel, "caption", forgetful)
    for run in (1, 2):
        captioned(archive, tmp_path / str(run), tiny_bundle, "--limit", "8")
        assert {(row["stage"], row["error"]) for row in rows_of(tmp_path / str(run))} == {("caption", "internal_error")}
        # Once in each run, though one process has run both.
        said = [record for record in caplog.records if "a fault of Beamscribe" in record.getMessage()]
        assert len(said) == run and "RuntimeError: the model gave " in said[-1].getMessage() and said[-1].exc_info


def test_batches_that_are_too_large_are_halved(archive, tmp_path, tiny_bundle, monkeypatch, caplog):
    real, sizes = CaptionModel.caption, []

    def small(self, images, *settings):
        sizes.append(len(images))
        if len(images) > 10:
            raise MemoryError("no memory for them")
        return real(self, images, *settings)

    monkeypatch.setattr(CaptionModel, "caption", small)
    captioned(archive, tmp_path / "out", tiny_bundle, "--batch-size", "16", "--shard-size", "64")
    assert [row["status"] for row in rows_of(tmp_path / "out")] == ["captioned"] * 41
    # Of two shards, which the photos' paths choose among, the larger one has 21 photos or more.
    assert sizes.count(8) >= 2 * sizes.count(16) >= 2
    complaint = "a batch of 16 photos failed, smaller ones did not; reduce the batch size: no memory for them"
    assert caplog.messages.count(complaint) == 1


def test_two_worker_processes_caption_the_same(archive, tmp_path, tiny_bundle):
    captioned(archive, tmp_path / "one", tiny_bundle, "--shard-size", "8")
    command = [sys.executable, "-m", "beamscribe", "caption", "--input", archive, "--output", tmp_path / "two"]
    options = ["--bundle", tiny_bundle, "--direct_num_workers", "2", "--direct_running_mode", "multi_processing"]
    subprocess.run([*map(str, command), *map(str, options)], check=True, timeout=300)
    one, two = ({r["photo"]: r["caption"] for r in rows_of(tmp_path / name)} for name in ("one", "two"))
    assert one == two and len(one) == 41


def test_a_lost_row_is_told(archive, tmp_path, tiny_bundle, monkeypatch, capsys):
    real = caption_shard.commit
    monkeypatch.setattr(caption_shard, "commit", lambda result, options: "lost" if result.index == 0 else real)
    assert captioned(archive, tmp_path / "out", tiny_bundle, "--limit", "2") == 1
    assert "000.jpg" in capsys.readouterr().err
    (run,) = runs_of(tmp_path / "out")
    assert not (tmp_path / "out" / "runs" / run / "_SUCCESS").exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--input", "/no/such/folder"], "--input: /no/such/folder does not exist"),
        (["--bundle", "/no/bundle"], "/no/bundle is not a model bundle"),
        (["--max-length", "99"], "--max-length 99: the model writes at most 8 words"),
        (["--top-p", "0.9", "--temperature", "0"], "--temperature 0.0: must be from 0.01 to 100"),
        (["--seed", "2"], "--seed has no effect without --top-p; give --top-p, too"),
        (["--alternatives", "2"], "raise --beam-width"),
        (["--beam-widht", "3"], "unknown option --beam-widht"),
        (["--runner", "NoRunner"], "NoRunner"),
        (["-limit=5"], "unknown option -limit"),
        (["--output", "gs://"], "gs:// names no bucket"),
        (["--input", "gs:///"], "gs:/// names no bucket"),
    ],
)
def test_a_mistake_is_one_clear_line(archive, tmp_path, tiny_bundle, capfd, options, complaint):
    # A later option wins over an earlier one.
    assert captioned(archive, tmp_path / "out", tiny_bundle, *options) == 2
    error = capfd.readouterr().err
    assert complaint in error and error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_one_clear_line(archive, tmp_path, tiny_bundle, capfd):
    (tmp_path / "file").write_text("")
    assert captioned(archive, tmp_path / "file", tiny_bundle) == 2
    assert captioned(archive, tmp_path / "file" / "below", tiny_bundle) == 1
    assert captioned(archive, Path("/proc/none"), tiny_bundle) == 1
    error = capfd.readouterr().err
    assert error.count("\n") == error.count("--output:") == 3


def test_a_changed_bundle_is_refused(archive, tmp_path, tiny_bundle, capfd):
    damaged = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, damaged)
    weights = next(damaged.rglob("variables.data*"))
    data = bytearray(weights.read_bytes())
    data[1000] ^= 1
    weights.write_bytes(data)
    assert captioned(archive, tmp_path / "out", damaged) == 1
    assert "is damaged" in capfd.readouterr().err


def test_archives_lists_and_folders_in_one_run(archive, tmp_path, tiny_bundle, capsys):
    names = sorted(path.name for path in archive.glob("*.jpg"))
    (archive / "notes.txt").write_text("no photo")
    with tarfile.open(tmp_path / "some.tar.gz", "w:gz") as tar:
        for name in names[:10]:
            tar.add(archive / name, name)
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as zipped:
        for name in names[10:30]:
            zipped.write(archive / name, name)
        zipped.writestr("broken.jpg", b"")
    (tmp_path / "list.txt").write_text("photos/sub/rotated.jpg\n")
    inputs = [str(archive / "03*.jpg"), str(tmp_path / "some.tar.gz"), str(tmp_path / "some.zip")]
    inputs.append(str(tmp_path / "list.txt"))
    options = [option for uri in inputs for option in ("--input", uri)]
    output = tmp_path / "out"
    assert captioned(archive / "*", output, tiny_bundle, *options) == 0
    # The glob gives 40, the tar 10, the zip 21 and the list 1; ten of the first are in two inputs.
    rows = rows_of(output)
    assert len(rows) == len({row["photo"] for row in rows}) == 40 + 10 + 21 + 1
    by_bytes = collections.defaultdict(set)
    for row in rows:
        by_bytes[row["sha256"]].add((row["caption"], row["score"], row["width"], row["height"]))
    assert len(by_bytes) == 42 and all(len(captions) == 1 for captions in by_bytes.values())
    failed = [(row["photo"], row["error"]) for row in rows if row["status"] == "failed"]
    assert failed == [(f"{tmp_path}/some.zip#broken.jpg", "empty")]
    printed = capsys.readouterr().out
    assert "listed 72 = skipped 0 + taken over 0 + captioned 71 + failed 1" in printed
    assert "duplicates of other photos, not read: 30" in printed and "ignored files: 1 .txt" in printed
    report = report_of(output, runs_of(output)[0])
    assert (report["duplicates"], report["ignored"]) == (30, {".txt": 1})
    page = (output / "runs" / runs_of(output)[0] / "report.html").read_text()
    assert page.count("<img") == 12
    assert captioned(archive / "*", output, tiny_bundle, *options) == 0
    assert "listed 72 = skipped 72" in capsys.readouterr().out


def test_each_photo_is_read_where_that_is_asked_for(archive, tmp_path, tiny_bundle):
    shutil.copy(archive / "000.jpg", archive / "copy.jpg")
    captioned(archive, tmp_path / "out", tiny_bundle, "--no-deduplicate")
    assert report_of(tmp_path / "out", runs_of(tmp_path / "out")[0])["duplicates"] == 0
    assert len(rows_of(tmp_path / "out")) == 42


def test_a_duplicate_outlives_the_photo_that_was_to_be_read(tmp_path, make_photo):
    shard = Shard(0, tuple(PhotoRef(name, "1", 9, same_as="" if name == "a" else "a", sha256="x") for name in "abc"))
    seen = []

    def rows_of(part: Shard, sha256="x"):
        seen.append([ref.photo for ref in part.photos])
        return [row_of(ref, sha256) for ref in part.photos if not ref.same_as]

    rows = list(caption_shard.with_duplicates(shard, rows_of))
    assert [row.photo for row in rows] == ["a", "b", "c"] and len(seen) == 1
    # It has changed since: the others are read themselves.
    rows = list(caption_shard.with_duplicates(shard, lambda part: rows_of(part, "y")))
    assert [row.photo for row in rows] == ["a", "b", "c"] and seen[-1] == ["b", "c"]


def row_of(ref: PhotoRef, sha256: str) -> CaptionRow:
    now = datetime.datetime.now(datetime.UTC)
    return CaptionRow(
        ref.photo, ref.etag, sha256, 1, 1, "captioned", "a dog", 0.0, (), None, None, None, "model", "settings", now
    )


def test_too_many_failures_stop_the_job(archive, tmp_path, tiny_bundle, capsys, monkeypatch):
    create = stores.create

    def create_slowly(uri: str, data: bytes) -> bool:
        # Else a fast machine is done before anybody looks.
        time.sleep(0.3 if uri.endswith(".parquet") else 0)
        return create(uri, data)

    monkeypatch.setattr(stores, "create", create_slowly)
    monkeypatch.setattr(progress, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(progress, "_STOP_SECONDS", 0.1)
    for number in range(60):
        (archive / f"broken-{number}.jpg").write_bytes(b"text %d" % number)
    output = tmp_path / "out"
    options = ("--shard-size", "4", "--direct_num_workers", "1")
    assert captioned(archive, output, tiny_bundle, "--max-failures", "10%", *options) == 3
    error = capsys.readouterr().err
    assert "photos failed, more than the 10 that --max-failures allows; " in error and "run it again to go on" in error
    assert len(rows_of(output)) < 101
    assert captioned(archive, output, tiny_bundle, "--max-failures", "100%", *options) == 0
    assert len({row["photo"] for row in rows_of(output)}) == len(rows_of(output)) == 101


def test_two_jobs_on_one_output(archive, tmp_path, tiny_bundle, capsys):
    output = tmp_path / "out"
    with lease.hold(str(output), "another run"):
        assert captioned(archive, output, tiny_bundle) == 4
        error = capsys.readouterr().err
        assert f"{output} is in use: another run (process {os.getpid()} on " in error
    assert not rows_of(output)
    assert captioned(archive, output, tiny_bundle) == 0
