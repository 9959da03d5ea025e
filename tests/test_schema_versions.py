"""Shard files of other versions of the schema: earlier ones are read, with nulls where they lack a column."""

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beamscribe.jobs import cli
from beamscribe.pipelines import ledger, photos
from beamscribe.pipelines.output import compaction, layout, row_index, rows, tables
from beamscribe.pipelines.output.rows import NewerFileError, UnreadableFileError
from tests.test_compact import commit, files, row


@pytest.fixture
def later(monkeypatch):
    """A later version of the schema, with one more column."""
    columns = (*photos._COLUMNS, (3, pa.field("orientation", pa.int32())))
    monkeypatch.setattr(photos, "_COLUMNS", columns)
    monkeypatch.setattr(photos, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(compaction, "SCHEMA_VERSION", 3)
    for module in (photos, row_index, tables):
        monkeypatch.setattr(module, "CAPTION_SCHEMA", photos.schema_of(3))


def version_of(path: str) -> int:
    return rows.ShardFile(Path(path).read_bytes(), path).version


def test_files_say_the_version_of_their_schema(tmp_path):
    commit(tmp_path, "1", row("/p/a.jpg"))
    compaction.compact(str(tmp_path))
    (path,) = files(tmp_path)
    assert pq.read_schema(path).metadata[b"schema_version"] == b"2"
    assert photos.version_of(photos.CAPTION_SCHEMA) == 1
    with pytest.raises(pa.ArrowInvalid, match="the version of its schema is b'x', which is not a number"):
        photos.version_of(photos.CAPTION_SCHEMA.with_metadata({"schema_version": "x"}))


def test_an_earlier_file_is_read_verified_and_compacted(tmp_path, capsys, request):
    path = commit(tmp_path, "1", row("/p/a.jpg"), row("/p/b.jpg", error="timeout"))
    # As version 0.1.0 wrote it.
    pq.write_table(pq.read_table(path).select(photos.schema_of(1).names).replace_schema_metadata(), path)
    assert rows.read_table(str(path), ["attempts", "run_number"])["run_number"].null_count == 2
    record = compaction.compact(str(tmp_path)).folded
    request.getfixturevalue("later")
    assert cli.main(["verify", str(tmp_path)]) == 0
    commit(tmp_path, "2", row("/p/c.jpg"))
    new, old = sorted(files(tmp_path), key=lambda path: "compacted" in path)
    assert [version_of(path) for path in (old, new)] == [2, 3]
    table = rows.read_table(old, ["photo", "orientation"])
    assert table.schema.names == ["photo", "orientation"] and table["orientation"].null_count == 2
    (latest, _) = rows.latest([old, new])
    assert latest.schema.names == photos.CAPTION_SCHEMA.names and latest["orientation"].null_count == 2
    assert sum(len(entries) for _, entries in ledger.entries_of([old], ledger.DoneRule("m", "s"))) == 2
    again = compaction.compact(str(tmp_path)).folded
    # The digest of a source is of the columns that it has.
    assert {file.digest for file in record.results} <= {file.digest for file in again.sources}
    (path,) = files(tmp_path)
    assert version_of(path) == 3
    assert pq.read_schema(path).names == photos.CAPTION_SCHEMA.names
    assert cli.main(["verify", str(tmp_path)]) == 0


def test_a_later_file_is_refused_in_a_line(tmp_path, capsys):
    path = commit(tmp_path, "1", row("/p/a.jpg"))
    table = pq.read_table(path)
    table = table.append_column("orientation", pa.array([1])).replace_schema_metadata({"schema_version": "3"})
    pq.write_table(table, path)
    said = (
        f"{path} was written by a newer version of Beamscribe (its schema has version 3, this one reads up to "
        "version 2); upgrade Beamscribe"
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
    assert [field.name for field in dataclasses.fields(photos.CaptionRow)] == photos.CAPTION_SCHEMA.names
