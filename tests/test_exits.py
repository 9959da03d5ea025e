"""Each exit status of docs/exits.md is brought about by the command, and its error by `beamscribe.caption`."""

import errno
import logging
import os
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import beamscribe
from beamscribe.jobs import caption_function, cli, exits
from beamscribe.model import errors
from beamscribe.model.captioners.exported_model import CaptionModel
from beamscribe.pipelines import stores
from beamscribe.pipelines.control import lease
from beamscribe.pipelines.control.holder import Holder
from beamscribe.pipelines.failures import ErrorCode
from beamscribe.pipelines.output import layout

ROOT = Path(__file__).parents[1]


class BrokenPath(os.PathLike):
    def __fspath__(self):
        return 5


class BytesPath(os.PathLike):
    """A path as bytes, as some libraries for files give it."""

    def __init__(self, path: Path):
        self._path = path

    def __fspath__(self):
        return os.fsencode(self._path)


@pytest.fixture
def photos(tmp_path, make_photo) -> Path:
    for index in range(24):
        make_photo(tmp_path / "photos" / f"{index:02d}.jpg")
    return tmp_path / "photos"


@pytest.fixture
def by_command(photos, tmp_path, tiny_bundle):
    """Captions the photos by the command; returns the exit status."""

    def run(*more: str, inputs: tuple[Path, ...] = (photos,)) -> int:
        given = [f"--input={uri}" for uri in inputs]
        return cli.main(["caption", *given, f"--output={tmp_path / 'out'}", f"--bundle={tiny_bundle}", *more])

    return run


@pytest.fixture
def by_function(photos, tmp_path, tiny_bundle):
    """Captions the photos by the function."""

    def run(**more):
        return beamscribe.caption(**{"inputs": photos, "output": tmp_path / "out", "bundle": tiny_bundle, **more})

    return run


@pytest.fixture
def slow(monkeypatch):
    """Makes each batch take a while."""
    caption = CaptionModel.caption

    def slowly(*arguments):
        time.sleep(0.3)
        return caption(*arguments)

    monkeypatch.setattr(CaptionModel, "caption", slowly)


@pytest.fixture
def faulty(monkeypatch):
    """Makes the model fail by a fault of our own, on one of the photos."""
    caption = CaptionModel.caption

    def fail(self, images, *more):
        if len(images) > 1:
            raise TypeError("an own fault in a batch")
        if images.sum() % 2:
            raise TypeError("an own fault")
        return caption(self, images, *more)

    monkeypatch.setattr(CaptionModel, "caption", fail)


def succeeded(tmp_path) -> bool:
    """Whether the latest run has a `_SUCCESS`."""
    runs = sorted((tmp_path / "out" / "runs").iterdir())
    assert (runs[-1] / layout.REPORT).exists()
    return (runs[-1] / layout.SUCCESS).exists()


def test_0_done(by_command, by_function, tmp_path, photos):
    (photos / "broken.jpg").write_bytes(b"")
    assert by_command() == 0
    assert succeeded(tmp_path)
    report = by_function()
    assert (report.listed, report.skipped, report.captioned, report.failed) == (25, 25, 0, 0)
    assert succeeded(tmp_path)
    # What was captioned earlier is no news.
    assert report.samples == ()


def test_1_a_fault_of_our_own(by_command, by_function, faulty, tmp_path, caplog, capsys):
    with caplog.at_level(logging.ERROR):
        assert by_command("--shard-size", "8") == 1
    assert not succeeded(tmp_path)
    table = beamscribe.read(tmp_path / "out", ["status", "error", "message"]).to_pylist()
    assert len(table) == 24
    failed = [row for row in table if row["status"] == "failed"]
    # The others of a batch don't suffer.
    assert 0 < len(failed) < 24 and {row["error"] for row in failed} == {ErrorCode.INTERNAL_ERROR}
    tracebacks = [record for record in caplog.records if record.exc_info]
    # One for each line of the code that fails.
    assert [str(record.exc_info[1]) for record in tracebacks] == ["an own fault in a batch", "an own fault"]
    assert f"a fault of Beamscribe itself failed {len(failed)} photos" in capsys.readouterr().err
    with pytest.raises(beamscribe.RunError, match="TypeError: an own fault") as error:
        by_function()
    assert error.value.report.failed == len(failed)


def test_1_a_heartbeat_that_can_not_be_written(by_function, tmp_path, monkeypatch):
    replace = stores.replace

    def fail(uri, data):
        if uri.endswith(".beat"):
            raise OSError(errno.EACCES, "Permission denied")
        replace(uri, data)

    monkeypatch.setattr(stores, "replace", fail)
    with pytest.raises(
        beamscribe.RunError, match="heartbeat of the lease can't be written: Permission denied"
    ) as error:
        by_function()
    # What it could do is done.
    assert error.value.report.captioned == 24 and not succeeded(tmp_path)


def test_1_a_pipeline_that_fails(by_function, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "committed_files", lambda *_: 1 / 0)
    with pytest.raises(beamscribe.RunError, match="the job stopped: division by zero") as error:
        by_function()
    assert error.value.report is None
    assert "ZeroDivisionError" in next((tmp_path / "out").glob("runs/*/error.txt")).read_text()


@pytest.mark.parametrize(
    ("option", "argument", "complaint"),
    [
        (("--input", "/nowhere"), {"inputs": "/nowhere"}, "/nowhere does not exist"),
        (("--bundle", "/nowhere"), {"bundle": "/nowhere"}, "/nowhere is not a model bundle"),
        (("--beam-width", "0"), {"settings": {"beam_width": 0}}, "beam.width` 0|beam-width 0"),
        (("--alternatives", "7"), {"alternatives": 7}, "a beam width of 2 gives at most 1"),
        (("--max-failures", "x"), {"max_failures": "x"}, "must be a number of photos, or a percentage"),
        (("--limit", "0"), {"limit": 0}, "limit`? 0: must be at least 1"),
        (("--recaption", "nothing"), {"recaption": "nothing"}, "nothing"),
        (("--runner", "Nobody"), {"beam_options": ["--runner=Nobody"]}, "Beam has no runner Nobody"),
        (("--export", "csv"), {"export": "csv"}, "csv"),
        (("--dry_run",), {"beam_options": ["--dry_run"]}, "use `beamscribe plan`"),
        (
            ("--direct_num_wrokers=3",),
            {"beam_options": ["--direct_num_wrokers=3"]},
            "did you mean --direct_num_workers",
        ),
    ],
)
def test_2_wrong_use(by_command, by_function, option, argument, complaint, tmp_path, capsys):
    inputs = () if option[0] == "--input" else (tmp_path / "photos",)
    assert by_command(*option, inputs=inputs) == 2
    said = capsys.readouterr().err
    assert re.search(complaint, said) and said.count("\n") == 1
    with pytest.raises(beamscribe.InputError, match=complaint):
        by_function(**argument)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ({"inputs": 5}, "`inputs` must be a text, or a list of texts, not 5 (int)"),
        ({"inputs": [5]}, "`inputs` must be a path or a URI, not 5 (int)"),
        ({"inputs": []}, "`inputs` is empty"),
        ({"inputs": ["photos", ""]}, "`inputs` is empty"),
        ({"inputs": "a\0b"}, "`inputs` a\\x00b: no name can hold the character NUL"),
        ({"inputs": "no\nwhere"}, "no\\nwhere does not exist"),
        ({"output": None}, "`output` must be a path or a URI, not None (NoneType)"),
        ({"output": "a\0b"}, "`output` a\\x00b: no name can hold the character NUL"),
        ({"output": BrokenPath()}, "`output` must be a path or a URI: "),
        ({"bundle": ""}, "`bundle` is empty"),
        ({"bundle": []}, "`bundle` must be a path or a URI, not [] (list)"),
        ({"bundle": "a\0b"}, "`bundle` a\\x00b: no name can hold"),
        ({"allow_empty": 1}, "`allow_empty` must be True or False, not 1 (int)"),
        ({"allow_empty": None}, "`allow_empty` must be True or False, not None"),
        ({"hidden": "no"}, "`hidden` must be True or False"),
        ({"deduplicate": 0}, "`deduplicate` must be True or False"),
        ({"export": ["jsonl"]}, "`export` must be one of tfrecord, jsonl, not ['jsonl'] (list)"),
        ({"max_failures": True}, "`max_failures` must be a whole number, not True"),
        ({"max_failures": 10**5000}, "`max_failures` is too large"),
        ({"max_failures": "9" * 5000}, "must be a number of photos, or a percentage"),
        ({"uri_column": 5}, "`uri_column` must be a text, not 5 (int)"),
        ({"image_column": b"x"}, "`image_column` must be a text, not b'x' (bytes)"),
        ({"name_column": ["x"]}, "`name_column` must be a text, not ['x'] (list)"),
        ({"gpu": 5}, "`gpu` must be a text, not 5 (int)"),
        ({"include": b"x"}, "`include` must be a text, or a list of texts, not b'x' (bytes)"),
        (
            {"exclude": ["x", np.zeros((99, 99))]},
            "`exclude` must be a text, or a list of texts; one of them is array([[",
        ),
        ({"limit": True}, "`limit` must be a whole number, not True"),
        ({"stop": 5}, "`stop` must be a threading.Event, not 5 (int)"),
        ({"progress": 3}, "`progress` must be a function, not 3 (int)"),
        ({"beam_options": "--runner=X"}, "`beam_options` must be a list of texts, one for each option, or Pipeline"),
        (
            {"beam_options": None},
            "`beam_options` must be a list of texts, one for each option, or PipelineOptions, not",
        ),
        ({"beam_options": 5}, "PipelineOptions, not 5 (int)"),
        ({"beam_options": ["--runner", 5]}, "PipelineOptions; one of them is 5 (int)"),
        ({"beam_options": (option for option in ["--runner=Nobody"])}, "Beam has no runner Nobody"),
        ({"settings": {"beam_widht": 5}}, "beam_width"),
    ],
)
def test_2_wrong_arguments(by_function, argument, complaint, tmp_path):
    with pytest.raises(beamscribe.InputError, match=re.escape(complaint)) as error:
        by_function(**argument)
    assert str(error.value).isprintable()
    assert not (tmp_path / "out").exists()


def test_paths_of_bytes_and_options_from_a_generator(photos, tmp_path, tiny_bundle):
    job = caption_function.job_of(
        BytesPath(photos),
        BytesPath(tmp_path / "out"),
        bundle=BytesPath(tiny_bundle),
        beam_options=(option for option in ["--direct_num_workers=3"]),
    )
    assert (job.options.inputs, job.options.output) == ((str(photos),), str(tmp_path / "out"))
    assert (job.options.bundle, job.options.workers) == (str(tiny_bundle), 3)


def test_3_too_many_failures(by_command, by_function, photos, tmp_path):
    for index in range(2):
        (photos / f"broken{index}.jpg").write_bytes(b"x")
    assert by_command("--max-failures", "1") == 3
    assert not succeeded(tmp_path)
    with pytest.raises(beamscribe.TooManyFailures, match="2 photos failed, more than the 1 that") as error:
        by_function(max_failures="5%", recaption=["all"])
    assert error.value.report.failed == 2
    assert by_function(max_failures=2, recaption=["all"]).failed == 2


def test_4_the_output_is_in_use(by_command, by_function, tmp_path, capsys):
    with lease.hold(str(tmp_path / "out"), "another job"):
        assert by_command() == 4
        with pytest.raises(beamscribe.OutputInUse, match="is in use: another job"):
            by_function()
    assert "is in use: another job" in capsys.readouterr().err


def test_4_another_job_takes_over(by_function, slow, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    leases = tmp_path / "out" / "leases"

    def take_over(progress):
        if progress.captioned:
            (leases / "00000009.json").write_bytes(Holder.myself("another job").to_json())

    with pytest.raises(beamscribe.OutputInUse, match=r"another job .* took over"):
        by_function(batch_size=1, shard_size=1, progress=take_over)


def test_5_nothing_is_listed(by_command, by_function, photos, tmp_path, capsys):
    empty = tmp_path / "not_mounted"
    empty.mkdir()
    assert by_command(inputs=(empty,)) == 5
    assert not succeeded(tmp_path)
    assert f"no photos in {empty}; make sure that its disk is mounted" in capsys.readouterr().err
    # What is there beside it is captioned.
    assert by_command(inputs=(photos, empty)) == 5
    assert not succeeded(tmp_path)
    assert beamscribe.read(tmp_path / "out").num_rows == 24
    with pytest.raises(beamscribe.NoPhotos) as error:
        by_function(inputs=[empty, photos])
    assert error.value.report.empty_inputs == (str(empty),)
    assert by_command("--allow-empty", inputs=(empty,)) == 0
    assert succeeded(tmp_path)
    assert by_function(inputs=empty, allow_empty=True).listed == 0


def test_5_an_input_that_the_limit_does_not_reach_is_not_empty(by_command, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    assert by_command("--limit", "3", inputs=(photos, tmp_path / "empty")) == 0
    assert by_command("--limit", "3", inputs=(tmp_path / "empty", photos)) == 5


def test_6_stopped(by_command, by_function, slow, tmp_path, capsys):
    def stop():
        while not list(tmp_path.glob("out/captions/*/*.parquet")):
            time.sleep(0.05)
        assert cli.main(["stop", str(tmp_path / "out")]) == 0

    thread = threading.Thread(target=stop)
    thread.start()
    assert by_command("--shard-size", "1", "--batch-size", "1") == 6
    thread.join()
    assert not succeeded(tmp_path)
    assert "stopped early: it was asked to, by `beamscribe stop`" in capsys.readouterr().err
    event = threading.Event()
    with pytest.raises(beamscribe.Stopped) as error:
        by_function(shard_size=1, batch_size=1, stop=event, progress=lambda now: now.captioned and event.set())
    assert 0 < error.value.report.captioned < 24
    left = 24 - beamscribe.read(tmp_path / "out").num_rows
    assert by_function().captioned == left > 0


def test_a_stop_that_was_asked_for_before_begins_nothing(by_function, tmp_path):
    event = threading.Event()
    event.set()
    with pytest.raises(beamscribe.Stopped):
        by_function(stop=event)
    assert not (tmp_path / "out" / "runs").exists()


def test_the_table_is_complete():
    rows = re.findall(r"^\| (\d) \|.*$", (ROOT / "docs" / "exits.md").read_text(), re.MULTILINE)
    statuses = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert [int(row) for row in rows] == sorted(statuses)
    kinds = (errors.InputError, errors.RunError, errors.OutputInUse, errors.NoPhotos, errors.Stopped)
    assert [exits.status_of(kind("x")) for kind in kinds] == [2, 1, 4, 5, 6]
