"""Damaged files of runs, plans and leases: whoever reads one names it in a line, and believes nothing of it."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beamscribe.jobs import cli
from beamscribe.model.documents import DocumentError
from beamscribe.model.errors import BeamscribeError
from beamscribe.pipelines import ledger, stores
from beamscribe.pipelines.control import lease
from beamscribe.pipelines.control.holder import Holder
from beamscribe.pipelines.output import checks, compaction, frozen_plan, layout, rows
from beamscribe.pipelines.output.rows import UnreadableFileError
from beamscribe.pipelines.output.run_documents import Closing, PlannedShard, StopRequest
from beamscribe.pipelines.photos import CAPTION_SCHEMA, PhotoRef, photo_table, retries_of
from tests import made
from tests.test_compact import commit, files, row, stop

WRONG = [
    None,
    -1,
    1e400,
    float("inf"),
    float("nan"),
    "x",
    [],
    {},
    [[[]]],
    {"a": {"b": None}},
    True,
    10**400,
    "2026-01-01",
]
DOCUMENTS = {
    layout.CONFIG: made.config(),
    layout.PLAN: made.plan(shards=(PlannedShard(0, 1, ("x",)),), ignored={".txt": 1}),
    layout.REPORT: made.report(ignored={".txt": 1}),
    layout.STOP: StopRequest(reason="x"),
    layout.CLOSED: Closing(closed_by=2),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_verify_names_each_damaged_document(tmp_path, name, capsys):
    commit(tmp_path, "1", row("/p/a.jpg"))
    path = tmp_path / "runs" / "1" / name
    stores.replace(str(path), DOCUMENTS[name].to_json())
    content = json.loads(path.read_text())
    for field in content:
        for wrong in [*WRONG, "missing"]:
            changed = {key: value for key, value in content.items() if key != field}
            path.write_text(json.dumps(changed if wrong == "missing" else changed | {field: wrong}))
            try:
                type(DOCUMENTS[name]).from_json(path.read_bytes(), str(path))
            except DocumentError:
                assert cli.main(["verify", str(tmp_path)]) == 1
            else:
                cli.main(["verify", str(tmp_path)])
            said = capsys.readouterr()
            assert "Traceback" not in said.err and said.err.count("\n") <= 1
    path.write_text("[" * 100_000)
    assert [finding.subject for finding in checks.verify(str(tmp_path)).findings] == [str(path)]


def test_a_lease_of_any_content_holds_nobody_up_and_is_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lease, "DEAD_SECONDS", 0.1)
    content = json.loads(Holder.myself("x").to_json())
    path = tmp_path / "leases" / "00000001.json"
    for field in ("pid", "started", "host", "run", "job"):
        for wrong in WRONG:
            shutil.rmtree(tmp_path / "leases", ignore_errors=True)
            # Of a process that has ended.
            stores.replace(str(path), json.dumps(content | {"pid": 2**22 + 1, field: wrong}).encode())
            caplog.clear()
            with lease.hold(str(tmp_path), "me"):
                pass
            try:
                Holder.from_json(json.dumps(content | {field: wrong}).encode(), "x")
            except DocumentError:
                assert f"{path} is damaged: {field}" in caplog.text
            assert "Traceback" not in caplog.text


def test_a_damaged_file_of_a_plan_is_named(tmp_path):
    unit = frozen_plan.write_unit(str(tmp_path / "runs" / "1"), "", 0, [PhotoRef("/p/a.jpg", "1")])
    shard = PlannedShard(0, 1, (unit.path,))
    data = Path(unit.path).read_bytes()
    assert frozen_plan.read_shard(shard).photos == (PhotoRef("/p/a.jpg", "1"),)
    for wrong in (data[:-1], b"", data[:40] + bytes([data[40] ^ 1]) + data[41:]):
        Path(unit.path).write_bytes(wrong)
        with pytest.raises(UnreadableFileError, match=f"^{unit.path} is damaged .*; run `beamscribe caption` again"):
            frozen_plan.read_shard(shard)


@pytest.mark.parametrize(
    "change", [lambda table: table.drop_columns(["etag"]), lambda table: table.append_column("x", [[1]])]
)
def test_a_file_of_a_plan_with_other_columns_is_named(tmp_path, change):
    buffer = pa.BufferOutputStream()
    pq.write_table(change(photo_table([PhotoRef("/p/a.jpg", "1")])), buffer)
    data = buffer.getvalue().to_pybytes()
    path = layout.plan_file(str(tmp_path / "runs" / "1"), "photos", frozen_plan._digest(data))
    stores.create(path, data)
    with pytest.raises(UnreadableFileError, match=path):
        frozen_plan.read_shard(PlannedShard(0, 1, (path,)))


def replaced(table: pa.Table, name: str, values: list, kind: pa.DataType) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values, kind))


@pytest.mark.parametrize(
    "change",
    [
        lambda table: replaced(table, "photo", [1], pa.int64()),
        lambda table: replaced(table, "photo", [None], pa.string()),
        lambda table: replaced(table, "etag", [None], pa.string()),
        lambda table: replaced(table, "caption", [["a"]], pa.list_(pa.string())),
        lambda table: replaced(table, "run_number", ["x"], pa.string()),
        lambda table: replaced(table, "attempts", [float("inf")], pa.float64()),
        lambda table: replaced(table, "written_at", ["now"], pa.string()),
        lambda table: replaced(table, "photo", [b"\xff"], pa.binary()),
    ],
)
def test_a_shard_of_other_types_is_named(tmp_path, change, capsys):
    path = commit(tmp_path, "1", row("/p/a.jpg"))
    pq.write_table(change(pq.read_table(path)), path)
    for command in (["show", "--format", "csv"], ["verify"], ["compact"]):
        assert cli.main([*command, str(tmp_path)]) == 1
        said = capsys.readouterr()
        assert str(path) in said.out + said.err and "Traceback" not in said.err
    with pytest.raises(UnreadableFileError, match=str(path)):
        list(ledger.entries_of([str(path)], ledger.DoneRule("m", "s")))
        rows.read_table(str(path))
    assert files(tmp_path) == [str(path)]


def test_a_number_of_retries_that_is_none_is_no_fault():
    for said in ("x", "-1", "9" * 5000, ""):
        assert retries_of(CAPTION_SCHEMA.with_metadata({"retries": said}).empty_table()) == 0


def interrupted(output: Path, monkeypatch) -> str:
    """A compaction that was interrupted before it deleted anything; returns the path of its record."""
    commit(output, "1", row("/p/a.jpg"), row("/p/b.jpg", hours=1))
    commit(output, "2", row("/p/b.jpg"), row("/p/c.jpg"))
    monkeypatch.setattr(stores, "delete", stop)
    with pytest.raises(InterruptedError):
        compaction.compact(str(output))
    monkeypatch.undo()
    (path,) = layout.run_files(str(output), layout.COMPACTION)
    return path


def test_an_interrupted_compaction_is_completed(tmp_path, monkeypatch):
    interrupted(tmp_path, monkeypatch)
    assert checks.verify(str(tmp_path)).findings == []
    assert compaction.compact(str(tmp_path)).left_over == 2


@pytest.mark.parametrize(
    "change", [{"results": [], "rows": 0, "digest": "0" * 16}, {"run": "other"}, {"sources": "../x"}]
)
def test_a_record_that_does_not_fit_deletes_nothing(tmp_path, monkeypatch, change, capsys):
    path = interrupted(tmp_path, monkeypatch)
    before = files(tmp_path)
    record = json.loads(Path(path).read_text())
    if change.get("sources"):
        change = {"sources": [record["sources"][0] | {"file": change["sources"]}, *record["sources"][1:]]}
    Path(path).write_text(json.dumps(record | change))
    assert path in [finding.subject for finding in checks.verify(str(tmp_path)).findings]
    with pytest.raises(BeamscribeError, match=path):
        compaction.compact(str(tmp_path))
    assert files(tmp_path) == before


def test_a_row_that_is_later_than_its_folded_one_is_not_deleted(tmp_path, monkeypatch):
    path = interrupted(tmp_path, monkeypatch)
    newer = commit(tmp_path, "2", row("/p/b.jpg", "new", hours=9), row("/p/c.jpg"))
    with pytest.raises(BeamscribeError, match=f"they lack 1 rows of {newer}.*delete {path}"):
        compaction.compact(str(tmp_path))
    assert newer.exists()
