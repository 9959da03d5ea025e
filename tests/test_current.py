"""Which row is current: one rule for readers, ledger and compaction."""

import dataclasses

import numpy as np
import pytest

from beamscribe.pipelines.output import current, digests, rows
from beamscribe.pipelines.output.sorting import LatestByPhoto
from beamscribe.pipelines.photos import caption_table
from tests.test_compact import commit, files, row

PHOTOS = np.array(["b", "a", "b", "a", "c", "b"])
KEYS = current.Keys(np.zeros(6, np.int64), np.array([1, 5, 3, 5, 2, 3]))


def test_the_last_written_row_is_current_and_the_first_of_copies():
    assert current.mask(PHOTOS, KEYS).tolist() == [False, True, True, False, True, False]
    assert current.mask(PHOTOS, KEYS, np.arange(6)[::-1]).tolist() == [False, False, False, True, True, True]
    assert current.mask(np.empty(0, "S16"), current.Keys.concatenated([])).tolist() == []


def test_a_later_run_goes_before_a_later_time():
    keys = current.Keys(np.array([2, 1, 0, 1, 0, 1]), KEYS.written_at)
    assert current.mask(PHOTOS, keys).tolist() == [True, True, False, False, True, False]


def test_the_current_row_comes_last_by_precedence():
    order = current.by_precedence(KEYS)
    last = {str(PHOTOS[index]): int(index) for index in order}
    assert last == {"a": 1, "b": 2, "c": 4}


@pytest.mark.parametrize("seed", range(5))
def test_all_readers_have_the_same_current_rows(tmp_path, seed):
    draw = np.random.default_rng(seed)
    numbers = [None, 0, 1, 2]
    made = [
        dataclasses.replace(
            row(f"/p/{draw.integers(8)}.jpg", f"caption {i}", hours=int(draw.integers(3))),
            run_number=numbers[draw.integers(4)],
        )
        for i in range(40)
    ]
    for run in range(4):
        commit(tmp_path, str(run), *made[run * 10 : run * 10 + 10])
    read = {r["photo"]: r["caption"] for table in rows.latest(files(tmp_path)) for r in table.to_pylist()}
    with LatestByPhoto(10) as merged:
        for table in rows.read_batches(files(tmp_path)):
            merged.add(table)
        folded = {r["photo"]: r["caption"] for table in merged.tables() for r in table.to_pylist()}
    table = caption_table(made)
    is_current = current.mask(digests.of_rows(table, ["photo"]), current.Keys.of(table))
    by_mask = {one.photo: one.caption for one, keep in zip(made, is_current, strict=True) if keep}
    # By the rule's words.
    expected = {}
    for one in made:
        key = (one.run_number or 0, one.written_at)
        if one.photo not in expected or key > (expected[one.photo].run_number or 0, expected[one.photo].written_at):
            expected[one.photo] = one
    assert read == folded == by_mask == {photo: one.caption for photo, one in expected.items()}
