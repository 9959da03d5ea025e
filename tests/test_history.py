import datetime

import pytest

from beamscribe.model.documents import NewerDocumentError
from beamscribe.pipelines.control import history, stopping
from beamscribe.pipelines.output import frozen_plan
from beamscribe.pipelines.output.current import Since
from beamscribe.pipelines.output.run_documents import BundleName, Config, StopCause, StopRequest
from tests import made


def test_only_what_has_no_launcher_any_more_is_stopped(tmp_path):
    for run, files in {"1": ["report.json", "_SUCCESS"], "2": [], "3": ["stop.json"]}.items():
        folder = tmp_path / "runs" / run
        folder.mkdir(parents=True)
        for name in ["config.json", *files]:
            (folder / name).write_text('{"reason": "before"}')
    assert history.stop_earlier(str(tmp_path)) == ["2"]
    found = {run: stopping.request(str(tmp_path / "runs" / run)) for run in "123"}
    assert found == {
        "1": None,
        "2": StopRequest(reason="a later run took over", cause=StopCause.TAKEN_OVER),
        "3": StopRequest(reason="before"),
    }


def test_a_run_goes_on_with_one_that_had_the_same_limits(tmp_path, caplog):
    config = Config(
        run="1",
        output=str(tmp_path),
        inputs=("/p",),
        bundle=BundleName("b", "f"),
        settings="s",
        recaption=("failed",),
        max_pixels=10,
        runner="FnApiRunner",
        version="1",
        started_at=datetime.datetime.fromisoformat("2026-01-01T00:00:00+00:00"),
    )
    path = tmp_path / "runs" / "1" / "config.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(config.to_json())
    later = config.model_copy(update={"run": "2", "started_at": datetime.datetime.now(datetime.UTC)})
    assert history.unfinished_since(later) == Since(0, config.started_at)
    # A template's run has its number in its plan alone, and others in their configuration.
    frozen_plan.write(str(path.parent), made.plan(run="1", run_number=5))
    assert history.unfinished_since(later) == Since(5, config.started_at)
    path.write_bytes(config.model_copy(update={"run_number": 4}).to_json())
    assert history.unfinished_since(later) == Since(4, config.started_at)
    # What failed may not fail with more, or with another version.
    for change in ({"max_pixels": 20}, {"version": "2"}, {"recaption": ()}):
        assert history.unfinished_since(later.model_copy(update=change)) is None
    path.write_text("{")
    assert history.unfinished_since(later) is None
    assert f"since its configuration can't be read: {path} is damaged" in caplog.text
    path.write_bytes(config.to_json().replace(b'"format_version": 1', b'"format_version": 2'))
    with pytest.raises(NewerDocumentError, match="was written by a newer version of Beamscribe"):
        history.unfinished_since(later)
