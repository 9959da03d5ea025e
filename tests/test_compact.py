import datetime
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beamscribe.jobs import cli
from beamscribe.model.errors import BeamscribeError
from beamscribe.pipelines import stores
from beamscribe.pipelines.output import checks, compaction, copies, layout, rows, sorting
from beamscribe.pipelines.output.run_documents import Compaction
from beamscribe.pipelines.photos import CAPTION_SCHEMA, CAPTIONED, FAILED, Alternative, CaptionRow, caption_table

FIRST = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def row(photo, caption="a dog", hours=0, error=None, etag="1-2", model="f1"):
    return CaptionRow(
        photo=photo,
        etag=etag,
        sha256="ab" * 32,
        width=4,
        height=3,
        status=FAILED if error else CAPTIONED,
        caption=None if error else caption,
        score=None if error else -0.5,
        alternatives=() if error else (Alternative("a cat", -0.75), Alternative("", -1.5)),
        stage="read" if error else None,
        error=error,
        message="why" if error else None,
        model=model,
        settings="beam_width=3",
        written_at=FIRST + datetime.timedelta(hours=hours),
    )


def commit(output, run, *committed, shard=0):
    path = output / "captions" / f"run={run}" / f"shard-{shard:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(caption_table(committed), path)
    return path


def files(output):
    return layout.committed_files(str(output))


def latest(output):
    """The row that counts of each photo, as every reader sees it."""
    found = [record for table in rows.latest(files(output)) for record in table.to_pylist()]
    assert len({record["photo"] for record in found}) == len(found)
    return sorted(found, key=lambda record: record["photo"])


def record_of(output):
    (path,) = layout.run_files(str(output), layout.COMPACTION)
    return compaction.read_record(path)


def many_runs(output, runs=4, shards=3, photos=250, seed=0):
    """Runs that overlap: photos that failed and were tried again, changed, or were captioned by another model."""
    draw = random.Random(seed)
    for run in range(runs):
        names = draw.sample(range(runs * shards * photos // 2), shards * photos)
        for shard in range(shards):
            chosen = names[shard::shards]
            commit(
                output,
                f"20260102T0{run}0000-abcdef",
                *(
                    row(
                        f"/photos/{name:05d}.jpg",
                        f"caption {run} {name}",
                        hours=draw.randrange(8),
                        error=draw.choice([None, None, "timeout"]),
                        model=f"f{run}",
                    )
                    for name in chosen
                ),
                shard=shard,
            )


@pytest.fixture
def small(monkeypatch):
    """Sizes at which some thousand rows need several sorted parts, tables and files."""
    make_small(monkeypatch.setattr)


def make_small(setattr=setattr):
    setattr(compaction, "FILE_ROWS", 500)
    setattr(compaction, "GROUP_ROWS", 200)
    setattr(sorting, "_BLOCK_ROWS", 50)
    setattr(sorting, "_PART_BYTES", 100_000)


@pytest.mark.usefixtures("small")
def test_many_runs_become_few_sorted_files(tmp_path, capsys):
    many_runs(tmp_path)
    before = latest(tmp_path)
    old = files(tmp_path)
    assert cli.main(["compact", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "files: 12 of 4 runs → 3\n" in printed and f"rows:  3,000 → {len(before):,}\n" in printed
    assert latest(tmp_path) == before
    tables = [pq.read_table(path) for path in files(tmp_path)]
    assert pa.concat_tables(tables).to_pylist() == before
    assert len(tables) == 3 and all(table.schema.equals(CAPTION_SCHEMA) for table in tables)
    assert all(1 < pq.ParquetFile(path).metadata.num_row_groups <= 5 for path in files(tmp_path)[:-1])
    assert not any(os.path.exists(path) for path in old)
    assert len(os.listdir(tmp_path / "captions")) == 1
    record = record_of(tmp_path)
    assert [str(tmp_path / file.file) for file in record.sources] == old
    assert [file.rows for file in record.results] == [len(table) for table in tables]
    assert Compaction.from_json(record.to_json(), "compaction.json") == record

    assert cli.main(["compact", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "nothing to do\n"
    assert cli.main(["compact", str(tmp_path), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert checks.verify(str(tmp_path)).findings == []


@pytest.mark.usefixtures("small")
def test_a_compaction_is_folded_with_later_runs(tmp_path):
    many_runs(tmp_path)
    compaction.compact(str(tmp_path))
    (earlier,) = {layout.run_of(path) for path in files(tmp_path)}
    commit(tmp_path, "20990101T000000-abcdef", row("/photos/00000.jpg", "new", hours=99), row("/photos/x.jpg"))
    before = latest(tmp_path)
    folded = compaction.compact(str(tmp_path)).folded
    assert folded.runs == (earlier, "20990101T000000-abcdef")
    assert latest(tmp_path) == before
    assert before[0]["caption"] == "new"
    assert checks.verify(str(tmp_path)).findings == []


@pytest.mark.usefixtures("small")
def test_of_rows_of_the_same_moment_the_same_counts_as_before(tmp_path):
    for run in range(3):
        commit(tmp_path, str(run), *(row(f"/p/{name:03d}.jpg", f"caption of {run}") for name in range(run, 300)))
    before = latest(tmp_path)
    assert before[0]["caption"] == before[299]["caption"] == "caption of 0"
    compaction.compact(str(tmp_path))
    assert latest(tmp_path) == before


def test_other_columns_and_names_survive(tmp_path):
    odd = ["/p/ü\x01.jpg", "gs://b/a b.jpg", "/p/\U0001f600.jpg", "/p/z.zip#a.jpg", "/p/a\nb.jpg"]
    commit(tmp_path, "1", *(row(name) for name in odd), row("/p/failed.jpg", error="empty"))
    before = latest(tmp_path)
    compaction.compact(str(tmp_path))
    assert latest(tmp_path) == before
    assert [record["photo"] for record in before] == sorted([*odd, "/p/failed.jpg"])


def test_files_without_rows_are_folded_too(tmp_path):
    commit(tmp_path, "1")
    commit(tmp_path, "2", row("/p/a.jpg"))
    compaction.compact(str(tmp_path))
    assert len(files(tmp_path)) == 1 and len(latest(tmp_path)) == 1


def test_a_damaged_file_stops_it_before_anything_is_deleted(tmp_path, capsys):
    commit(tmp_path, "1", row("/p/a.jpg"))
    commit(tmp_path, "2", row("/p/b.jpg")).write_bytes(b"PAR1 not")
    before = files(tmp_path)
    assert cli.main(["compact", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert "can't read " in message and "run=2/shard-00000.parquet (" in message and message.count("\n") == 1
    pq.write_table(pa.table({"photo": ["/p/b.jpg"]}), before[1])
    assert cli.main(["compact", str(tmp_path)]) == 1
    assert "its columns are not those of a shard" in capsys.readouterr().err
    assert files(tmp_path) == before


def test_new_files_that_differ_are_not_committed(tmp_path, monkeypatch):
    """As if a disk or a bug had changed a row on its way."""
    commit(tmp_path, "1", row("/p/a.jpg"), row("/p/b.jpg"))
    before = files(tmp_path)
    tables = sorting.LatestByPhoto.tables

    def changed(self):
        for table in tables(self):
            captions = pa.array(["another", *table["caption"].to_pylist()[1:]])
            yield table.set_column(table.column_names.index("caption"), CAPTION_SCHEMA.field("caption"), captions)

    monkeypatch.setattr(sorting.LatestByPhoto, "tables", changed)
    with pytest.raises(BeamscribeError, match="the rows differ"):
        compaction.compact(str(tmp_path))
    assert files(tmp_path) == before
    assert not layout.run_files(str(tmp_path), layout.COMPACTION)


def test_nothing_changes_once_another_job_has_the_folder(tmp_path):
    commit(tmp_path, "1", row("/p/a.jpg"))
    commit(tmp_path, "2", row("/p/b.jpg"))
    before = files(tmp_path)
    with pytest.raises(BeamscribeError, match="run 7 took over"):
        compaction.compact(str(tmp_path), ["run 7 took over"])
    assert files(tmp_path) == before
    assert not layout.run_files(str(tmp_path), layout.COMPACTION)


@pytest.mark.parametrize(("lose", "problem"), [("drop", "1 rows instead of 2"), ("twice", "a photo has two rows")])
def test_lost_and_doubled_rows_are_noticed(tmp_path, monkeypatch, lose, problem):
    commit(tmp_path, "1", row("/p/a.jpg"), row("/p/b.jpg"))
    before = files(tmp_path)
    tables = sorting.LatestByPhoto.tables

    def changed(self):
        for table in tables(self):
            yield table.slice(1) if lose == "drop" else pa.concat_tables([table, table])

    monkeypatch.setattr(sorting.LatestByPhoto, "tables", changed)
    with pytest.raises(BeamscribeError, match=problem):
        compaction.compact(str(tmp_path))
    assert files(tmp_path) == before


def test_copies_in_other_formats_are_made_anew(tmp_path):
    commit(tmp_path, "1", row("/p/a.jpg", "old"))
    for pair in copies.missing(str(tmp_path), "jsonl"):
        copies.export(pair, "jsonl")
    commit(tmp_path, "2", row("/p/a.jpg", "new", hours=1))
    folded = compaction.compact(str(tmp_path)).folded
    (copy,) = (tmp_path / "exports").rglob("*.*")
    assert copy == tmp_path / "exports" / "jsonl" / f"run={folded.run}" / "shard-00000.jsonl"
    assert [json.loads(line)["caption"] for line in copy.read_text().splitlines()] == ["new"]


def test_the_history_of_the_runs_is_kept(tmp_path):
    commit(tmp_path, "1", row("/p/a.jpg"))
    folder = tmp_path / "runs" / "1"
    folder.mkdir(parents=True)
    for name in ("config.json", "report.json", "report.html", "_SUCCESS"):
        (folder / name).write_text("{}")
    commit(tmp_path, "2", row("/p/b.jpg"))
    folded = compaction.compact(str(tmp_path)).folded
    assert len(os.listdir(folder)) == 4
    assert folded.runs == ("1", "2")


def test_folders_without_captions(tmp_path, capsys):
    for folder, problem in [("", "holds no captions"), ("none", "no folder")]:
        assert cli.main(["compact", str(tmp_path / folder)]) == 2
        message = capsys.readouterr().err
        assert problem in message and message.count("\n") == 1
    assert cli.main(["compact", "nope://x/y"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_run_that_has_committed_nothing_yet(tmp_path, capsys):
    (tmp_path / "runs" / "1").mkdir(parents=True)
    (tmp_path / "runs" / "1" / "config.json").write_text("{}")
    assert cli.main(["compact", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "nothing to do\n"


def test_a_compaction_whose_files_were_damaged_is_not_gone_on_with(tmp_path, monkeypatch):
    commit(tmp_path, "1", row("/p/a.jpg"))
    monkeypatch.setattr(stores, "delete", stop)
    with pytest.raises(InterruptedError):
        compaction.compact(str(tmp_path))
    monkeypatch.undo()
    source, result = files(tmp_path)
    pq.write_table(caption_table([row("/p/a.jpg", "another")]), result)
    with pytest.raises(BeamscribeError, match="no more files were deleted; restore them from a backup, or delete "):
        compaction.compact(str(tmp_path))
    assert files(tmp_path) == [source, result]
    for path in (result, *layout.run_files(str(tmp_path), layout.COMPACTION)):
        os.unlink(path)
    before = latest(tmp_path)
    compaction.compact(str(tmp_path))
    assert latest(tmp_path) == before and len(files(tmp_path)) == 1


def stop(*_):
    raise InterruptedError


def compact_until(output, step):
    """Compacts, and is killed before a call of the operating system that changes what others see."""
    make_small()
    steps = iter(range(step))

    def killing(function):
        def call(*arguments, **options):
            if next(steps, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in ("link", "unlink", "replace", "rmdir"):
        setattr(os, name, killing(getattr(os, name)))
    compaction.compact(output)


@pytest.fixture(scope="module")
def processes():
    """Starts processes that have the libraries loaded, but no threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["beamscribe.pipelines.output.compaction", "tests.test_compact"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        yield context


def killed(processes, output, step=1_000_000, seconds=None):
    """Compacts in a process that is killed; returns whether it was."""
    process = processes.Process(target=compact_until, args=(str(output), step))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Runs with copies in another format, and the rows that count of them."""
    output = tmp_path_factory.mktemp("archive")
    many_runs(output, runs=3, shards=2)
    for pair in copies.missing(str(output), "jsonl"):
        copies.export(pair, "jsonl")
    return output, latest(output)


def assert_goes_on(output, before):
    """What a killed compaction left is valid, and the next one ends well."""
    assert latest(output) == before
    assert checks.verify(str(output)).findings == []
    compaction.compact(str(output))
    assert latest(output) == before
    assert len(files(output)) == 2
    assert layout.temporary_files(str(output)) == []
    (run,) = {layout.run_of(path) for path in files(output)}
    copies = [path for path in (output / "exports").rglob("*") if path.is_file()]
    assert [path.parent.name for path in copies] == [f"run={run}"] * 2, copies
    result = checks.verify(str(output))
    assert result.findings == [] and result.notes == []
    assert compaction.compact(str(output)) == (None, 0)


@pytest.mark.usefixtures("small")
def test_killed_before_every_step(tmp_path, processes, archive):
    source, before = archive
    step = 0
    while killed(processes, shutil.copytree(source, tmp_path / str(step)), step):
        assert_goes_on(tmp_path / str(step), before)
        step += 1
    # Two files and the record are linked and their temporary files deleted; then the old files and their copies go.
    assert step > 3 * 2 + 6 + 6


@pytest.mark.usefixtures("small")
def test_killed_at_any_moment(tmp_path, processes, archive):
    source, before = archive
    started = time.monotonic()
    assert not killed(processes, shutil.copytree(source, tmp_path / "whole"))
    duration = time.monotonic() - started
    draw = random.Random(1)
    kills = 0
    for attempt in range(15):
        output = shutil.copytree(source, tmp_path / str(attempt))
        # The second one goes on from what the first has left.
        kills += sum(killed(processes, output, seconds=draw.uniform(0, duration)) for _ in range(2))
        assert_goes_on(output, before)
    assert kills
