import datetime

import apache_beam as beam
import pyarrow.parquet as pq
import pytest

from beamscribe.pipelines import ledger, planning
from beamscribe.pipelines.ledger import DoneRule, ListLedger, ReadLedger
from beamscribe.pipelines.output.current import Since
from beamscribe.pipelines.photos import CaptionRow, PhotoRef, caption_table
from tests.conftest import run_eagerly

RULE = DoneRule("m", "s")


def row(photo, etag="1", error=None, model="m", settings="s", hour=0, number=None, attempts=None):
    return CaptionRow(
        photo=photo,
        etag=etag,
        sha256=None,
        width=None,
        height=None,
        status="failed" if error else "captioned",
        caption=None if error else "a dog",
        score=None,
        alternatives=(),
        stage="read" if error else None,
        error=error,
        message=None,
        model=model,
        settings=settings,
        written_at=time(hour),
        run_number=number,
        attempts=attempts,
    )


def time(hour):
    return datetime.datetime(2026, 1, 1, hour, tzinfo=datetime.UTC)


def commit(output, run, *rows):
    folder = output / "captions" / f"run={run}"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(caption_table(rows), folder / f"shard-{len(list(folder.iterdir())):05d}.parquet")


def new_of(output, refs, rule=RULE, run="now"):
    """Which of some photos are not done, and how many of the others are outdated."""
    output.mkdir(exist_ok=True)
    entries = run_eagerly(
        output / "entries.pickle",
        lambda pipeline: pipeline | beam.Create([str(output)]) | ListLedger(run) | ReadLedger(rule),
    )
    photos, listed, outdated = [], 0, 0
    for part, some in ledger.by_part(refs):
        known = ledger.latest(array for number, array in entries if number == part)
        new = planning.not_done(some, known, rule)
        photos += [f"{ref.photo}{ref.etag}" for ref in new.photos]
        listed, outdated = listed + new.counts.listed, outdated + new.counts.outdated
    assert listed == len({ref.photo for ref in refs})
    return sorted(photos), outdated


def refs(*texts):
    return [PhotoRef(text[:-1], text[-1]) for text in texts]


def test_what_is_captioned_or_failed_for_good_is_done(tmp_path):
    commit(tmp_path, "one", row("a"), row("b", error="truncated"), row("c", error="unreadable"))
    commit(tmp_path, "two", row("d", etag="2"))
    assert new_of(tmp_path, refs("a1", "b1", "c1", "d1", "e1")) == (["c1", "d1", "e1"], 0)
    assert new_of(tmp_path, refs("d2")) == ([], 0)


def test_what_another_model_or_other_settings_captioned_is_done_but_outdated(tmp_path):
    commit(tmp_path, "one", row("a", model="other"), row("b", settings="other"), row("c"))
    assert new_of(tmp_path, refs("a1", "b1", "c1")) == ([], 2)


@pytest.mark.parametrize(
    "recaption, expected",
    [
        (["model"], ["b1"]),
        (["settings"], ["c1"]),
        (["failed"], ["d1"]),
        (["model", "failed"], ["b1", "d1"]),
        (["all"], ["a1", "b1", "c1", "d1"]),
    ],
)
def test_what_is_done_again_can_be_chosen(tmp_path, recaption, expected):
    commit(tmp_path, "one", row("a"), row("b", model="old"), row("c", settings="old"), row("d", error="truncated"))
    rule = DoneRule("m", "s", frozenset(recaption))
    assert new_of(tmp_path, refs("a1", "b1", "c1", "d1"), rule)[0] == expected


def test_an_interrupted_recaptioning_goes_on_where_it_was(tmp_path):
    commit(tmp_path, "one", row("a", hour=1), row("b", hour=1), row("c", hour=1))
    commit(tmp_path, "two", row("a", hour=3), row("b", error="unreadable", hour=3))
    rule = DoneRule("m", "s", frozenset(["all"]), since=Since(0, time(2)))
    assert new_of(tmp_path, refs("a1", "b1", "c1"), rule)[0] == ["b1", "c1"]


def test_an_interrupted_recaptioning_goes_on_whatever_the_clocks_said(tmp_path):
    commit(tmp_path, "one", row("a", hour=9, number=3), row("b", hour=9, number=3), row("c"))
    commit(tmp_path, "two", row("a", hour=1, number=4))
    rule = DoneRule("m", "s", frozenset(["all"]), since=Since(4, time(2)))
    assert new_of(tmp_path, refs("a1", "b1", "c1"), rule)[0] == ["b1", "c1"]
    # A run of an earlier version has no number; what came after it has one.
    rule = DoneRule("m", "s", frozenset(["all"]), since=Since(0, time(12)))
    assert new_of(tmp_path, refs("a1", "b1", "c1"), rule)[0] == ["c1"]


@pytest.mark.parametrize(
    ("attempts", "wait"), [(None, 1), (1, 1), (2, 2), (3, 4), (5, 16), (6, 32), (7, 32), (900, 32)]
)
def test_a_passing_failure_is_tried_again_after_more_and_more_runs(tmp_path, attempts, wait):
    commit(tmp_path, "one", row("a", error="unreadable", number=5, attempts=attempts), row("b", number=5))
    tried = [number for number in range(6, 40) if new_of_rule(tmp_path, DoneRule("m", "s", run_number=number))]
    assert tried == list(range(5 + wait, 40))
    assert new_of_rule(tmp_path, DoneRule("m", "s", frozenset(["failed"]), run_number=6)) == ["a1"]
    # Who has no number does not wait, and a photo that has changed is another one.
    assert new_of_rule(tmp_path, DoneRule("m", "s")) == ["a1"]
    assert new_of_rule(tmp_path, DoneRule("m", "s", run_number=6), "a2") == ["a2"]


def new_of_rule(output, rule, photo="a1"):
    (entries,) = (
        ledger.latest(array for part, array in ledger.entries_of(found, rule) if part == ledger.part_of(digest))
        for digest in [ledger.photo_digest("a")]
        for found in ledger.committed_files(str(output), "")
    )
    return [f"{ref.photo}{ref.etag}" for ref in planning.not_done(refs(photo), entries, rule).photos]


def test_a_photo_that_kills_its_process_is_tried_in_three_runs(tmp_path):
    killed = {"error": "decoder_killed", "number": 5}
    commit(tmp_path, "one", row("a", attempts=2, **killed), row("b", attempts=3, **killed))
    rule = DoneRule("m", "s", run_number=90)
    assert new_of(tmp_path, refs("a1", "b1"), rule)[0] == ["a1"]
    rule = DoneRule("m", "s", frozenset(["failed"]), run_number=6)
    assert new_of(tmp_path, refs("a1", "b1"), rule)[0] == ["a1", "b1"]


def test_the_plan_says_how_often_a_photo_has_failed(tmp_path):
    rule = DoneRule("m", "s", frozenset(["all"]))

    def attempts(name, made, etag="1"):
        commit(tmp_path / name, "one", made)
        (files,) = ledger.committed_files(str(tmp_path / name), "")
        known = ledger.latest(entries for _, entries in ledger.entries_of(files, rule))
        return [ref.attempts for ref in planning.not_done(refs(f"a{etag}"), known, rule).photos]

    assert attempts("three", row("a", error="unreadable", attempts=3)) == [3]
    assert attempts("unknown", row("a", error="unreadable")) == [1]
    assert attempts("for good", row("a", error="corrupt", attempts=1)) == [1]
    assert attempts("captioned", row("a", attempts=0)) == [0]
    assert attempts("changed", row("a", error="unreadable", attempts=3), etag="2") == [0]


def test_the_row_of_the_later_run_counts_whatever_the_clocks_said(tmp_path):
    commit(tmp_path, "one", row("a", etag="1", hour=9), row("b", etag="1", hour=9, number=1))
    commit(tmp_path, "two", row("a", etag="2", hour=1, number=1), row("b", etag="2", hour=1, number=2))
    assert new_of(tmp_path, refs("a2", "b2")) == ([], 0)
    assert new_of(tmp_path, refs("a1", "b1"))[0] == ["a1", "b1"]


def test_the_latest_row_of_a_photo_counts(tmp_path):
    commit(tmp_path, "one", row("a", hour=5), row("b", error="unreadable", hour=1), row("c", model="old", hour=1))
    commit(tmp_path, "two", row("a", error="unreadable", hour=2), row("b", hour=2), row("c", hour=2))
    commit(tmp_path, "three", row("d", hour=1), row("d", etag="2", hour=2))
    assert new_of(tmp_path, refs("a1", "b1", "c1", "d1")) == (["d1"], 0)


def test_the_own_run_does_not_count(tmp_path):
    commit(tmp_path, "now", row("a"))
    commit(tmp_path, "now-2", row("b"))
    assert new_of(tmp_path, refs("a1", "b1"))[0] == ["a1"]


def test_an_empty_output_has_nothing_done(tmp_path):
    assert new_of(tmp_path / "none", refs("a1")) == (["a1"], 0)


def test_a_photo_of_two_inputs_is_one():
    new = planning.not_done(refs("a1", "b1", "a1"), {}, RULE)
    assert [ref.photo for ref in new.photos] == ["a", "b"] and new.counts.listed == 2


def test_many_entries_are_all_found(tmp_path):
    photos = [f"photo {number}" for number in range(3000)]
    for start in range(0, 3000, 100):
        commit(tmp_path, "one", *(row(photo) for photo in photos[start : start + 100]))
    assert new_of(tmp_path, [PhotoRef(photo, "1") for photo in photos]) == ([], 0)
    assert len(new_of(tmp_path, [PhotoRef(photo, "2") for photo in photos])[0]) == 3000
