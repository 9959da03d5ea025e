"""Runs that a later job closes: what wakes up of them commits nothing more."""

import dataclasses
import os
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from beamscribe.jobs import cli
from beamscribe.model.caption_settings import CaptionSettings
from beamscribe.model.errors import BeamscribeError, OutputInUse
from beamscribe.pipelines import caption_shard, stores
from beamscribe.pipelines.caption_options import CaptionOptions
from beamscribe.pipelines.control import closing, lease, stopping, verdict
from beamscribe.pipelines.control.holder import Holder
from beamscribe.pipelines.output import checks, compaction, copies, frozen_plan, layout, places, report, rows
from beamscribe.pipelines.output.run_documents import Closing, PlannedShard, StopCause
from beamscribe.pipelines.photos import CAPTION_SCHEMA, PhotoRef, ShardResult
from beamscribe.pipelines.stores import renaming
from tests import made
from tests.test_compact import files, latest, row

SLEEPER = f"r00000001-{made.RUN}"


@pytest.fixture
def output(tmp_path) -> str:
    return str(tmp_path / "out")


def options(output: str, run: str = SLEEPER, number: int = 1) -> CaptionOptions:
    settings = CaptionSettings(3, 20)
    return CaptionOptions(inputs=(), output=output, run=run, run_number=number, bundle="", model="m", settings=settings)


def begin(output: str, run: str = SLEEPER, shards: int = 3, number: int = 1) -> None:
    """A run that has its plan, of one photo a shard, and no report."""
    folder = layout.run_folder(output, run)
    stores.replace(layout.run_file(output, run, layout.CONFIG), made.config(output=output, run=run).to_json())
    units = [frozen_plan.write_unit(folder, "", n, [PhotoRef(f"/p/{n}.jpg", "1-2")]) for n in range(shards)]
    planned = tuple(PlannedShard(n, 1, (unit.path,)) for n, unit in enumerate(units))
    plan = made.plan(run=run, listed=shards, planned=shards, shards=planned, run_number=number)
    frozen_plan.write(folder, plan)


def commit(output: str, index: int, run: str = SLEEPER, number: int = 1) -> str | None:
    one = dataclasses.replace(row(f"/p/{index}.jpg"), run_number=number)
    return caption_shard.commit(ShardResult(index, (one,)), options(output, run, number))


def close(output: str, number: int = 2, **holders: bool) -> list[str]:
    return closing.close_earlier(output, number, holders, lambda: True)


def ends_with(output: str, run: str = SLEEPER) -> BeamscribeError | None:
    result = report.collect(output, run, made.STARTED)
    return verdict.error_of(result, stopping.request(layout.run_folder(output, run)))


def test_what_a_closed_run_has_in_hand_is_not_committed(output):
    begin(output)
    first = commit(output, 0)
    assert close(output) == [SLEEPER]
    assert commit(output, 1) is None and not caption_shard.is_to_do(2, options(output))
    # An attempt that comes again finds its own file.
    assert commit(output, 0) == first
    assert [record["photo"] for record in latest(Path(output))] == ["/p/0.jpg"]
    for path in files(output)[1:]:
        assert pq.read_schema(path).equals(CAPTION_SCHEMA) and pq.read_metadata(path).num_rows == 0
        assert rows.is_closing(path)
    result = report.collect(output, SLEEPER, made.STARTED)
    assert (result.captioned, result.missing, result.closed) == (1, ("/p/1.jpg", "/p/2.jpg"), True)
    assert isinstance(ends_with(output), OutputInUse)
    assert close(output, 3) == []


def test_a_user_who_stopped_it_before_is_told_that_it_was_taken_over(output):
    begin(output)
    stopping.stop(layout.run_folder(output, SLEEPER), "asked", StopCause.ASKED)
    close(output)
    assert isinstance(ends_with(output), OutputInUse)


def test_a_closed_run_that_has_no_plan_gets_an_empty_one(output):
    stores.replace(layout.run_file(output, SLEEPER, layout.CONFIG), made.config(run=SLEEPER).to_json())
    close(output)
    begin(output)
    assert frozen_plan.read(layout.run_folder(output, SLEEPER)).shards == ()
    assert isinstance(ends_with(output), OutputInUse)


def test_a_run_that_has_committed_everything_has_succeeded(output):
    begin(output, shards=2)
    commit(output, 0), commit(output, 1)
    close(output)
    assert ends_with(output) is None


def test_runs_that_ended_and_later_ones_are_left_alone(output):
    for number, run in enumerate(("a", "b", f"r00000009-{made.RUN}")):
        begin(output, run, number=(1, 1, 9)[number])
    # A template's run has its number in the plan alone.
    begin(output, "template", number=7)
    stores.replace(layout.run_file(output, "a", layout.REPORT), made.report(run="a").to_json())
    assert close(output, 5) == ["b"]
    assert {layout.run_of(path) for path in files(output)} == {"b"}


def test_one_that_has_lost_the_lease_itself_closes_nothing(output):
    begin(output)
    with pytest.raises(OutputInUse, match="another job has taken"):
        closing.close_earlier(output, 2, {}, lambda: False)
    assert files(output) == []


@pytest.mark.parametrize("run", ["../../victim", "/tmp/x", "", ".."])
def test_a_lease_names_no_folder_elsewhere(output, tmp_path, run):
    assert close(output, **{run: False}) == []
    assert list(tmp_path.rglob("*")) == []


def test_a_damaged_plan_is_named(output):
    begin(output)
    path = layout.run_file(output, SLEEPER, layout.PLAN)
    Path(path).write_text('{"run": []}')
    with pytest.raises(BeamscribeError, match=f"{path} is damaged: .*; restore it from a backup, or, once no process"):
        close(output)


def test_who_takes_a_lease_over_closes_even_a_run_that_has_written_nothing(output):
    asleep = Holder.myself("run 1").model_copy(update={"pid": 2**22 + 1, "run": SLEEPER})
    stores.replace(layout.lease_file(layout.leases_folder(output), 1, "json"), asleep.to_json())
    with lease.hold(output, "me") as held:
        assert held.number == 2
        path = layout.run_file(output, SLEEPER, layout.CLOSED)
        # That process is known to have ended.
        assert Closing.from_json(Path(path).read_bytes(), path) == Closing(closed_by=2, is_over=True)
    begin(output)
    assert frozen_plan.read(layout.run_folder(output, SLEEPER)).closed_by == 2


TEMPORARY = f".name.{'0a' * 16}"


def killed_holder(output: str) -> None:
    """The lease of the sleeper, whose process is gone."""
    gone = Holder.myself("run 1").model_copy(update={"pid": 2**22 + 1, "run": SLEEPER})
    stores.replace(layout.lease_file(layout.leases_folder(output), 1, "json"), gone.to_json())


@pytest.mark.parametrize("has_lease", [True, False])
def test_temporary_files_of_a_killed_run_go_with_the_next_job(output, has_lease):
    begin(output)
    begin(output, "ended")
    stores.replace(layout.run_file(output, "ended", layout.REPORT), made.report(run="ended").to_json())
    if has_lease:
        killed_holder(output)
    places = (f"captions/run={SLEEPER}", f"runs/{SLEEPER}", f"runs/{SLEEPER}/plan", "exports/jsonl/run=ended")
    left = [Path(output, place, TEMPORARY) for place in places]
    # The second one may be that of a job that copies the output.
    kept = [Path(output, "runs/ended", TEMPORARY), Path(output, f"captions/run={SLEEPER}", ".part")]
    for path in left + kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    with lease.hold(output, "me"):
        assert [path for path in left if path.exists()] == []
        assert all(path.exists() for path in kept)


def test_who_loses_the_lease_meanwhile_deletes_no_temporary_file(output, monkeypatch):
    begin(output)
    path = Path(output, f"captions/run={SLEEPER}", TEMPORARY)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")
    held, find = [True], layout.temporary_files_of

    def found(*given):
        held.clear()
        return find(*given)

    monkeypatch.setattr(layout, "temporary_files_of", found)
    assert closing.close_earlier(output, 2, {}, lambda: bool(held)) == [SLEEPER]
    assert path.exists()


@pytest.mark.parametrize("links", [True, False])
def test_a_sleeper_whose_temporary_file_is_gone_commits_nothing(output, monkeypatch, caplog, links):
    begin(output)
    killed_holder(output)
    sync = os.fsync

    def asleep(descriptor):
        sync(descriptor)
        monkeypatch.setattr(os, "fsync", sync)
        assert layout.temporary_files(output)
        with lease.hold(output, "me"):
            assert layout.temporary_files(output) == []

    monkeypatch.setattr(os, "fsync", asleep)
    if not links:
        monkeypatch.setattr(os, "link", renaming.rename_to_new)
    assert commit(output, 0) is None
    assert "shard 0 is not committed" in caplog.text
    assert latest(Path(output)) == [] and layout.temporary_files(output) == []
    assert isinstance(ends_with(output), OutputInUse)


def test_compact_keeps_the_places_of_runs_that_may_wake_up(output, capsys):
    begin(output)
    commit(output, 0)
    close(output)
    compaction.compact(output)
    assert commit(output, 0) is None and commit(output, 1) is None
    assert [record["photo"] for record in latest(Path(output))] == ["/p/0.jpg"]
    assert len(files(output)) == 4 and len(places.to_fold(output)) == 1
    assert compaction.compact(output) == (None, 0)
    assert cli.main(["verify", output]) == 0
    # Once the run has ended, nothing needs them.
    report.write(report.collect(output, SLEEPER, made.STARTED), output, success=False)
    compaction.compact(output)
    assert len(files(output)) == 1 and len(latest(Path(output))) == 1


def test_compact_deletes_what_nothing_can_write_again(output):
    begin(output)
    commit(output, 0)
    close(output, **{SLEEPER: True})
    compaction.compact(output)
    assert len(files(output)) == 1


def test_closed_shards_have_no_copies(output):
    begin(output)
    commit(output, 0)
    close(output)
    pairs = list(copies.missing(output, "jsonl"))
    assert [layout.index_of(path) for path, _ in pairs] == [0]
    copies.export(pairs[0], "jsonl")
    assert len(list(layout.copies(output, "jsonl"))) == 1


def test_a_copy_that_comes_late_does_not_stay(output, monkeypatch):
    begin(output)
    commit(output, 0)
    close(output)
    (pair,) = copies.missing(output, "jsonl")
    jsonl = copies.jsonl

    def late(table):
        compaction.compact(output)
        return jsonl(table)

    monkeypatch.setattr(copies, "jsonl", late)
    copies.export(pair, "jsonl")
    assert list(layout.copies(output, "jsonl")) == []


@pytest.fixture
def asleep(output, monkeypatch):
    """A compaction that stands still before one of its steps, while another job does its work."""

    def start(step, meanwhile):
        for index in range(2):
            commit(output, index, f"r0000000{index + 1}-x", index + 1)
        held = [True]
        own = compaction.Lease(3, lambda: held[0], "r00000003-x-compacted")
        function, lock = getattr(stores, step), threading.RLock()

        def slow(path, *more):
            with lock:
                if held[0] and "captions" in path:
                    held[0] = False
                    meanwhile()
            return function(path, *more)

        monkeypatch.setattr(stores, step, slow)
        with pytest.raises(OutputInUse, match="another job has taken the output over"):
            compaction.compact(output, lease=own)

    return start


def test_a_compaction_that_stood_still_writes_no_second_copy(output, asleep):
    def take_over():
        closing.close_earlier(output, 4, {"r00000003-x-compacted": False}, lambda: True)
        compaction.compact(output, lease=compaction.Lease(4, lambda: True, "r00000004-x-compacted"))

    asleep("create", take_over)
    found = [record["photo"] for path in files(output) for record in rows.read_table(path).to_pylist()]
    assert sorted(found) == ["/p/0.jpg", "/p/1.jpg"]
    assert checks.verify(output).findings == []


def test_a_compaction_that_stood_still_deletes_nothing_more(output, asleep):
    asleep("delete", lambda: None)
    assert len(latest(Path(output))) == 2
    # The first deletion was already on its way, and its rows are in the new file.
    assert len(files(output)) >= 2
