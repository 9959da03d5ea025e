"""Earlier rows that resemble planned photos are found, however many there are of equal size."""

import dataclasses

import numpy as np
import pytest

from beamscribe.pipelines import clues
from beamscribe.pipelines.clues import Wanted
from beamscribe.pipelines.known import Known
from beamscribe.pipelines.ledger import DoneRule, photo_digest
from beamscribe.pipelines.output.resemblance import clues_of_refs, clues_of_rows
from beamscribe.pipelines.photos import Origin, PhotoRef, caption_rows, caption_table
from tests.test_compact import commit, row

RULE = DoneRule("f1", "beam_width=3")
GROUP = ("", 0)


def found(tmp_path, made, refs, rule=RULE, vanished=()):
    """The photos of the rows that are found for planned ones, and those of rows of vanished photos."""
    path = commit(tmp_path, "earlier", *made)
    wanted = Wanted.of([(GROUP, clues.wanted_by(refs))], [np.array(vanished, "S16")])
    alike, gone = clues.matching([str(path)], wanted, rule)
    return sorted(alike["photo"].to_pylist()), sorted(gone["photo"].to_pylist())


def sized(photo, size, **columns):
    return dataclasses.replace(row(photo), bytes=size, **columns)


@pytest.mark.parametrize(
    ("ref", "photos"),
    [
        (PhotoRef("/a/1.jpg", "new", 7), ["/a/1.jpg", "/b/1.jpg"]),
        (PhotoRef("/x/y.jpg", "new", 200), ["/b/1.jpg"]),
        (PhotoRef("/x.tar#in/it/1.jpg", "new", 7), ["/a/1.jpg", "/b/1.jpg"]),
        (PhotoRef("/x.zip#2.jpg", "new", 7), ["/b/2.jpg"]),
        (PhotoRef("/x/new.jpg", "new", 7), []),
        (PhotoRef("/x/new.jpg", "new"), []),
    ],
)
def test_a_name_a_size_or_a_base_name_leads_to_a_row(tmp_path, ref, photos):
    made = [sized("/a/1.jpg", 100), sized("/b/1.jpg", 200), sized("/b/2.jpg", 300), sized("/c/3.jpg", None)]
    assert found(tmp_path, made, [ref])[0] == photos


def test_the_etag_says_the_size_where_no_column_does():
    table = caption_table([row("/a.jpg", etag="100-17"), sized("/a.jpg", 100, etag="x"), row("/a.jpg", etag="1699")])
    first, second, third = clues_of_rows(table).tolist()
    assert first == second == clues_of_refs([PhotoRef("/a.jpg", "", 100)])[0].tolist()
    assert third[1:3] == [0, 0] and third[0] == first[0] and third[3] == first[3]


def test_only_captions_that_count_as_done_are_found(tmp_path):
    other = {"model": "other"}
    made = [
        sized("/1.jpg", 1),
        sized("/2.jpg", 2, **other),
        dataclasses.replace(row("/3.jpg", error="truncated"), bytes=3),
        sized("/4.jpg", 4, status="gone"),
        dataclasses.replace(row("/5.jpg", error="truncated"), bytes=5, status="gone"),
        sized("/6.jpg", 6, source="person", **other),
        sized("/7.jpg", 7, source="person", status="withdrawn", caption=None),
    ]
    refs = [PhotoRef(f"/new/{number}.jpg", "", number) for number in range(1, 8)]
    assert found(tmp_path / "all", made, refs)[0] == ["/1.jpg", "/2.jpg", "/4.jpg", "/6.jpg", "/7.jpg"]
    again = DoneRule("f1", "beam_width=3", frozenset(["model"]))
    assert found(tmp_path / "model", made, refs, again)[0] == ["/1.jpg", "/4.jpg", "/6.jpg", "/7.jpg"]
    again = DoneRule("f1", "beam_width=3", frozenset(["all"]))
    assert found(tmp_path / "everything", made, refs, again)[0] == ["/6.jpg", "/7.jpg"]


def test_rows_of_vanished_photos_come_whatever_they_say(tmp_path):
    made = [sized("/1.jpg", 1), dataclasses.replace(row("/2.jpg", error="truncated"), bytes=2), sized("/3.jpg", 3)]
    vanished = sorted([photo_digest("/2.jpg"), photo_digest("/3.jpg")])
    assert found(tmp_path, made, [], vanished=vanished) == ([], ["/2.jpg", "/3.jpg"])


def test_many_rows_of_one_size_stay_few(tmp_path):
    made = [sized(f"/old/{number}.bmp", 1000) for number in range(500)]
    refs = [PhotoRef(f"/new/{number}.bmp", "", 1000) for number in (3, 400)] + [PhotoRef("/new/other.bmp", "", 1000)]
    path = commit(tmp_path, "earlier", *made)
    wanted = Wanted.of([(GROUP, clues.wanted_by(refs))], [])
    ((group, packed),) = clues.rows_for([str(path)], wanted, RULE)
    table = clues.unpacked([packed])
    # Two by their names as well, the others because they are the last ones of this size.
    assert group == GROUP and len(table) == 2 + clues.MOST
    assert {"/old/3.bmp", "/old/400.bmp"} <= set(table["photo"].to_pylist())
    of_refs = Known(table).candidates(refs)
    assert [len(one.rows) for one in of_refs] == [clues.MOST] * 3
    assert table["photo"][of_refs[0].rows[0]].as_py() == "/old/3.bmp"


def test_groups_get_their_rows_only(tmp_path):
    path = commit(tmp_path, "earlier", *(sized(f"/old/{number}.jpg", 10 + number) for number in range(20)))
    groups = [("", number) for number in range(4)] + [("/a.tar", 0)]
    of_groups = [
        (group, clues.wanted_by([PhotoRef(f"/new/{number}.jpg", "") for number in range(place, 20, 5)]))
        for place, group in enumerate(groups)
    ]
    by_group = dict(clues.rows_for([str(path)], Wanted.of(of_groups, []), RULE))
    assert set(by_group) == set(groups)
    for place, group in enumerate(groups):
        photos = clues.unpacked([by_group[group]])["photo"].to_pylist()
        assert photos == [f"/old/{number}.jpg" for number in range(place, 20, 5)]


def test_rows_survive_the_way_from_step_to_step():
    made = (sized("/1.jpg", 1, taken_from=Origin("/0.jpg", 3)), dataclasses.replace(row("/2.jpg", error="empty")))
    table = caption_table(made)
    assert tuple(caption_rows(clues.unpacked([clues.packed(table), clues.packed(table)]))) == made + made
    assert len(clues.unpacked([])) == 0
