"""Committed files that are damaged or can't be read: each way in names the file, and what says what to do."""

import logging
import random
from pathlib import Path

import pytest

import beamscribe
from beamscribe.jobs import cli
from beamscribe.jobs.runners import beam_runner
from beamscribe.model.errors import BeamscribeError, RunError
from beamscribe.pipelines.output import checks, copies, layout, report, rows
from beamscribe.pipelines.output.rows import UnreadableFileError
from tests.test_compact import commit, row


def garble(path: Path) -> None:
    path.write_bytes(b"PAR1" + bytes(200) + b"PAR1")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def break_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/no/such/file")


def misname(path: Path) -> None:
    """A column has a name that is not UTF-8, in the schema of Parquet, of which nothing is checked."""
    path.write_bytes(path.read_bytes().replace(b"settings", b"sett\xfdngs"))


DAMAGES = {garble: "is damaged (", cut: "is damaged (", empty: "is damaged (", misname: "is damaged ("}
DAMAGES[break_link] = "can't be read: No such file or directory"


@pytest.fixture(params=DAMAGES, ids=lambda damage: damage.__name__)
def damaged(request, tmp_path):
    """The damaged file of an output, and what is said of it."""
    output = tmp_path / "out"
    commit(output, "1", row("/p/a.jpg"))
    path = commit(output, "2", *(row(f"/p/{number}.jpg") for number in range(100)))
    request.param(path)
    return path, f"{path} {DAMAGES[request.param]}"


def check(said: str, damaged: tuple[Path, str]) -> None:
    path, problem = damaged
    assert problem in said and said.count(str(path)) == 1
    assert f"`beamscribe verify {path.parents[2]}` says what to do" in said
    assert said.strip().count("\n") == 0 and "Traceback" not in said


@pytest.mark.parametrize("command", [["show"], ["show", "--format", "csv"], ["show", "--failed"]])
def test_show(damaged, tmp_path, capsys, command):
    assert cli.main([*command, str(tmp_path / "out")]) == 1
    check(capsys.readouterr().err, damaged)


@pytest.mark.parametrize("history", [True, False])
def test_read_and_scan(damaged, tmp_path, history):
    for function in (beamscribe.read, lambda *given, **more: list(beamscribe.scan(*given, **more))):
        with pytest.raises(BeamscribeError) as error:
            function(tmp_path / "out", history=history)
        check(str(error.value), damaged)


def test_copies_and_reports_name_it(damaged):
    path, problem = damaged
    with pytest.raises(UnreadableFileError) as error:
        copies.export((str(path), str(path) + ".jsonl"), "jsonl")
    check(str(error.value), damaged)
    with pytest.raises(UnreadableFileError) as error:
        list(rows.read_tables([str(path)], report._COLUMNS))
    assert error.value.problem.startswith(problem) and "verify" not in error.value.problem


def test_compact_and_verify(damaged, tmp_path, capsys):
    path, _ = damaged
    assert cli.main(["compact", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert f"can't read {path} (" in said and f"`beamscribe verify {tmp_path / 'out'}` says what to do" in said
    assert said.count("\n") == 1
    assert str(path) in [finding.subject for finding in checks.verify(str(tmp_path / "out")).findings]


def test_plan_and_caption(damaged, tmp_path, tiny_bundle, make_photo, capsys):
    make_photo(tmp_path / "photos" / "a.jpg")
    given = ["--input", str(tmp_path / "photos"), "--output", str(tmp_path / "out"), "--bundle", str(tiny_bundle)]
    for command in ("plan", "caption"):
        assert cli.main([command, *given]) == 1
        said = capsys.readouterr().err
        check(said, damaged)
        assert said.startswith(f"beamscribe {command}: ")
    assert len(layout.committed_files(str(tmp_path / "out"))) == 2


def test_a_worker_process_names_it_too(tmp_path, tiny_bundle, make_photo, capfd, caplog):
    path = commit(tmp_path / "out", "1", row("/p/a.jpg"))
    garble(path)
    make_photo(tmp_path / "photos" / "a.jpg")
    options = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    with pytest.raises(RunError) as error:
        beamscribe.caption(tmp_path / "photos", tmp_path / "out", bundle=tiny_bundle, beam_options=options)
    check(str(error.value), (path, f"the job stopped: {path} is damaged ("))
    assert capfd.readouterr().err == ""
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_file_that_is_no_shard_has_no_output_to_verify(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"text")
    with pytest.raises(UnreadableFileError) as error:
        rows.read_table(str(path))
    assert str(error.value).startswith(f"{path} is damaged (") and "verify" not in str(error.value)
    with pytest.raises(FileNotFoundError):
        rows.read_table(str(tmp_path / "none"))


def test_whatever_bytes_are_wrong_it_is_damage(tmp_path):
    path = commit(tmp_path, "1", *(row(f"/p/{number}.jpg") for number in range(100)))
    data, draw = path.read_bytes(), random.Random(1)
    for case in range(500):
        # Half of them in the footer, of which there is no checksum.
        wrong, first = bytearray(data), len(data) - 1500 if case % 2 else 0
        for _ in range(draw.choice((1, 1, 3, 20))):
            wrong[draw.randrange(first, len(data))] = draw.randrange(256)
        path.write_bytes(wrong)
        try:
            list(rows.read_batches([str(path)]))
        except UnreadableFileError:
            assert checks.verify(str(tmp_path)).findings


@pytest.mark.parametrize("annotation", ["", " [while running 'CaptionArchive/ReadLedger/ReadEntries-ptransform-8']"])
def test_an_error_of_ours_has_no_name_of_a_class_before_it(annotation):
    text = "Traceback (most recent call last):\n  File 'x', line 1\n"
    text += f"beamscribe.pipelines.output.rows.UnreadableFileError: /a is damaged{annotation}\n"
    assert beam_runner.reason(RuntimeError(text)) == "/a is damaged"
    assert beam_runner.reason(RuntimeError("beamscribe.model.errors.RunError: /a is damaged")) == "/a is damaged"
    assert beam_runner.reason(RuntimeError("OSError: the disk is full")) == "OSError: the disk is full"
