"""The commands `plan`, which says what `caption` would do, and `stop`."""

import os
import threading
from pathlib import Path

import pytest

import beamscribe
from beamscribe.jobs import cli


@pytest.fixture
def photos(tmp_path, make_photo) -> Path:
    for index in range(10):
        make_photo(tmp_path / "photos" / f"{index}.jpg")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"x")
    (tmp_path / "photos" / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "photos" / "notes.txt").write_text("no photo")
    return tmp_path / "photos"


@pytest.fixture
def planned(photos, tmp_path, tiny_bundle, capsys):
    """Plans a run; returns what the command prints, line by line."""

    def run(*more: str) -> list[str]:
        before = everything_below(tmp_path)
        given = ["--input", str(photos), "--output", str(tmp_path / "out"), "--bundle", str(tiny_bundle)]
        assert cli.main(["plan", *given, *more]) == 0
        assert everything_below(tmp_path) == before
        return capsys.readouterr().out.splitlines()

    return run


def everything_below(folder: Path) -> dict[str, int]:
    return {str(path): os.lstat(path).st_mtime_ns for path in folder.rglob("*")}


def test_a_plan_says_what_a_run_then_does(planned, photos, tmp_path, tiny_bundle, make_photo):
    assert planned() == [
        "listed 12 = to skip 0 + to caption 12",
        "  to caption: 12 new",
        f"{photos}: 12 photos",
        "ignored files: 1 .txt",
    ]
    report = beamscribe.caption(photos, tmp_path / "out", bundle=tiny_bundle)
    assert (report.listed, report.captioned + report.failed) == (12, 12)
    make_photo(photos / "new.jpg")
    make_photo(photos / "3.jpg", width=99)
    said = planned("--quiet")
    assert said[0] == "listed 13 = to skip 10 + to caption 3"
    assert set(said[1:6]) == {
        "  to skip: 9 captioned",
        "  to skip: 1 failed for good",
        "  to caption: 1 new",
        "  to caption: 1 changed since they were captioned",
        "  to caption: 1 failed for a reason that may have passed",
    }
    report = beamscribe.caption(photos, tmp_path / "out", bundle=tiny_bundle)
    assert (report.listed, report.skipped, report.captioned + report.failed) == (13, 10, 3)


def test_the_reasons(planned, photos, tmp_path, tiny_bundle):
    beamscribe.caption(photos, tmp_path / "out", bundle=tiny_bundle)
    other = "  to skip: 10 captioned by another model or with other settings, which is left as it is"
    for more, expected in (
        (["--recaption", "all"], "  to caption: 10 captioned, to be captioned again"),
        (["--recaption", "failed"], "  to caption: 1 failed for good, to be tried again"),
        (["--recaption", "failed"], "  to skip: 10 captioned"),
        (["--max-length", "2"], other),
        (["--max-length", "2", "--recaption", "settings"], "  to caption: 10 captioned with other settings"),
        (["--limit", "4"], "listed 4 = to skip 4 + to caption 0"),
    ):
        assert expected in planned(*more)


def test_the_runner_need_not_be_there(planned):
    assert planned("--runner=FlinkRunner", "--flink_master=localhost:1")[0] == "listed 12 = to skip 0 + to caption 12"


def test_nothing_to_list(tmp_path, tiny_bundle, capsys):
    (tmp_path / "empty").mkdir()
    given = ["plan", "--input", str(tmp_path / "empty"), "--output", str(tmp_path / "out")]
    assert cli.main(given) == 5
    said = capsys.readouterr()
    assert "listed 0" in said.out and "make sure that its disk is mounted" in said.err
    assert cli.main([*given, "--allow-empty"]) == 0
    assert cli.main([*given, "--limit", "0"]) == 2


def test_nothing_to_stop(photos, tmp_path, tiny_bundle, capsys):
    beamscribe.caption(photos, tmp_path / "out", bundle=tiny_bundle)
    assert cli.main(["stop", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == "no run is going on\n"
    assert cli.main(["stop", str(tmp_path / "out"), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert cli.main(["stop", str(tmp_path / "nowhere")]) == 2


def test_a_run_is_stopped(photos, tmp_path, tiny_bundle, capsys):
    output = tmp_path / "out"

    def stop(_):
        if threading.current_thread() is not threading.main_thread() and not list(output.glob("runs/*/stop.json")):
            assert cli.main(["stop", str(output)]) == 0

    # Once there is a plan. Shards that are open are committed, so that the run may be done all the same.
    try:
        beamscribe.caption(photos, output, bundle=tiny_bundle, progress=stop)
    except beamscribe.Stopped as error:
        assert "by `beamscribe stop`" in str(error)
    (run,) = (output / "runs").iterdir()
    assert f"run {run.name} takes no more shards" in capsys.readouterr().out
