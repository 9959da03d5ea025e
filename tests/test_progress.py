"""A run is followed by its committed files, and stopped where that is asked for or too many photos fail."""

import io
import logging
import threading
import time

import pyarrow.parquet as pq
import pytest

from beamscribe.pipelines import stores
from beamscribe.pipelines.control import progress, stopping
from beamscribe.pipelines.control.progress import Follower, Limit, Progress
from beamscribe.pipelines.output import frozen_plan, layout, rows
from beamscribe.pipelines.output.run_documents import StopCause
from beamscribe.pipelines.photos import CAPTIONED, FAILED, CaptionRow, caption_table
from tests import made
from tests.made import RUN, STARTED


@pytest.fixture(autouse=True)
def looks_often(monkeypatch):
    monkeypatch.setattr(progress, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(progress, "_STOP_SECONDS", 0.01)


class Run:
    """A run of two shards of 5 photos."""

    def __init__(self, output):
        self.output, self.folder = str(output), layout.run_folder(str(output), RUN)

    def plan(self):
        frozen_plan.write(self.folder, made.plan(planned=10))

    def commit(self, index, captioned, failed):
        path = layout.shard_file(self.output, RUN, index)
        table = caption_table([row(f"{index}-{n}", n < captioned) for n in range(captioned + failed)])
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        stores.replace(path, buffer.getvalue())

    @property
    def request(self):
        return stopping.request(self.folder)


def row(photo, is_captioned):
    return CaptionRow(
        photo=photo,
        etag="1-2",
        sha256=None,
        width=4,
        height=3,
        status=CAPTIONED if is_captioned else FAILED,
        caption="a dog" if is_captioned else None,
        score=None,
        alternatives=(),
        stage=None,
        error=None,
        message=None,
        model="f1",
        settings="s",
        written_at=STARTED,
    )


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "output")


def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it has not come to pass"
        time.sleep(0.005)


def test_each_change_is_told_once_and_the_end_once_more(run, monkeypatch, capfd):
    seen, read, read_table = [], [], rows.read_table
    monkeypatch.setattr(rows, "read_table", lambda path, columns: read.append(path) or read_table(path, columns))
    with Follower(run.output, RUN, watch=seen.append):
        time.sleep(0.1)
        assert seen == []
        run.plan()
        until(lambda: len(seen) == 1)
        run.commit(0, captioned=4, failed=1)
        until(lambda: len(seen) == 2)
        time.sleep(0.1)
        # Nobody looks between this commit and the end.
        run.commit(1, captioned=5, failed=0)
    assert seen[:2] == [Progress(10, 0, 0), Progress(10, 4, 1)]
    assert seen[-1] == Progress(10, 9, 1) and len(seen) in (3, 4)
    assert sorted(read) == [layout.shard_file(run.output, RUN, index) for index in (0, 1)]
    assert run.request is None
    assert capfd.readouterr() == ("", "")


def test_the_end_is_told_of_a_short_run(run, monkeypatch):
    monkeypatch.setattr(progress, "_STOP_SECONDS", 60.0)
    seen = []
    with Follower(run.output, RUN, watch=seen.append):
        run.plan()
        run.commit(0, captioned=5, failed=0)
    assert seen == [Progress(10, 5, 0)]
    with Follower(run.output, "20260102T030405-000000", watch=seen.append):
        pass
    assert len(seen) == 1


@pytest.mark.parametrize(("limit", "allowed"), [(Limit(1), 1), (Limit(share=0.1), 1), (Limit(2), None), (None, None)])
def test_too_many_failures_stop_the_run(run, limit, allowed):
    run.plan()
    run.commit(0, captioned=3, failed=2)
    with Follower(run.output, RUN, limit):
        until(lambda: allowed is None or run.request)
    if allowed is None:
        assert run.request is None
    else:
        reason = f"2 photos failed, more than the {allowed} that `max_failures` allows"
        assert (run.request.reason, run.request.cause) == (reason, StopCause.FAILURES)


def test_failures_are_counted_at_the_end_too(run, monkeypatch):
    monkeypatch.setattr(progress, "_STOP_SECONDS", 60.0)
    run.plan()
    with Follower(run.output, RUN, Limit(0)):
        run.commit(0, captioned=4, failed=1)
    assert run.request.cause == StopCause.FAILURES


@pytest.mark.parametrize("has_plan", [False, True])
def test_a_run_is_stopped_soon_after_it_is_asked(run, monkeypatch, has_plan):
    monkeypatch.setattr(progress, "_LOOK_SECONDS", 60.0)
    if has_plan:
        run.plan()
    stop = threading.Event()
    with Follower(run.output, RUN, Limit(0), stop):
        time.sleep(0.05)
        assert run.request is None
        stop.set()
        until(lambda: run.request)
        assert (run.request.reason, run.request.cause) == ("it was asked to stop", StopCause.ASKED)


def test_a_request_that_can_not_be_written_is_told_and_repeated(run, monkeypatch, caplog):
    create, tries = stores.create, []

    def failing(uri, data):
        tries.append(uri)
        if len(tries) < 4:
            raise PermissionError(13, "Permission denied")
        return create(uri, data)

    monkeypatch.setattr(stores, "create", failing)
    stop = threading.Event()
    stop.set()
    with Follower(run.output, RUN, stop=stop):
        until(lambda: run.request)
        time.sleep(0.1)
    assert len(tries) == 4
    (told,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert told.getMessage() == f"can't ask the run {RUN} to stop, trying again: Permission denied"


def test_errors_of_the_store_are_debug_messages_and_pass(run, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, logger="beamscribe.pipelines")
    listed, read, failures = layout.committed_files, stores.read, {"list": 2, "read": 2}

    def fail(kind):
        failures[kind] -= 1
        if failures[kind] >= 0:
            raise TimeoutError(f"no answer to {kind}")

    monkeypatch.setattr(layout, "committed_files", lambda *path: fail("list") or listed(*path))
    monkeypatch.setattr(stores, "read", lambda uri: (uri.endswith("parquet") and fail("read")) or read(uri))
    run.plan()
    run.commit(0, captioned=5, failed=0)
    seen = []
    with Follower(run.output, RUN, watch=seen.append):
        until(lambda: Progress(10, 5, 0) in seen)
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    assert "no answer to list" in caplog.text and "no answer to read" in caplog.text


def test_a_damaged_file_is_told_once_and_hides_no_other(run, caplog):
    run.plan()
    run.commit(1, captioned=2, failed=3)
    path = layout.shard_file(run.output, RUN, 0)
    stores.replace(path, b"PAR1")
    seen = []
    with Follower(run.output, RUN, Limit(2), watch=seen.append):
        until(lambda: run.request)
        time.sleep(0.1)
    assert seen[-1] == Progress(10, 2, 3)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and f"{path}, which can't be read: " in record.getMessage()


def test_a_fault_is_logged_once_with_its_traceback_and_ends_nothing(run, caplog):
    run.plan()
    calls = []

    def watch(now):
        calls.append(now)
        raise TypeError("a fault of the watcher")

    with Follower(run.output, RUN, Limit(0), watch=watch):
        until(lambda: calls)
        run.commit(0, captioned=4, failed=1)
        until(lambda: run.request)
    assert len(calls) >= 2
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and "a fault of the watcher" in record.exc_text


def test_a_limit_says_what_exceeds_it():
    assert Limit(3).exceeded(3, 10) is None and Limit(share=0.25).exceeded(2, 10) is None
    assert Limit(0).exceeded(1, 10) == "1 photo failed, more than the 0 that `max_failures` allows"
    said = "3,000 photos failed, more than the 2,500 that `max_failures` allows"
    assert Limit(share=0.25).exceeded(3000, 10_000) == said
