import dataclasses
import datetime
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beamscribe.jobs import cli
from beamscribe.model.errors import BeamscribeError
from beamscribe.pipelines import stores
from beamscribe.pipelines.output import checks, compaction, copies, current, edits, layout, rows, sorting
from beamscribe.pipelines.output.run_documents import Compaction
from beamscribe.pipelines.photos import (
    CAPTION_SCHEMA,
    CAPTIONED,
    FAILED,
    GONE,
    MODEL,
    PERSON,
    WITHDRAWN,
    Alternative,
    CaptionRow,
    Origin,
    Tag,
    caption_table,
)

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


def kept(output, prune_gone=False):
    """The rows that may still count, in the order in which a compaction writes them."""
    table = pa.concat_tables(rows.read_batches(files(output)))
    keys = current.Keys.of(table)
    photos = np.array(table["photo"].to_pylist())
    is_kept = current.kept(photos, keys, prune_gone=prune_gone)
    order = np.lexsort((keys.written_at, keys.run_numbers, photos))
    return [table.slice(index, 1).to_pylist()[0] for index in order if is_kept[index]]


def record_of(output):
    *_, path = layout.run_files(str(output), layout.COMPACTION)
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


def mixed_runs(output, runs=3, photos=160, seed=0):
    """Runs and edits with rows of all kinds."""
    draw = random.Random(seed)
    for number in range(1, runs + 1):
        shards = [], [], []
        for name in draw.sample(range(photos), photos * 3 // 4):
            kind = draw.choice(["captioned", "taken", "person", "timeout", "timeout", "corrupt", "gone", "gone"])
            error = kind if kind in ("timeout", "corrupt") or (kind == "gone" and draw.random() < 0.3) else None
            made = dataclasses.replace(
                row(f"/photos/{name:04d}.jpg", f"caption {number} {name}", number, error and "corrupt", f"e{number}"),
                run_number=number,
                image_sha256=draw.choice(["ef", "01"]) * 32,
                source=None if error else PERSON if kind == "person" else MODEL,
                tags=draw.choice([None, (), (Tag("dog", 0.5), Tag("cat", 0.25))]),
                taken_from=Origin("/old/a.jpg", draw.choice([None, 3])) if kind in ("taken", "person") else None,
                taken_at=draw.choice([None, datetime.datetime(2019, 5, 6, 7, 8, 9)]),
            )
            if kind == "timeout":
                made = dataclasses.replace(made, error=kind, attempts=draw.randrange(1, 9))
            if kind == "gone":
                made = dataclasses.replace(made, status=GONE)
            shards[2 if kind == "gone" else name % 2].append(made)
        for shard, several in enumerate(shards):
            commit(output, f"r{number:08d}-20260102T030405-abcdef", *several, shard=shard)
    for number in range(1, 5):
        edits = []
        for name in draw.sample(range(photos), photos // 4):
            made = row(f"/photos/{name:04d}.jpg", f"edit {number} {name}", hours=number)
            made = dataclasses.replace(made, run_number=number, source=PERSON, image_sha256="ef" * 32)
            if draw.random() < 0.3:
                made = dataclasses.replace(made, status=WITHDRAWN, caption=None, score=None, alternatives=())
            edits.append(made)
        commit(output, layout.edit_run(number), *edits)


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
    before, expected = latest(tmp_path), kept(tmp_path)
    # Of some photos two rows stay: a caption, and a failure that may pass, which says when to try again.
    assert len(before) < len(expected) < 2 * len(before)
    old = files(tmp_path)
    assert cli.main(["compact", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "files: 12 of 4 runs → 3\n" in printed and f"rows:  3,000 → {len(expected):,}\n" in printed
    assert latest(tmp_path) == before
    tables = [pq.read_table(path) for path in files(tmp_path)]
    assert pa.concat_tables(tables).to_pylist() == expected
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
    tables = sorting.KeptByPhoto.tables

    def changed(self):
        for table in tables(self):
            captions = pa.array(["another", *table["caption"].to_pylist()[1:]])
            yield table.set_column(table.column_names.index("caption"), CAPTION_SCHEMA.field("caption"), captions)

    monkeypatch.setattr(sorting.KeptByPhoto, "tables", changed)
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


@pytest.mark.parametrize(
    ("lose", "problem"),
    [
        ("drop", "1 rows instead of 2"),
        ("twice", "a photo has two rows of one run and time"),
        ("again", "the rows are not sorted by photo"),
    ],
)
def test_lost_and_doubled_rows_are_noticed(tmp_path, monkeypatch, lose, problem):
    commit(tmp_path, "1", row("/p/a.jpg"), row("/p/b.jpg"))
    before = files(tmp_path)
    tables = sorting.KeptByPhoto.tables

    def changed(self):
        for table in tables(self):
            several = {"drop": [], "twice": [table.slice(0, 1), table], "again": [table, table]}
            yield pa.concat_tables(several[lose] or [table.slice(1)])

    monkeypatch.setattr(sorting.KeptByPhoto, "tables", changed)
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


def numbered(photo, number, **changes):
    """A row of a run with a number."""
    return dataclasses.replace(row(photo), run_number=number, source=MODEL, **changes)


def edit(photo, number, **changes):
    return dataclasses.replace(row(photo, "by a person", hours=number), run_number=number, source=PERSON, **changes)


def run_id(number):
    return f"r{number:08d}-20260102T030405-abcdef"


def test_all_rows_that_may_still_count_stay(tmp_path):
    timeout = {"status": FAILED, "caption": None, "error": "timeout"}
    first = numbered("/p/a.jpg", 1, etag="1")
    failures = [numbered("/p/a.jpg", number, etag="2", attempts=number - 1, **timeout) for number in (2, 3, 4)]
    edits = [edit("/p/a.jpg", number, etag="1") for number in (1, 2, 3)]
    withdrawn = edit("/p/b.jpg", 7, status=WITHDRAWN, caption=None)
    gone = numbered("/p/c.jpg", 2, status=GONE)
    commit(tmp_path, run_id(1), first, numbered("/p/b.jpg", 1), numbered("/p/c.jpg", 1))
    commit(tmp_path, run_id(2), failures[0], gone)
    for failure in failures[1:]:
        commit(tmp_path, run_id(failure.run_number), failure)
    for one in (*edits, withdrawn):
        commit(tmp_path, layout.edit_run(one.run_number), one)
    before = latest(tmp_path)
    # The person's words stand, since the version that they are of is the last one that has a caption.
    assert [one["caption"] for one in before] == ["by a person", "a dog"]
    folded = compaction.compact(str(tmp_path)).folded
    (path,) = files(tmp_path)
    found = rows.read_table(path).select(["photo", "status", "run_number", "attempts"]).to_pylist()
    assert [tuple(one.values()) for one in found] == [
        ("/p/a.jpg", CAPTIONED, 1, None),
        ("/p/a.jpg", CAPTIONED, 3, None),
        ("/p/a.jpg", FAILED, 4, 3),
        ("/p/b.jpg", CAPTIONED, 1, None),
        ("/p/b.jpg", WITHDRAWN, 7, None),
        ("/p/c.jpg", GONE, 2, None),
    ]
    assert latest(tmp_path) == before
    assert (folded.rows, folded.edits, folded.pruned) == (6, 7, 0)
    assert compaction.compact(str(tmp_path)) == (None, 0)


def test_the_greatest_number_of_an_edit_survives(tmp_path):
    commit(tmp_path, run_id(1), numbered("/p/a.jpg", 1))
    commit(tmp_path, layout.edit_run(4), edit("/p/a.jpg", 4))
    # An edit of a photo that is gone.
    commit(tmp_path, layout.edit_run(9), edit("/p/b.jpg", 9))
    commit(tmp_path, run_id(2), numbered("/p/b.jpg", 2, status=GONE))
    assert edits.next_number(str(tmp_path)) == 10
    for number in range(3, 6):
        assert compaction.compact(str(tmp_path), prune_gone=True).folded.edits == 9
        assert edits.next_number(str(tmp_path)) == 10
        commit(tmp_path, run_id(number), numbered("/p/c.jpg", number))
    assert {record["photo"] for record in latest(tmp_path)} == {"/p/a.jpg", "/p/c.jpg"}


def test_photos_that_are_gone_are_dropped_if_that_is_asked_for(tmp_path, capsys):
    names = [f"/p/{number}.jpg" for number in range(6)]
    commit(tmp_path, run_id(1), *(numbered(name, 1) for name in names))
    commit(tmp_path, run_id(2), *(numbered(name, 2, status=GONE) for name in names[:3]))
    # One is there again, and a failure to read another one says so, too.
    failed = numbered(names[1], 3, status=FAILED, caption=None, error="timeout")
    commit(tmp_path, run_id(3), numbered(names[0], 3), failed)
    commit(tmp_path, layout.edit_run(1), edit(names[2], 1))
    before = latest(tmp_path)
    assert [one["photo"] for one in before] == [names[0], names[1], *names[3:]]
    assert cli.main(["compact", str(tmp_path)]) == 0
    assert "dropped" not in capsys.readouterr().out
    assert GONE in rows.read_table(files(tmp_path)[0])["status"].to_pylist() and latest(tmp_path) == before
    assert cli.main(["compact", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "nothing to do\n"
    assert cli.main(["compact", str(tmp_path), "--prune-gone"]) == 0
    printed = capsys.readouterr().out
    assert "files: 1 of " in printed and "rows:  8 → 6\n" in printed
    assert printed.endswith("gone:  1 photo dropped\n")
    (path,) = files(tmp_path)
    assert names[2] not in rows.read_table(path)["photo"].to_pylist()
    assert latest(tmp_path) == before
    for more in ([], ["--prune-gone"]):
        assert cli.main(["compact", str(tmp_path), *more]) == 0
        assert capsys.readouterr().out == "nothing to do\n"
    assert checks.verify(str(tmp_path)).findings == []


def test_nothing_may_be_left(tmp_path):
    (tmp_path / "runs" / run_id(1)).mkdir(parents=True)
    commit(tmp_path, run_id(1), numbered("/p/a.jpg", 1, status=GONE))
    folded = compaction.compact(str(tmp_path), prune_gone=True).folded
    assert (folded.rows, folded.results, folded.pruned) == (0, (), 1)
    assert files(tmp_path) == [] and compaction.compact(str(tmp_path), prune_gone=True) == (None, 0)
    assert checks.verify(str(tmp_path)).findings == []


def pruned_until(output, monkeypatch, deleted):
    """An output with a photo that is gone, which is dropped by a compaction that is interrupted at a deletion."""
    commit(output, run_id(1), numbered("/p/a.jpg", 1), numbered("/p/b.jpg", 1))
    commit(output, run_id(2), numbered("/p/b.jpg", 2, status=GONE))
    steps, delete = iter(range(deleted)), stores.delete
    monkeypatch.setattr(stores, "delete", lambda path: stop() if next(steps, None) is None else delete(path))
    with pytest.raises(InterruptedError):
        compaction.compact(str(output), prune_gone=True)
    monkeypatch.undo()
    return stores.join(str(output), record_of(output).gone[0].file)


def test_a_photo_that_is_dropped_never_comes_back_meanwhile(tmp_path, monkeypatch):
    for deleted in range(3):
        output = tmp_path / str(deleted)
        tombstones = pruned_until(output, monkeypatch, deleted)
        assert tombstones in files(output)
        assert [one["photo"] for one in latest(output)] == ["/p/a.jpg"]
        assert checks.verify(str(output)).findings == []
        assert compaction.compact(str(output)) == (None, 4 - 1 - deleted)
        assert [one["photo"] for one in latest(output)] == ["/p/a.jpg"] and len(files(output)) == 1
        assert compaction.compact(str(output)) == (None, 0)


def test_a_photo_that_is_there_again_is_not_dropped(tmp_path, monkeypatch):
    """A row that is no copy of what was compacted, in a file that is to be deleted."""
    pruned_until(tmp_path, monkeypatch, 0)
    path = commit(tmp_path, run_id(2), numbered("/p/b.jpg", 3))
    assert any(f"they lack 1 rows of {path}" in one.problem for one in checks.verify(str(tmp_path)).findings)
    with pytest.raises(BeamscribeError, match=f"they lack 1 rows of {path}"):
        compaction.compact(str(tmp_path))
    assert str(path) in files(tmp_path)


def test_no_photo_is_dropped_whose_last_row_is_lost(tmp_path, monkeypatch):
    tombstones = pruned_until(tmp_path, monkeypatch, 1)
    os.unlink(tombstones)
    before = files(tmp_path)
    with pytest.raises(BeamscribeError, match="they lack 1 rows of "):
        compaction.compact(str(tmp_path))
    assert files(tmp_path) == before


def compact_until(output, step, prune_gone):
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
    compaction.compact(output, prune_gone=prune_gone)


@pytest.fixture(scope="module")
def processes():
    """Starts processes that have the libraries loaded, but no threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["beamscribe.pipelines.output.compaction", "tests.test_compact"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        yield context


def killed(processes, output, step=1_000_000, seconds=None, prune_gone=False):
    """Compacts in a process that is killed; returns whether it was."""
    process = processes.Process(target=compact_until, args=(str(output), step, prune_gone))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.fixture(scope="module", params=["old", "mixed", "pruned"])
def archive(request, tmp_path_factory):
    """Runs with copies in another format, whether to drop what is gone, the rows that count, and those that stay."""
    output, prune_gone = tmp_path_factory.mktemp("archive"), request.param == "pruned"
    if request.param == "old":
        many_runs(output, runs=3, shards=2)
    else:
        mixed_runs(output)
    for pair in copies.missing(str(output), "jsonl"):
        copies.export(pair, "jsonl")
    return output, prune_gone, latest(output), kept(output, prune_gone)


def assert_goes_on(output, prune_gone, before, expected):
    """What a killed compaction left is valid, and the next one ends well."""
    assert latest(output) == before
    assert checks.verify(str(output)).findings == []
    compaction.compact(str(output), prune_gone=prune_gone)
    assert latest(output) == before
    found = [record for path in files(output) for record in rows.read_table(path).to_pylist()]
    assert found == expected
    assert layout.temporary_files(str(output)) == []
    (run,) = {layout.run_of(path) for path in files(output)}
    copies = [path for path in (output / "exports").rglob("*") if path.is_file()]
    assert [path.parent.name for path in copies] == [f"run={run}"] * len(files(output)), copies
    result = checks.verify(str(output))
    assert result.findings == []
    assert [note for note in result.notes if "look at" not in note] == []
    assert record_of(output).edits == max(layout.edit_number(run) for run in record_of(output).runs)
    assert compaction.compact(str(output), prune_gone=prune_gone) == (None, 0)


@pytest.mark.usefixtures("small")
def test_killed_before_every_step(tmp_path, processes, archive):
    source, prune_gone, *expected = archive
    step = 0
    while killed(processes, shutil.copytree(source, tmp_path / str(step)), step, prune_gone=prune_gone):
        # A reader of that moment copies everything, as a job does that is asked for copies.
        if step % 5 == 0:
            for pair in copies.missing(str(tmp_path / str(step)), "jsonl"):
                copies.export(pair, "jsonl")
        assert_goes_on(tmp_path / str(step), prune_gone, *expected)
        step += 1
    # The new files and the record are linked and their temporary files deleted; then the old files and their copies go.
    old = len(files(source))
    assert step > 2 * 3 + 2 * old


@pytest.mark.usefixtures("small")
def test_killed_at_any_moment(tmp_path, processes, archive):
    source, prune_gone, *expected = archive
    started = time.monotonic()
    assert not killed(processes, shutil.copytree(source, tmp_path / "whole"), prune_gone=prune_gone)
    duration = time.monotonic() - started
    draw = random.Random(1)
    kills = 0
    for attempt in range(15):
        output = shutil.copytree(source, tmp_path / str(attempt))
        # The second one goes on from what the first has left.
        for _ in range(2):
            kills += killed(processes, output, seconds=draw.uniform(0, duration), prune_gone=prune_gone)
        assert_goes_on(output, prune_gone, *expected)
    assert kills
