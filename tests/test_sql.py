"""`beamscribe sql`: views of DuckDB give the rows that every other reader gives."""

import dataclasses
import datetime
import subprocess
import sys

import duckdb
import numpy as np
import pytest

import beamscribe
from beamscribe.pipelines.output import duckdb_views, edits, layout, rows
from beamscribe.pipelines.photos import CAPTION_SCHEMA, Origin
from tests.test_compact import commit, files, row
from tests.test_older_versions import unpacked

ERRORS = ("not_found", "truncated", "decoder_killed", "unreadable")


def drawn(draw, index):
    """A row of any kind."""
    kind = draw.choice(["captioned", "failed", "gone", "gone failed", "edit", "withdrawn", "taken", "taken person"])
    sha, image = (None if draw.random() < 0.3 else f"{draw.integers(3)}" * 64 for _ in range(2))
    made = dataclasses.replace(
        row(f"/p/{draw.integers(6)}.jpg", f"caption {index}", hours=draw.integers(3) + index / 1000),
        etag=f"v{draw.integers(2)}",
        sha256=sha,
        image_sha256=image,
        run_number=[None, 0, 1, 2, 3, 10**15, -1][draw.integers(7)],
        attempts=[None, 0, 1, 3][draw.integers(4)],
    )
    if kind in ("failed", "gone failed"):
        error = ERRORS[draw.integers(len(ERRORS))]
        made = dataclasses.replace(made, caption=None, score=None, stage="read", error=error, message="m")
    changes = {
        "captioned": {"source": ["model", None][draw.integers(2)]},
        "failed": {"status": "failed"},
        "gone": {"status": "gone", "source": ["model", "person"][draw.integers(2)]},
        "gone failed": {"status": "gone"},
        "edit": {"source": "person"},
        "withdrawn": {"status": "withdrawn", "caption": None, "source": "person"},
        "taken": {"taken_from": Origin("/p/9.jpg", 1), "source": "model"},
        "taken person": {"taken_from": Origin("/p/9.jpg", 1), "source": "person"},
    }
    return dataclasses.replace(made, **changes[str(kind)])


@pytest.mark.parametrize("seed", range(12))
def test_the_views_give_what_other_readers_give(tmp_path, seed):
    draw = np.random.default_rng(seed)
    every = [drawn(draw, index) for index in range(60)]
    for run in range(5):
        commit(tmp_path, f"run{run}", *every[run * 12 : run * 12 + 12])
    # An interrupted compaction leaves copies.
    commit(tmp_path, "run9", *every[::7])
    database = duckdb.connect()
    database.execute(duckdb_views.views(str(tmp_path)))
    by_sql = database.execute("select photo, caption, status, error from captions order by all").fetchall()
    tables = rows.latest(files(tmp_path), ["photo", "caption", "status", "error"])
    by_reader = [tuple(found.values()) for table in tables for found in table.to_pylist()]
    assert by_sql == sorted(by_reader, key=lambda found: [(value is None, value or "") for value in found])
    assert database.execute("select count(*) from history").fetchone() == (69,)
    assert [name for name, *_ in database.execute("describe captions").fetchall()] == CAPTION_SCHEMA.names


def test_outputs_of_older_versions_have_all_columns(tmp_path):
    database = duckdb.connect()
    database.execute(duckdb_views.views(str(unpacked("0.1.0/output.tar.xz", tmp_path))))
    found = database.execute("select photo, caption, source, tags, taken_from from captions").fetchall()
    assert found and all(one[2:] == (None, None, None) for one in found)


def test_the_command_prints_the_views(tmp_path):
    output = tmp_path / "it's"
    commit(output, "run", row("/p/a.jpg", "a dog"))
    command = [sys.executable, "-m", "beamscribe", "sql", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == ""
    database = duckdb.connect()
    database.execute(done.stdout)
    assert database.execute("select photo, caption from captions").fetchall() == [("/p/a.jpg", "a dog")]


def test_an_edit_stands_until_it_is_withdrawn(tmp_path):
    output = str(tmp_path)
    made = dataclasses.replace(row("/p/a.jpg", "a dog"), run_number=5, sha256="1" * 64)
    commit(tmp_path, layout.numbered("run", 5), made)

    def captions():
        return beamscribe.read(output, ["caption", "source", "edited_by"]).to_pylist()

    first = edits.write(output, [dataclasses.replace(made, caption="my dog", edited_by="Ada")])
    assert captions() == [{"caption": "my dog", "source": "person", "edited_by": "Ada"}]
    second = edits.write(output, [dataclasses.replace(made, status="withdrawn", caption=None, edited_by="Ada")])
    assert (first, second) == (1, 2)
    assert captions() == [{"caption": "a dog", "source": None, "edited_by": None}]
    now = datetime.datetime.now(datetime.UTC)
    changed = dataclasses.replace(made, sha256="2" * 64, run_number=6, written_at=now)
    commit(tmp_path, layout.numbered("run", 6), changed)
    edits.write(output, [dataclasses.replace(made, caption="my old dog", edited_by="Ada")])
    assert captions() == [{"caption": "a dog", "source": None, "edited_by": None}]
    assert list(rows.to_look_at(files(tmp_path))) == ["/p/a.jpg"]
