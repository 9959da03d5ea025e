import datetime
import json

from beamscribe.pipelines.control import history, stopping


def test_only_what_has_no_launcher_any_more_is_stopped(tmp_path):
    for run, files in {"1": ["report.json", "_SUCCESS"], "2": [], "3": ["stop.json"]}.items():
        folder = tmp_path / "runs" / run
        folder.mkdir(parents=True)
        for name in ["config.json", *files]:
            (folder / name).write_text('{"reason": "before"}')
    history.stop_earlier(str(tmp_path))
    reasons = {run: stopping.reason(str(tmp_path / "runs" / run)) for run in "123"}
    assert reasons == {"1": None, "2": "a later run took over", "3": "before"}


def test_a_run_goes_on_with_one_that_had_the_same_limits(tmp_path):
    config = {"output": str(tmp_path), "inputs": ["/p"], "bundle": "b", "settings": "s", "recaption": ["failed"]}
    config |= {"max_pixels": 10, "version": "1"}
    (tmp_path / "runs" / "1").mkdir(parents=True)
    began = "2026-01-01T00:00:00+00:00"
    (tmp_path / "runs" / "1" / "config.json").write_text(json.dumps({**config, "started_at": began}))
    assert history.unfinished_since(config) == datetime.datetime.fromisoformat(began)
    # What failed may not fail with more, or with another version.
    for change in ({"max_pixels": 20}, {"version": "2"}, {"recaption": []}):
        assert history.unfinished_since({**config, **change}) is None
