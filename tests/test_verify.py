import collections
import dataclasses
import datetime
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beamscribe.jobs import cli
from beamscribe.pipelines import stores
from beamscribe.pipelines.control.holder import Holder
from beamscribe.pipelines.output import checks, compaction, digests, layout, listed, report, rows
from beamscribe.pipelines.output.run_documents import PlannedShard
from beamscribe.pipelines.photos import (
    CAPTION_SCHEMA,
    CAPTIONED,
    FAILED,
    GONE,
    MODEL,
    PERSON,
    TAKEN_OVER,
    WITHDRAWN,
    Alternative,
    CaptionRow,
    Origin,
    PhotoRef,
    Tag,
    caption_table,
)
from tests import made

FIRST = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def row(photo, caption="a dog", hours=0, error=None, etag="1-2", settings="beam_width=3"):
    return CaptionRow(
        photo=photo,
        etag=etag,
        sha256=None,
        width=4,
        height=3,
        status=FAILED if error else CAPTIONED,
        caption=None if error else caption,
        score=None if error else -0.5,
        alternatives=(),
        stage="read" if error else None,
        error=error,
        message="why" if error else None,
        model="f1",
        settings=settings,
        written_at=FIRST + datetime.timedelta(hours=hours),
    )


def path_of(output, run, shard=0):
    return output / "captions" / f"run={run}" / f"shard-{shard:05d}.parquet"


def commit(output, run, *committed, shard=0):
    path = path_of(output, run, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(caption_table(committed), path, compression="zstd")
    return path


def finish(output, run, *shards, recaption=()):
    """A run that ended well: its shards, and what it says of them."""
    for index, committed in enumerate(shards):
        commit(output, run, *committed, shard=index)
    counts = collections.Counter(report.statuses_of(caption_table([one for shard in shards for one in shard])))
    planned = tuple(
        PlannedShard(index, len(shard), (), is_gone=any(one.status == GONE for one in shard))
        for index, shard in enumerate(shards)
    )
    folder = output / "runs" / run
    folder.mkdir(parents=True)
    done = counts.total() - counts[GONE]
    plan = made.plan(run=run, listed=done + 5, skipped=5, planned=done, shards=planned, gone=counts[GONE])
    (folder / "plan.json").write_bytes(plan.to_json())
    (folder / "config.json").write_bytes(made.config(run=run, recaption=tuple(recaption)).to_json())
    numbers = {status: counts[status] for status in (CAPTIONED, TAKEN_OVER, FAILED, GONE)}
    (folder / "report.json").write_bytes(made.report(run=run, listed=done + 5, skipped=5, **numbers).to_json())
    (folder / "_SUCCESS").write_bytes(b"")


@pytest.fixture
def output(tmp_path):
    """Two finished runs, the second of which tried a photo again and did one that had changed."""
    finish(
        tmp_path,
        "1",
        [row("/p/a.jpg"), row("/p/b.jpg", error="timeout")],
        [row("/p/c.jpg"), row("/p/d.jpg", error="empty"), row("/p/e.jpg")],
    )
    finish(tmp_path, "2", [row("/p/b.jpg", hours=1), row("/p/e.jpg", etag="3-4", hours=1)])
    return tmp_path


@pytest.fixture
def wrong(output, capsys):
    """Runs the command and returns the lines that say what is wrong."""

    def run(*arguments):
        status = cli.main(["verify", str(output), *arguments])
        lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("note: ")]
        assert status == (0 if lines[-1].startswith("all is well") else 1)
        return lines[:-1]

    return run


def test_all_is_well(output, capsys):
    assert cli.main(["verify", str(output)]) == 0
    assert capsys.readouterr().out == "all is well: 3 files of 2 runs, 7 rows, 5 photos\n"
    assert cli.main(["verify", str(output), "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_a_flipped_byte(output, wrong):
    """Wherever it is: files of one run have no checksums, but a compaction's have."""
    compaction.compact(str(output))
    (path,) = layout.committed_files(str(output))
    data = stores.read(path)
    draw = np.random.default_rng(0)
    for place in draw.choice(len(data), 12, replace=False):
        flipped = bytearray(data)
        flipped[place] ^= 1 << draw.integers(8)
        stores.replace(path, bytes(flipped))
        result = checks.verify(str(output))
        # Some bytes of the file's footer say nothing of its rows.
        assert result.findings or digests_of(path) == digests_of_bytes(data)
    flipped = bytearray(data)
    flipped[60] ^= 1
    stores.replace(path, bytes(flipped))
    (line,) = wrong()
    assert line.startswith(f"{path}: can't be read (") and "; restore it from a backup" in line


def digests_of(path):
    return digests_of_bytes(stores.read(path))


def digests_of_bytes(data):
    return [digests.total(digests.of_rows(table)) for table in rows.ShardFile(data, "").batches()]


@pytest.mark.parametrize("data", [b"", b"PAR1 not a file", "cut"])
def test_a_file_that_is_no_parquet(output, wrong, data):
    path = path_of(output, "1")
    path.write_bytes(path.read_bytes()[:-20] if data == "cut" else data)
    (line,) = wrong()
    assert line.startswith(f"{path}: can't be read (")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(output, wrong):
    path_of(output, "1").chmod(0)
    (line,) = wrong()
    assert "can't be read" in line


def test_a_file_that_is_gone(output, wrong):
    path_of(output, "1", 1).unlink()
    (line,) = wrong()
    assert line.startswith(f"{path_of(output, '1', 1)}: is missing, with 3 rows; restore it")


def test_a_run_whose_files_are_gone_until_they_are_made_again(output, wrong):
    shutil.rmtree(output / "captions" / "run=2")
    (line,) = wrong()
    assert "run=2/shard-00000.parquet: is missing, with 2 rows" in line
    finish(output, "3", [row("/p/b.jpg", hours=2), row("/p/e.jpg", etag="3-4", hours=2)])
    compaction.compact(str(output))
    assert wrong() == []


def test_a_file_that_is_not_planned(output, wrong):
    commit(output, "2", row("/p/x.jpg"), shard=7)
    (line,) = wrong()
    assert "run=2/shard-00007.parquet: is not in the plan of its run" in line


def test_too_few_rows(output, wrong):
    commit(output, "1", row("/p/a.jpg"))
    (line,) = wrong()
    assert line.startswith(f"{path_of(output, '1')}: has 1 rows instead of 2; ")


def test_a_photo_twice_in_a_file_and_in_two_files_of_a_run(output, wrong):
    commit(output, "9", row("/p/x.jpg"), row("/p/x.jpg"))
    (line,) = wrong()
    assert line.startswith("/p/x.jpg: has two rows in run 9, the second one in ")
    commit(output, "9", row("/p/x.jpg"))
    commit(output, "9", row("/p/x.jpg", hours=9), shard=1)
    (line,) = wrong()
    assert line.startswith(f"/p/x.jpg: has two rows in run 9, the second one in {path_of(output, '9', 1)}; ")
    assert "run `beamscribe compact`" in line


def test_many_doubles_are_named_in_part(output, wrong):
    finish(output, "3", [row(f"/p/{name}.jpg") for name in range(30)] * 2)
    lines = wrong()
    assert len(lines) == checks.MAX_NAMED + 1
    assert lines[-1].startswith("10 more: photos have two rows in one run; ")


def test_a_photo_captioned_again_in_the_same_way(output, wrong):
    finish(output, "3", [row("/p/a.jpg", "another", hours=5)])
    (line,) = wrong()
    first, second = path_of(output, "1"), path_of(output, "3")
    both = f"in {first} and in {second}"
    assert line.startswith(f"/p/a.jpg: was captioned twice by the same model with the same settings: {both}; ")
    compaction.compact(str(output))
    assert wrong() == []


def test_a_photo_captioned_again_for_a_reason(output, wrong):
    finish(output, "3", [row("/p/a.jpg", settings="beam_width=5", hours=5), row("/p/c.jpg", etag="new", hours=5)])
    # Back from a copy, with the modification time that it had.
    finish(output, "4", [row("/p/c.jpg", hours=6)])
    finish(output, "5", [row("/p/c.jpg", hours=7)], recaption=["all"])
    assert wrong() == []


def replaced(table, field, column):
    return table.set_column(table.column_names.index(field.name), field, column)


def test_other_columns(output, wrong):
    table = caption_table([row("/p/a.jpg"), row("/p/b.jpg", error="timeout")])
    path = path_of(output, "1")
    damaged = {
        "found nothing, expected alternatives": table.drop_columns(["alternatives"]),
        "found width (int64), expected width (int32)": replaced(
            table, pa.field("width", pa.int64()), table["width"].cast(pa.int64())
        ),
        "found photo (string), expected photo (string not null)": table.cast(
            CAPTION_SCHEMA.set(0, pa.field("photo", pa.string()))
        ),
        "found more (int64), expected nothing": table.append_column("more", pa.array([1, 2])),
    }
    for difference, one in damaged.items():
        pq.write_table(one, path)
        (line,) = wrong()
        assert line.startswith(f"{path}: can't be read (its columns are not those of a shard: ")
        assert difference in line or difference.startswith("found nothing")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"status": "done"}, "1 rows with a status that is none of captioned, failed, gone and withdrawn"),
        ({"caption": None}, "1 captioned rows without a caption"),
        ({"status": FAILED, "caption": "x", "error": "empty"}, "1 failed rows with a caption"),
        ({"status": FAILED, "caption": None, "error": "tired"}, "1 failed rows without a known error code"),
        ({"status": FAILED, "caption": None, "error": None}, "1 failed rows without a known error code"),
        ({"status": GONE, "caption": None}, "1 gone rows with neither a caption nor a known error code"),
        ({"status": WITHDRAWN, "source": PERSON}, "1 withdrawn rows with a caption"),
        ({"status": WITHDRAWN, "caption": None}, "1 withdrawn rows that are not a person's"),
        ({"source": "cat"}, "1 rows with a source that is neither model nor person"),
    ],
)
def test_values_that_can_not_be(output, wrong, changes, problem):
    commit(output, "9", dataclasses.replace(row("/p/x.jpg"), **changes), row("/p/y.jpg"))
    (line,) = wrong()
    assert line.startswith(f"{path_of(output, '9')}: {problem}; ")


def test_text_that_is_not_utf8(output, wrong):
    table = caption_table([row("/p/a.jpg"), row("/p/b.jpg", error="timeout")])
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff", b"x"]).buffers())
    column = table.column_names.index("caption")
    pq.write_table(table.set_column(column, CAPTION_SCHEMA.field("caption"), broken), path_of(output, "1"))
    (line,) = wrong()
    assert "can't be read" in line and "UTF8" in line


def test_a_report_that_differs(output, wrong):
    path = output / "runs" / "1" / "report.json"
    report = json.loads(path.read_text())
    path.write_text(json.dumps({**report, "captioned": 4, "failed": 1}))
    assert [line.split(";")[0] for line in wrong()] == [
        f"{path}: states 4 captioned photos, but the shards hold 3 captioned rows",
        f"{path}: states 1 failed photos, but the shards hold 2 failed rows",
    ]
    path.write_text(json.dumps({**report, "listed": 11}))
    (line,) = wrong()
    assert line.startswith(
        f"{path}: does not add up: listed 11 is not skipped 5 + taken over 0 + captioned 3 + failed 2; "
    )


@pytest.mark.parametrize("name", ["report.json", "plan.json"])
@pytest.mark.parametrize("data", [None, b"{", b"[]", b"{}"])
def test_accounts_that_can_not_be_read(output, wrong, name, data):
    path = output / "runs" / "1" / name
    path.unlink() if data is None else path.write_bytes(data)
    (line,) = wrong()
    assert line.startswith(f"{path}: is missing; " if data is None else f"{path}: is damaged: ")


def test_what_runs_say_does_not_matter_once_they_are_folded(output, wrong):
    compaction.compact(str(output))
    assert wrong() == []
    (record,) = layout.run_files(str(output), layout.COMPACTION)
    (path,) = layout.committed_files(str(output))
    pq.write_table(rows.read_table(path).slice(1), path)
    (line,) = wrong()
    assert line.startswith(f"{path}: has 4 rows instead of 5; ")
    os.unlink(path)
    commit(output, "3", row("/p/a.jpg"))
    (line,) = wrong()
    assert line.startswith(f"{path}: is missing, with 5 rows; ")
    stores.replace(record, b"[]")
    assert wrong()[0].startswith(f"{record}: is damaged: ")


def test_compacted_values_that_differ(output, wrong):
    compaction.compact(str(output))
    (path,) = layout.committed_files(str(output))
    table = rows.read_table(path)
    captions = pa.array(["another", *table["caption"].to_pylist()[1:]])
    column = table.column_names.index("caption")
    pq.write_table(table.set_column(column, CAPTION_SCHEMA.field("caption"), captions), path)
    (line,) = wrong()
    assert line.startswith(f"{path}: holds other values than those that were written; ")


def test_a_run_that_has_not_finished_and_what_a_killed_writer_left(output, capsys):
    commit(output, "3", row("/p/x.jpg"))
    left = output / "captions" / "run=3" / f".shard-00001.parquet.{'0a' * 16}"
    left.write_bytes(b"PAR1")
    assert cli.main(["verify", str(output)]) == 0
    *notes, last = capsys.readouterr().out.splitlines()
    assert notes == [
        "note: run 3 is not finished: it is still running, or it was stopped; its committed rows count",
        f"note: temporary files that killed writers left: 1, for example {left}; `beamscribe compact` deletes them",
    ]
    assert last.startswith("all is well: ")
    assert cli.main(["verify", str(output), "--quiet"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("data", [b"", b"\0" * 300, b'{"purpose": "run 7"}', b'{"pid": -1}'])
def test_a_lease_that_can_not_be_read(output, wrong, data):
    leases = output / "leases"
    leases.mkdir()
    (leases / "00000006.json").write_bytes(Holder.myself("run 6").to_json())
    (leases / "00000007.json").write_bytes(data)
    # These name no holder.
    for name in ("00000007.beat", "00000006.released", "notes.json"):
        (leases / name).write_bytes(b"\xff")
    (line,) = wrong()
    assert line.startswith(f"{leases / '00000007.json'}: is damaged: ") and "no job writes to the folder" in line


def test_a_lease_of_a_newer_version_is_said_to_be_one(output, capsys):
    (output / "leases").mkdir()
    path = output / "leases" / "00000007.json"
    path.write_text('{"format_version": 9}')
    assert cli.main(["verify", str(output)]) == 1
    assert f"{path} was written by a newer version of Beamscribe" in capsys.readouterr().err


def test_a_lease_that_is_deleted_meanwhile_is_no_finding(output, wrong, monkeypatch):
    (output / "leases").mkdir()
    path = output / "leases" / "00000007.json"
    path.write_bytes(b"")
    read = stores.read

    def late(uri, *more):
        path.unlink(missing_ok=True)
        return read(uri, *more)

    monkeypatch.setattr(stores, "read", late)
    # Nothing else is read between the listing of the leases and their reading.
    monkeypatch.setattr(checks, "verify", lambda *_: checks.Result([], [], 0, 0, 0, 0))
    assert wrong() == [] and not path.exists()


def test_rows_of_a_compaction_that_was_stopped_are_copies(output, capsys):
    path = path_of(output, "3-compacted")
    path.parent.mkdir()
    shutil.copy(path_of(output, "1"), path)
    assert cli.main(["verify", str(output)]) == 0
    assert "note: 2 rows exist twice, since a compaction was interrupted; " in capsys.readouterr().out


def listing(*names, etag="1-2"):
    return [PhotoRef(f"/p/{name}.jpg", etag) for name in names]


PICTURE, OTHER = "ab" * 32, "cd" * 32


def job_row(photo, number, **changes):
    made = dataclasses.replace(row(photo, hours=number), run_number=number, source=MODEL, image_sha256=PICTURE)
    return dataclasses.replace(made, **changes)


def person_row(photo, number, **changes):
    made = dataclasses.replace(row(photo, "by a person"), run_number=number, source=PERSON, image_sha256=PICTURE)
    return dataclasses.replace(made, **changes)


def commit_edit(output, *edits):
    return commit(output, layout.edit_run(edits[0].run_number), *edits)


@pytest.fixture
def kinds(tmp_path):
    """Finished runs and edits with rows of all kinds, of which nothing is wrong."""
    names = [f"/p/{name}.jpg" for name in "abcdef"]
    taken = {"taken_from": Origin("/q/z.jpg", 1)}
    error = {"status": FAILED, "caption": None, "error": "corrupt"}
    finish(tmp_path, "r00000001-a", [job_row(name, 1) for name in names], [job_row("/p/x.jpg", 1, **error)])
    # Two photos are gone; one is there again, and takes its caption over; one is touched.
    gone = [job_row(name, 2, status=GONE) for name in names[:2]] + [job_row("/p/x.jpg", 2, **error | {"status": GONE})]
    finish(tmp_path, "r00000002-a", [job_row(names[2], 2, etag="1-3", **taken)], gone)
    finish(tmp_path, "r00000003-a", [job_row(names[0], 3, **taken), job_row("/p/new.jpg", 3)])
    commit_edit(tmp_path, person_row(names[3], 1), person_row(names[2], 1))
    commit_edit(tmp_path, person_row(names[3], 2, status=WITHDRAWN, caption=None), person_row(names[1], 2))
    return tmp_path


def test_rows_of_all_kinds_are_well(kinds):
    for _ in range(2):
        assert checks.verify(str(kinds)).findings == checks.verify(str(kinds)).notes == []
        compaction.compact(str(kinds))


def test_each_number_of_a_report_is_compared(kinds):
    path = kinds / "runs" / "r00000002-a" / "report.json"
    said = json.loads(path.read_text())
    for name, status, count in (("taken_over", "taken over", 1), ("captioned", "captioned", 0), ("gone", "gone", 3)):
        path.write_text(json.dumps(said | {name: 9}))
        problems = [finding.problem for finding in checks.verify(str(kinds)).findings]
        assert problems[0] == f"states 9 {status} photos, but the shards hold {count} {status} rows"
        # Photos that are gone are not among those that are listed.
        assert len(problems) == (1 if name == "gone" else 2)


def test_an_edit_is_no_unfinished_run_and_no_second_caption(kinds):
    commit(kinds, "r00000004-a", job_row("/p/y.jpg", 4))
    # The number of an edit says nothing of when it was, compared with runs.
    commit_edit(kinds, person_row("/p/a.jpg", 9), person_row("/p/new.jpg", 9))
    result = checks.verify(str(kinds))
    assert result.findings == []
    (note,) = result.notes
    assert note.startswith("run r00000004-a is not finished: ")


def test_a_caption_that_was_made_twice_is_found_among_other_rows(kinds):
    finish(kinds, "r00000004-a", [job_row("/p/d.jpg", 4), job_row("/p/a.jpg", 4), job_row("/p/c.jpg", 4, etag="1-3")])
    # An edit is between the two; beside the others, the one before was taken over.
    (finding,) = checks.verify(str(kinds)).findings
    assert finding.subject == "/p/d.jpg" and finding.problem.startswith("was captioned twice by the same model")


def test_a_compaction_holds_no_two_rows_of_one_run(kinds):
    compaction.compact(str(kinds))
    (path,) = layout.committed_files(str(kinds))
    table = rows.read_table(path)
    assert table["photo"].to_pylist().count("/p/d.jpg") == 2
    pq.write_table(pa.concat_tables([table, table.slice(3, 1)]), path)
    found = [finding.problem for finding in checks.verify(str(kinds)).findings]
    assert len(found) == 2 and found[0].startswith(f"has two rows in run {layout.run_of(path)}, ")


def test_persons_captions_of_pictures_that_have_changed_are_named(kinds):
    changed = {"etag": "5-5", "image_sha256": OTHER}
    finish(kinds, "r00000004-a", [job_row("/p/c.jpg", 4, **changed), job_row("/p/e.jpg", 4, **changed)])
    commit_edit(kinds, person_row("/p/e.jpg", 3, image_sha256=OTHER))
    result = checks.verify(str(kinds))
    assert result.findings == []
    (note,) = result.notes
    assert note.startswith("photos whose picture has changed since a person captioned them, ")
    assert note.endswith(": 1; look at /p/c.jpg")
    commit_edit(kinds, *(person_row(f"/m/{name}.jpg", 4, image_sha256=OTHER) for name in range(30)))
    finish(kinds, "r00000005-a", [job_row(f"/m/{name}.jpg", 5) for name in range(30)])
    (note,) = checks.verify(str(kinds)).notes
    assert ": 31; look at " in note and note.count(".jpg") == checks.MAX_NAMED and note.endswith(" and 11 more")


def ref(photo, etag="1-2"):
    """A photo whose etag begins with its size, as that of a local file does."""
    return PhotoRef(photo, etag, int(etag.partition("-")[0]))


def test_a_photo_in_another_place_is_said_to_have_been_moved(kinds):
    listing = [ref("/q/a.jpg"), ref("/q/b.jpg"), ref("/q/d.jpg", "7-2"), ref("/q/c.jpg", "1-9"), ref("/q/e.jpg")]
    # Its old place is still there.
    listing.append(ref("/p/e.jpg"))
    result = checks.verify(str(kinds), listing)
    assert [finding[:2] for finding in result.findings] == [
        ("/q/d.jpg", "has no row"),
        ("/q/e.jpg", "has no row"),
        ("/q/a.jpg", "seems to have been moved from /p/a.jpg"),
        ("/q/b.jpg", "seems to have been moved from /p/b.jpg"),
        ("/q/c.jpg", "seems to have been moved from /p/c.jpg"),
    ]
    assert result.findings[-1].remedy == "run `beamscribe caption`, which takes its caption over"
    # Two of the photos that are not listed are known to be gone.
    assert result.notes == [
        "listed 6 photos: 2 without a row, 3 moved, 0 changed after their row was written; "
        "5 photos with rows are not listed"
    ]


def test_a_size_in_a_row_goes_before_that_in_its_etag(tmp_path):
    commit(tmp_path, "1", job_row("/p/a.jpg", 1, bytes=70, etag="generation"), job_row("/p/b.jpg", 1, bytes=8))
    listing = [
        PhotoRef("gs://b/a.jpg", "x", 70),
        PhotoRef("gs://b/b.jpg", "x", 1),
        PhotoRef("gs://b/c.zip#b.jpg", "x", 8),
    ]
    assert [finding[:2] for finding in checks.verify(str(tmp_path), listing).findings] == [
        ("gs://b/b.jpg", "has no row"),
        ("gs://b/a.jpg", "seems to have been moved from /p/a.jpg"),
        ("gs://b/c.zip#b.jpg", "seems to have been moved from /p/b.jpg"),
    ]


def test_many_moved_photos_are_named_in_part(tmp_path):
    for shard in range(3):
        commit(tmp_path, "1", *(row(f"/p/{shard}-{name}.jpg") for name in range(20)), shard=shard)
    listing = [ref(f"/q/{shard}-{name}.jpg") for name in range(20) for shard in range(3)]
    result = checks.verify(str(tmp_path), listing)
    assert [finding[:2] for finding in result.findings] == [
        *((one.photo, f"seems to have been moved from {one.photo.replace('/q/', '/p/')}") for one in listing[:20]),
        ("40 more", "moved photos"),
    ]
    assert ": 0 without a row, 60 moved, 0 changed" in result.notes[-1]


def test_photos_that_are_there_again_are_told_from_touched_ones(kinds):
    listing = [ref("/p/b.jpg"), ref("/p/d.jpg", "1-5"), ref("/p/x.jpg"), ref("/p/a.jpg")]
    result = checks.verify(str(kinds), listing)
    assert [finding[:2] for finding in result.findings] == [
        ("/p/d.jpg", "changed after its row was written"),
        ("/p/b.jpg", "is there again after it was gone"),
        ("/p/x.jpg", "is there again after it was gone"),
    ]
    assert ", 1 changed after their row was written, 2 there again after they were gone; 4 " in result.notes[-1]


def test_a_version_is_that_of_a_jobs_row(tmp_path):
    """As the next run has it: what a person captions is the version that she has seen."""
    failed = {"status": FAILED, "caption": None, "error": "timeout"}
    commit(tmp_path, "1", job_row("/p/a.jpg", 1), job_row("/p/b.jpg", 1), job_row("/p/c.jpg", 1, **failed))
    commit(tmp_path, "2", job_row("/p/a.jpg", 2, etag="1-9"), job_row("/p/b.jpg", 2, etag="1-9", **failed))
    commit_edit(tmp_path, person_row("/p/a.jpg", 1), person_row("/p/only.jpg", 1))
    for etag in ("1-2", "1-9"):
        found = checks.verify(str(tmp_path), [ref(f"/p/{name}.jpg", etag) for name in ("a", "b", "c", "only")]).findings
        changed = "c" if etag == "1-9" else "a"
        # A caption and a failure of two versions both count.
        expected = [("/p/only.jpg", "has no row"), (f"/p/{changed}.jpg", "changed after its row was written")]
        assert [finding[:2] for finding in found] == expected


def test_compared_with_a_listing(output):
    result = checks.verify(str(output), [*listing("a", "b", "c", "d"), *listing("e", etag="3-4")])
    assert result.findings == []
    assert result.notes == [
        "listed 5 photos: 0 without a row, 0 changed after their row was written; 0 photos with rows are not listed"
    ]
    # Two inputs may hold the same photo.
    result = checks.verify(str(output), listing("a", "x", "x") + listing("c", etag="9-9"))
    assert [(finding.subject, finding.problem) for finding in result.findings] == [
        ("/p/x.jpg", "has no row"),
        ("/p/c.jpg", "changed after its row was written"),
    ]
    assert result.notes == [
        "listed 4 photos: 1 without a row, 1 changed after their row was written; 3 photos with rows are not listed"
    ]


def test_many_missing_photos_are_named_in_part(output, monkeypatch):
    monkeypatch.setattr(listed, "_LISTED_AT_ONCE", 7)
    result = checks.verify(str(output), listing(*range(50)))
    assert len(result.findings) == checks.MAX_NAMED + 1
    assert result.findings[-1][:2] == ("30 more", "new photos")
    assert checks.verify(str(output), []).findings == []


def test_compared_with_the_photos_themselves(tmp_path, make_photo, capsys):
    photos = [make_photo(tmp_path / "photos" / f"{name}.jpg") for name in "ab"]
    finish(tmp_path / "out", "1", [row(str(path), etag=stores.version(str(path))) for path in photos])
    arguments = ["verify", str(tmp_path / "out"), "--input", str(photos[0]), "--input", str(tmp_path / "photos")]
    assert cli.main(arguments) == 0
    make_photo(tmp_path / "photos" / "c.jpg")
    os.utime(photos[1], (1, 1))
    capsys.readouterr()
    assert cli.main(arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"{tmp_path}/photos/c.jpg: has no row; run `beamscribe caption`" in lines
    assert f"{photos[1]}: changed after its row was written; run `beamscribe caption`" in lines
    assert cli.main([*arguments, "--input", str(tmp_path / "nothing")]) == 2
    error = capsys.readouterr().err
    assert "nothing" in error and error.count("\n") == 1


def test_folders_without_captions(tmp_path, capsys):
    for folder, problem in [("", "holds no captions"), ("none", "no folder")]:
        assert cli.main(["verify", str(tmp_path / folder)]) == 2
        message = capsys.readouterr().err
        assert problem in message and message.count("\n") == 1


def test_names_can_not_command_the_terminal(output, wrong, capsys):
    finish(output, "3", [row("/p/\x1b[31m\n.jpg"), row("/p/\x1b[31m\n.jpg")])
    (line,) = wrong()
    assert cli.main(["verify", str(output), "--quiet"]) == 1
    assert capsys.readouterr().out == f"{line}\n"
    assert line.startswith("/p/\\x1b[31m\\n.jpg: has two rows in run 3")


def test_digests_tell_rows_apart():
    same = row("/p/a.jpg")
    others = [
        dataclasses.replace(same, caption=""),
        dataclasses.replace(same, caption=None),
        dataclasses.replace(same, score=-0.25),
        dataclasses.replace(same, width=None),
        dataclasses.replace(same, alternatives=(Alternative("", -1.0),)),
        dataclasses.replace(same, alternatives=(Alternative("", -2.0),)),
        dataclasses.replace(same, alternatives=(Alternative("a", -1.0), Alternative("b", -1.0))),
        dataclasses.replace(same, written_at=FIRST + datetime.timedelta(microseconds=1)),
        dataclasses.replace(same, tags=()),
        dataclasses.replace(same, tags=(Tag("dog", 0.5),)),
        dataclasses.replace(same, tags=(Tag("dog", 0.25),)),
        dataclasses.replace(same, tags=(Tag("dog", 0.5), Tag("cat", 0.5))),
        dataclasses.replace(same, taken_from=Origin("/p/b.jpg", None)),
        dataclasses.replace(same, taken_from=Origin("/p/b.jpg", 3)),
        dataclasses.replace(same, taken_from=Origin("/p/c.jpg", 3)),
        dataclasses.replace(same, taken_at=datetime.datetime(2019, 1, 2)),
        dataclasses.replace(same, taken_at=datetime.datetime(2019, 1, 2, microsecond=1)),
        dataclasses.replace(same, bytes=7),
        dataclasses.replace(same, perceptual_hash=-7),
        dataclasses.replace(same, familiarity=0.5),
        *(
            dataclasses.replace(same, **{name: "x"})
            for name in ("sha256", "image_sha256", "description", "engine", "source", "edited_by")
        ),
    ]
    table = caption_table([same, *others, same])
    found = digests.of_rows(table)
    assert len(set(found.tolist())) == len(others) + 1 and found[0] == found[-1]
    # Also of rows in the middle of a table.
    assert (digests.of_rows(table.slice(3, 4)) == found[3:7]).all()
    assert digests.add(digests.total(found[:4]), digests.total(found[4:])) == digests.total(found[::-1].copy())
    for name, value in {"alternatives": None, "taken_from": {"photo": None, "run_number": None}}.items():
        field = CAPTION_SCHEMA.field(name)
        other = replaced(table, field, pa.array([value] * len(table), field.type))
        assert digests.of_rows(other)[0] != found[0]
        assert (digests.of_rows(other.slice(3, 4)) == digests.of_rows(other)[3:7]).all()


def test_a_photo_that_is_as_it_was_before_its_current_row_has_changed(tmp_path):
    for number, etag in ((1, "1"), (2, "2")):
        made = dataclasses.replace(row("/p/a.jpg"), etag=etag, run_number=number)
        path = tmp_path / "captions" / f"run={number}" / "shard-00000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(caption_table([made]), path)
    assert checks.verify(str(tmp_path), [PhotoRef("/p/a.jpg", "2")]).findings == []
    (finding,) = checks.verify(str(tmp_path), [PhotoRef("/p/a.jpg", "1")]).findings
    assert finding.problem == "changed after its row was written"
