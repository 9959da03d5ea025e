"""JSON files: what a damaged one and one of a newer version say, on every way in."""

import json
import pickle

import pytest

from beamscribe.jobs import cli
from beamscribe.model.documents import DamagedDocumentError, NewerDocumentError
from beamscribe.pipelines.control import lease, stopping
from beamscribe.pipelines.control.holder import Holder
from beamscribe.pipelines.output import run_documents
from tests import made

DOCUMENTS = [
    made.config(),
    made.plan(ignored={".txt": 3}, shards=(run_documents.PlannedShard(0, 2, ("a.parquet",)),)),
    made.report(examples=(run_documents.Example("/p/ü.jpg", "read", "empty", "why"),), failures={"empty": 1}),
    run_documents.Compaction(
        run="3",
        written_at=made.STARTED,
        runs=("1", "2"),
        rows=1,
        digest="00",
        sources=(run_documents.FileRecord("captions/run=1/shard-00000.parquet", 1, 2, "0f"),),
        results=(),
    ),
    run_documents.StopRequest(reason="enough"),
    Holder.myself("caption"),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: type(document).__name__)
def test_a_document_is_read_as_it_was_written(document):
    assert type(document).from_json(document.to_json(), "x.json") == document
    assert next(iter(json.loads(document.to_json()))) == "format_version"
    assert pickle.loads(pickle.dumps(document)) == document


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: type(document).__name__)
def test_what_is_not_one_is_one_line_with_its_path(document):
    kind = type(document)
    fields = json.loads(document.to_json())
    first = next(name for name in fields if name != "format_version")
    for data in (b"", b"{", b"[]", b"null", b"\xff", json.dumps({**fields, first: 7}).encode(), b"{}"):
        with pytest.raises(DamagedDocumentError) as error:
            kind.from_json(data, "/out/x.json")
        assert str(error.value).startswith("/out/x.json is damaged: ") and "\n" not in str(error.value)
        assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    newer = json.dumps({"format_version": kind.VERSION + 1, "unknown": True}).encode()
    with pytest.raises(NewerDocumentError) as error:
        kind.from_json(newer, "/out/x.json")
    assert str(error.value) == (
        "/out/x.json was written by a newer version of Beamscribe (form 2, this one reads 1); upgrade Beamscribe"
    )


def test_what_a_later_version_adds_without_a_new_form_is_passed_over():
    fields = json.loads(run_documents.StopRequest(reason="enough").to_json())
    assert run_documents.StopRequest.from_json(json.dumps({**fields, "by": "me"}).encode(), "x").reason == "enough"


def newer(path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"format_version": 9}')


@pytest.mark.parametrize("name", ["leases/00000001.json", "runs/1/config.json"])
def test_a_newer_version_that_has_written_to_an_output_is_not_written_over(
    name, tmp_path, tiny_bundle, make_photo, capsys
):
    make_photo(tmp_path / "photos" / "a.jpg")
    newer(tmp_path / "out" / name)
    given = ["--input", str(tmp_path / "photos"), "--output", str(tmp_path / "out"), "--bundle", str(tiny_bundle)]
    assert cli.main(["caption", *given]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"beamscribe caption: {tmp_path}/out/{name} was written by a newer version of Beamscribe "
        "(form 9, this one reads 1); upgrade Beamscribe"
    )
    assert not list((tmp_path / "out").glob("captions/**/*.parquet"))


def test_a_damaged_lease_is_nobodys_and_a_damaged_request_to_stop_names_itself(tmp_path):
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases" / "00000007.json").write_text("{")
    with lease.hold(str(tmp_path), "caption"):
        pass
    (tmp_path / "stop.json").write_text("[]")
    with pytest.raises(DamagedDocumentError, match=f"{tmp_path}/stop.json is damaged"):
        stopping.request(str(tmp_path))


@pytest.mark.parametrize("command", ["verify", "compact"])
def test_a_newer_compaction_is_left_alone(command, tmp_path, capsys):
    newer(tmp_path / "runs" / "1" / "compaction.json")
    (tmp_path / "runs" / "1" / "config.json").write_bytes(made.config(output=str(tmp_path)).to_json())
    assert cli.main([command, str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"beamscribe {command}: {tmp_path}/runs/1/compaction.json was written by a newer version")
