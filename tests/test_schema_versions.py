"""Shard files of other versions of the schema: earlier ones are read, with nulls where they lack a column."""

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beamscribe.jobs import cli
from beamscribe.pipelines import ledger, photos, stores
from beamscribe.pipelines.output import checks, compaction, digests, layout, row_index, rows, tables
from beamscribe.pipelines.output.rows import NewerFileError, UnreadableFileError
from tests.test_compact import commit, files, row

# What the files of this version and of the next one say.
OURS, LATER = photos.SCHEMA_VERSION, photos.SCHEMA_VERSION + 1


@pytest.fixture
def later(monkeypatch):
    """A later version of the schema, with one more column."""
    columns = (*photos._COLUMNS, (LATER, pa.field("mood", pa.int32())))
    monkeypatch.setattr(photos, "_COLUMNS", columns)
    monkeypatch.setattr(photos, "SCHEMA_VERSION", LATER)
    monkeypatch.setattr(compaction, "SCHEMA_VERSION", LATER)
    for module in (photos, row_index, tables):
        monkeypatch.setattr(module, "CAPTION_SCHEMA", photos.schema_of(LATER))


def version_of(path: str) -> int:
    return rows.ShardFile(Path(path).read_bytes(), path).version


def test_files_say_the_version_of_their_schema(tmp_path):
    commit(tmp_path, "1", row("/p/a.jpg"))
    compaction.compact(str(tmp_path))
    (path,) = files(tmp_path)
    assert pq.read_schema(path).metadata[b"schema_version"] == b"3"
    assert photos.version_of(photos.CAPTION_SCHEMA) == 1
    with pytest.raises(pa.ArrowInvalid, match="the version of its schema is b'x', which is not a number"):
        photos.version_of(photos.CAPTION_SCHEMA.with_metadata({"schema_version": "x"}))


def as_written_by(version: int, path: Path) -> None:
    """Makes a file what an earlier version of Beamscribe would have written; 0.1.0 did not say its version."""
    table = pq.read_table(path).select(photos.schema_of(version).names)
    pq.write_table(table.replace_schema_metadata({"schema_version": str(version)} if version > 1 else None), path)


@pytest.mark.parametrize("version", range(1, OURS))
def test_an_earlier_file_is_read_verified_and_compacted(tmp_path, capsys, request, version):
    path = commit(tmp_path, "1", row("/p/a.jpg"), row("/p/b.jpg", error="timeout"))
    as_written_by(version, path)
    assert rows.read_table(str(path), ["source", "run_number"])["source"].null_count == 2
    record = compaction.compact(str(tmp_path)).folded
    request.getfixturevalue("later")
    assert cli.main(["verify", str(tmp_path)]) == 0
    commit(tmp_path, "2", row("/p/c.jpg"))
    new, old = sorted(files(tmp_path), key=lambda path: "compacted" in path)
    assert [version_of(path) for path in (old, new)] == [OURS, LATER]
    table = rows.read_table(old, ["photo", "mood"])
    assert table.schema.names == ["photo", "mood"] and table["mood"].null_count == 2
    (latest, _) = rows.latest([old, new])
    assert latest.schema.names == photos.CAPTION_SCHEMA.names and latest["mood"].null_count == 2
    assert sum(len(entries) for _, entries in ledger.entries_of([old], ledger.DoneRule("m", "s"))) == 2
    again = compaction.compact(str(tmp_path)).folded
    # The digest of a source is of the columns that it has.
    assert {file.digest for file in record.results} <= {file.digest for file in again.sources}
    (path,) = files(tmp_path)
    assert version_of(path) == LATER
    assert pq.read_schema(path).names == photos.CAPTION_SCHEMA.names
    assert cli.main(["verify", str(tmp_path)]) == 0


def test_a_later_file_is_refused_in_a_line(tmp_path, capsys):
    path = commit(tmp_path, "1", row("/p/a.jpg"))
    table = pq.read_table(path)
    table = table.append_column("mood", pa.array([1])).replace_schema_metadata({"schema_version": str(LATER)})
    pq.write_table(table, path)
    said = (
        f"{path} was written by a newer version of Beamscribe (its schema has version 4, this one reads up to "
        "version 3); upgrade Beamscribe"
    )
    for command in ("show", "verify", "compact"):
        assert cli.main([command, str(tmp_path)]) == 1
        assert capsys.readouterr().err == f"beamscribe {command}: {said}\n"
    with pytest.raises(NewerFileError):
        list(ledger.entries_of([str(path)], ledger.DoneRule("m", "s")))
    assert files(tmp_path) == [str(path)]


def test_a_later_file_stops_the_next_run(tmp_path, tiny_bundle, make_photo, capsys):
    make_photo(tmp_path / "photos" / "a.jpg")
    path = commit(tmp_path / "out", "1", row("/p/a.jpg"))
    pq.write_table(pq.read_table(path).replace_schema_metadata({"schema_version": "7"}), path)
    given = ["--input", str(tmp_path / "photos"), "--output", str(tmp_path / "out"), "--bundle", str(tiny_bundle)]
    assert cli.main(["caption", *given]) == 1
    error = capsys.readouterr().err
    assert "was written by a newer version of Beamscribe" in error and "Traceback" not in error
    assert layout.committed_files(str(tmp_path / "out")) == [str(path)]


def test_a_file_that_lacks_a_column_of_its_version_is_damaged(tmp_path, capsys):
    path = commit(tmp_path, "1", row("/p/a.jpg"))
    pq.write_table(pq.read_table(path).drop_columns(["etag"]), path)
    with pytest.raises(UnreadableFileError, match="the column etag is missing"):
        rows.read_table(str(path))
    assert cli.main(["show", str(tmp_path), "--format", "csv"]) == 1
    assert "is damaged" in capsys.readouterr().err


def test_rows_have_the_columns_of_the_schema():
    names = [field.name for field in dataclasses.fields(photos.CaptionRow)]
    assert sorted(names) == sorted(photos.CAPTION_SCHEMA.names)


@pytest.mark.parametrize(("version", "total"), [(1, "ed1fe400a015e78b"), (2, "e82f687f2a07bdf2")])
def test_the_digests_of_earlier_versions_are_those_that_their_records_hold(version, total):
    """As earlier versions computed them: otherwise their compactions would seem damaged."""
    last = dataclasses.replace(row("/p/c.jpg", "", 3), attempts=0, run_number=7, alternatives=())
    table = photos.caption_table([row("/p/ü.jpg"), row("/p/b.jpg", error="timeout"), last])
    found = digests.of_rows(table, photos.schema_of(version).names)
    assert f"{digests.total(found):016x}" == total


@pytest.mark.parametrize("version", range(1, OURS))
def test_a_compaction_of_an_earlier_version_is_verified_and_gone_on_with(tmp_path, version):
    """One that was interrupted before it deleted anything: its record has neither edits nor tombstones."""
    sources = commit(tmp_path, "1", row("/p/a.jpg"), row("/p/b.jpg")), commit(tmp_path, "2", row("/p/a.jpg", hours=1))
    result = commit(tmp_path, "3-compacted", row("/p/a.jpg", hours=1), row("/p/b.jpg"))
    for path in (*sources, result):
        as_written_by(version, path)
    records = [file_record(tmp_path, path) for path in (*sources, result)]
    record = {
        "run": "3-compacted",
        "written_at": "2026-01-02T03:04:05+00:00",
        "runs": ["1", "2"],
        "rows": 2,
        "digest": records[2]["digest"],
        "sources": records[:2],
        "results": records[2:],
    }
    stores.replace(layout.run_file(str(tmp_path), "3-compacted", layout.COMPACTION), json.dumps(record).encode())
    assert checks.verify(str(tmp_path)).findings == []
    assert compaction.compact(str(tmp_path)) == (None, 2)
    assert files(tmp_path) == [str(result)] and checks.verify(str(tmp_path)).findings == []
    assert compaction.compact(str(tmp_path)) == (None, 0)


def file_record(output: Path, path: Path) -> dict:
    data = path.read_bytes()
    file = rows.ShardFile(data, str(path))
    total = digests.total(digests.of_rows(pq.read_table(path), file.columns))
    name = str(path.relative_to(output))
    return {"file": name, "rows": file.rows, "bytes": len(data), "digest": f"{total:016x}"}
