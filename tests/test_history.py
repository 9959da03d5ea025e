from jobs import history
from pipelines import stopping


def test_only_what_has_no_launcher_any_more_is_stopped(tmp_path):
    for run, files in {"1": ["report.json", "_SUCCESS"], "2": [], "3": ["stop.json"]}.items():
        folder = tmp_path / "runs" / run
        folder.mkdir(parents=True)
        for name in ["config.json", *files]:
            (folder / name).write_text('{"reason": "before"}')
    history.stop_earlier(str(tmp_path))
    reasons = {run: stopping.reason(str(tmp_path / "runs" / run)) for run in "123"}
    assert reasons == {"1": None, "2": "a later run took over", "3": "before"}
