import csv
import dataclasses
import datetime
import io
import json
import os
import pty
import re
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from beamscribe.jobs import cli
from beamscribe.pipelines.photos import CAPTIONED, FAILED, Alternative, CaptionRow, caption_table

FIRST = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
LATER = FIRST + datetime.timedelta(days=1)


def row(photo, caption=None, error=None, written_at=FIRST):
    return CaptionRow(
        photo=photo,
        etag="1-2",
        sha256=None,
        width=4,
        height=3,
        status=FAILED if error else CAPTIONED,
        caption=caption,
        score=None if error else -0.5,
        alternatives=() if error else (Alternative("a cat", -0.75),),
        stage="read" if error else None,
        error=error,
        message="why" if error else None,
        model="f1",
        settings="beam_width=3",
        written_at=written_at,
    )


@pytest.fixture
def commit(tmp_path):
    def write(run, *rows, shard=0):
        path = tmp_path / "captions" / f"run={run}" / f"shard-{shard:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(caption_table(rows), path)

    return write


@pytest.fixture
def shown(tmp_path, capsys):
    """Runs the command and returns what it printed."""

    def run(*arguments):
        assert cli.main(["show", str(tmp_path), *arguments]) == 0
        return capsys.readouterr().out

    return run


def test_table_is_sorted_and_relative(commit, shown):
    commit("1", row("/photos/b/2.jpg", "a dog runs"), row("/photos/a/1.jpg", error="empty"))
    commit("1", row("/photos/b/1.jpg", "two men"), shard=1)
    assert shown().splitlines() == [
        "in /photos/:",
        "",
        "photo    caption",
        "a/1.jpg  failed: empty: why",
        "b/1.jpg  two men",
        "b/2.jpg  a dog runs",
    ]


@pytest.mark.parametrize(("old", "new"), [("1", "2"), ("2", "1")])
def test_the_latest_row_counts_in_whatever_run(commit, shown, old, new):
    commit(new, row("/p/a.jpg", "new", written_at=LATER), row("/p/b.jpg", error="empty", written_at=LATER))
    commit(old, row("/p/a.jpg", error="empty"), row("/p/b.jpg", "old"), row("/p/c.jpg", "kept"))
    assert shown().splitlines()[3:] == ["a.jpg  new", "b.jpg  failed: empty: why", "c.jpg  kept"]
    assert shown("--failed").splitlines()[3:] == ["b.jpg  failed: empty: why"]


def test_a_failure_that_may_pass_hides_no_caption(commit, shown):
    commit("1", row("/p/a.jpg", "old"), row("/p/b.jpg", error="timeout"))
    commit("2", row("/p/a.jpg", error="timeout", written_at=LATER))
    assert shown().splitlines()[3:] == ["a.jpg  old", "b.jpg  failed: timeout: why"]


def test_the_history_has_all_rows_and_the_table_no_photo_that_is_gone(commit, shown):
    commit("1", row("/p/a.jpg", "old"), row("/p/b.jpg", "kept"))
    commit("2", dataclasses.replace(row("/p/a.jpg", "old", written_at=LATER), status="gone"))
    assert shown().splitlines()[3:] == ["b.jpg  kept"]
    assert shown("--history").splitlines()[3:] == ["a.jpg  old", "a.jpg  gone", "b.jpg  kept"]


def test_rows_of_the_same_moment_count_once(commit, shown):
    commit("1", row("/p/a.jpg", "one"))
    commit("2", row("/p/a.jpg", "other"))
    assert shown().splitlines()[3:] == ["a.jpg  one"]


def test_table_says_how_many_more_there_are(commit, shown):
    commit("1", *(row(f"/p/{number:03d}.jpg", "a dog") for number in range(60)))
    assert shown().endswith("049.jpg  a dog\n\n10 more; --limit 0 prints all\n")
    assert shown("--limit", "2").endswith("001.jpg  a dog\n\n58 more; --limit 0 prints all\n")
    assert shown("--limit", "0").endswith("059.jpg  a dog\n")


def test_csv(commit, shown):
    commit("1", *(row(f'/p/{number}, "x".jpg', "a dog") for number in range(60)))
    records = list(csv.DictReader(io.StringIO(shown("--format", "csv"))))
    assert len(records) == 60
    assert records[0]["photo"] == '/p/0, "x".jpg'
    assert (records[0]["score"], records[0]["error"]) == ("-0.5", "")
    assert records[0]["written_at"] == FIRST.isoformat()
    assert len(shown("--format", "csv", "--limit", "3").splitlines()) == 4


def test_jsonl(commit, shown):
    commit("1", row("/p/a.jpg", "a dog"), row("/p/b.jpg", error="empty"))
    commit("2", row("/p/c.jpg", error="empty"))
    records = [json.loads(line) for line in shown("--format", "jsonl").splitlines()]
    assert [record["photo"] for record in records] == ["/p/a.jpg", "/p/b.jpg", "/p/c.jpg"]
    assert records[0]["alternatives"] == [{"caption": "a cat", "score": -0.75}]
    failed = shown("--format", "jsonl", "--failed", "--limit", "1").splitlines()
    assert [json.loads(line)["photo"] for line in failed] == ["/p/b.jpg"]


def test_photos_without_a_common_folder(commit, shown):
    commit("1", row("gs://bucket/a.jpg", "a dog"), row("/p/b.jpg", "two men"))
    assert shown().splitlines() == [
        "photo              caption",
        "/p/b.jpg           two men",
        "gs://bucket/a.jpg  a dog",
    ]


def test_no_failures(commit, shown):
    commit("1", row("/p/a.jpg", "a dog"))
    assert shown("--failed") == "no photo failed\n"


def test_names_can_not_command_the_terminal(commit, shown):
    commit("1", row("/p/\x1b[31ma\nb.jpg", "a \x07dog"))
    assert shown().splitlines()[3:] == ["\\x1b[31ma\\nb.jpg  a \\x07dog"]


def test_csv_commands_neither_a_terminal_nor_a_spreadsheet(commit, shown):
    names = ["/p/a\x1b[31m.jpg", '/p/b\r\n"c",.jpg', "=1+1.jpg"]
    commit("1", *(row(name, caption) for name, caption in zip(names, ("=HYPERLINK(1)", "-1", "@a\nb"), strict=True)))
    found = list(csv.DictReader(io.StringIO(shown("--format", "csv"), newline="")))
    assert [line["photo"] for line in found] == ["/p/a\\x1b[31m.jpg", '/p/b\\r\\n"c",.jpg', "'=1+1.jpg"]
    assert [line["caption"] for line in found] == ["'=HYPERLINK(1)", "'-1", "'@a\\nb"]
    assert all(float(line["score"]) < 0 for line in found)
    # JSON has its own escapes.
    assert [json.loads(line)["photo"] for line in shown("--format", "jsonl").splitlines()] == names


def test_fits_a_narrow_terminal(commit, tmp_path):
    commit(
        "1", row("/p/folder/a-photo-with-a-long-name.jpg", "a dog runs through the tall grass"), row("/p/b.jpg", "x")
    )
    arguments = [sys.executable, "-m", "beamscribe", "show", str(tmp_path)]
    main, terminal = pty.openpty()
    with subprocess.Popen(arguments, stdout=terminal, env={**os.environ, "COLUMNS": "40", "TERM": "xterm"}) as process:
        process.wait(timeout=60)
    os.close(terminal)
    text = re.sub("\x1b\\[[0-9;]*m", "", os.read(main, 100_000).decode())
    os.close(main)
    assert "grass" in text and "tall" in text
    assert all(len(line) <= 40 for line in text.splitlines() if not line.startswith("in "))


@pytest.mark.parametrize("part", [slice(0, 200), slice(0, 0)])
def test_a_damaged_file_is_a_line(commit, tmp_path, capsys, part):
    commit("1", *(row(f"/p/{number}.jpg", "a dog") for number in range(100)))
    (path,) = tmp_path.rglob("*.parquet")
    data = path.read_bytes()
    path.write_bytes(data[part])
    assert cli.main(["show", str(tmp_path)]) == 1
    # The first page's header.
    path.write_bytes(data[:4] + bytes(40) + data[44:])
    assert cli.main(["show", str(tmp_path)]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert all("is damaged (" in line and "` says what to do" in line for line in lines)


def test_folders_that_hold_no_captions(tmp_path, capsys):
    assert cli.main(["show", str(tmp_path)]) == 2
    assert "holds no captions" in capsys.readouterr().err
    assert cli.main(["show", str(tmp_path / "none")]) == 2
    assert "no folder" in capsys.readouterr().err
    # As where a shell variable is not set.
    assert cli.main(["show", ""]) == 2
    assert "`OUTPUT` is empty" in capsys.readouterr().err
    assert cli.main(["show", str(tmp_path), "--limit", "-1"]) == 2
    assert "--limit -1" in capsys.readouterr().err


def test_a_run_that_has_committed_nothing_yet(tmp_path, capsys):
    (tmp_path / "runs" / "1").mkdir(parents=True)
    (tmp_path / "runs" / "1" / "config.json").write_text("{}")
    assert cli.main(["show", str(tmp_path)]) == 0
    assert "holds no captions yet" in capsys.readouterr().err


def test_a_reader_that_leaves_early(tmp_path, commit):
    commit("1", *(row(f"/p/{number}.jpg", "a dog " * 20) for number in range(2000)))
    command = [sys.executable, "-m", "beamscribe", "show", str(tmp_path), "--format", "csv"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline().startswith(b"photo,")
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
