"""Which row of a photo counts: one rule for readers, ledger, compaction and verification."""

import dataclasses

import numpy as np
import pytest

from beamscribe.pipelines.output import current, digests, rows, sorting
from beamscribe.pipelines.output.current import Keys
from beamscribe.pipelines.output.sorting import KeptByPhoto
from beamscribe.pipelines.photos import (
    CAPTIONED,
    FAILED,
    GONE,
    MODEL,
    PERSON,
    WITHDRAWN,
    CaptionRow,
    Origin,
    caption_rows,
    caption_table,
)
from tests.test_compact import commit, files, row

PHOTOS = np.array(["b", "a", "b", "a", "c", "b"])
KEYS = Keys(
    np.zeros(6, np.int64), np.array([1, 5, 3, 5, 2, 3]), np.full(6, current.HAS_CAPTION), np.zeros((6, 3), np.uint64)
)


def test_the_last_written_row_is_current_and_the_first_of_copies():
    assert current.mask(PHOTOS, KEYS).tolist() == [False, True, True, False, True, False]
    assert current.mask(PHOTOS, KEYS, np.arange(6)[::-1]).tolist() == [False, False, False, True, True, True]
    nothing = np.empty(0, "S16"), Keys.concatenated([])
    assert current.mask(*nothing).tolist() == current.kept(*nothing, prune_gone=True).tolist() == []


def test_a_later_run_goes_before_a_later_time():
    keys = KEYS._replace(run_numbers=np.array([2, 1, 0, 1, 0, 1]))
    assert current.mask(PHOTOS, keys).tolist() == [True, True, False, False, True, False]


def test_the_current_row_comes_last_by_precedence():
    order = current.by_precedence(KEYS)
    last = {str(PHOTOS[index]): int(index) for index in order}
    assert last == {"a": 1, "b": 2, "c": 4}


NAMES = ("current", "latest", "newest", "captioned", "person", "to_look_at")
FAILURES = ["timeout", "corrupt", "decoder_killed"]


def any_row(draw: np.random.Generator, number: int | None, photos: int = 4, caption: str = "a dog") -> CaptionRow:
    """A row of any kind that a job or a person may write."""
    kind = draw.choice(["captioned", "taken", "failed", "failed", "gone", "gone failed", "edit", "withdrawn"])
    error = str(draw.choice(FAILURES)) if "failed" in kind else None
    is_persons = kind in ("edit", "withdrawn") or (kind in ("taken", "gone") and draw.random() < 0.5)
    status = {"withdrawn": WITHDRAWN, "failed": FAILED}.get(kind, GONE if "gone" in kind else CAPTIONED)
    has_no_caption = kind == "withdrawn" or error is not None
    return dataclasses.replace(
        row(f"/p/{draw.integers(photos)}.jpg", caption, hours=int(draw.integers(3)), error=error),
        status=status,
        caption=None if has_no_caption else caption,
        etag=f"{draw.integers(2)}",
        sha256=draw.choice([None, "ab" * 32, "cd" * 32]),
        image_sha256=draw.choice([None, None, "ef" * 32, "01" * 32]),
        attempts=int(draw.integers(5)),
        source=PERSON if is_persons else None if error else MODEL,
        taken_from=Origin("/p/x.jpg", 1) if kind == "taken" else None,
        run_number=number,
    )


def some_rows(draw: np.random.Generator, count: int, photos: int = 4) -> list[CaptionRow]:
    numbers = [None, 0, 1, 2, 3, 4, 5]
    return [any_row(draw, numbers[draw.integers(7)], photos, f"caption {index}") for index in range(count)]


class Choice:
    """The rule for the rows of one photo, by its words."""

    def __init__(self, given: list[CaptionRow]):
        of_jobs, edits, taken, lasting, captioned = [], [], [], [], []
        # Of rows of the same run and time, the first one counts most.
        backwards = given[::-1]
        for one in sorted(backwards, key=lambda one: (one.run_number or 0, one.written_at)):
            is_persons = one.source == PERSON or one.status == WITHDRAWN
            if is_persons and one.taken_from is None and one.status != GONE:
                edits.append(one)
                continue
            of_jobs.append(one)
            given_up = one.error == "decoder_killed" and one.attempts >= 3
            if one.status != FAILED or one.error == "corrupt" or given_up:
                lasting.append(one)
            if one.status == CAPTIONED or (one.status == GONE and one.error is None):
                captioned.append(one)
            if is_persons and one.status != GONE:
                taken.append(one)
        (self.newest,), (self.captioned,) = of_jobs[-1:] or [None], captioned[-1:] or [None]
        (self.person,) = edits[-1:] or taken[-1:] or [None]
        (self.latest,) = lasting[-1:] or [self.newest]
        if self.latest and self.latest.status == GONE and self.latest is not self.newest:
            self.latest = self.newest
        self.current, self.to_look_at = self.latest, False
        may_stand = self.person and self.person.status != WITHDRAWN
        if may_stand and not (self.latest and self.latest.status == GONE):
            self.to_look_at = self.latest is not None and not is_same(self.person, self.latest)
            self.current = self.latest if self.to_look_at else self.person

    def all(self) -> tuple:
        return self.current, self.latest, self.newest, self.captioned, self.person, self.to_look_at


def is_same(one: CaptionRow, other: CaptionRow) -> bool:
    for name in ("image_sha256", "sha256"):
        if getattr(one, name) and getattr(other, name):
            return getattr(one, name) == getattr(other, name)
    return one.etag == other.etag


def by_photo(given: list[CaptionRow]) -> dict[str, list[CaptionRow]]:
    return {name: [one for one in given if one.photo == name] for name in sorted({one.photo for one in given})}


def arguments(given: list[CaptionRow]) -> tuple[np.ndarray, Keys]:
    return np.array([one.photo for one in given]), Keys.of(caption_table(given))


def marked(given: list[CaptionRow], marks: np.ndarray) -> list[CaptionRow]:
    return [one for one, is_marked in zip(given, marks, strict=True) if is_marked]


def choices(given: list[CaptionRow]) -> dict[str, tuple]:
    return {name: Choice(several).all() for name, several in by_photo(given).items()}


@pytest.mark.parametrize("seed", range(60))
def test_the_rule_is_that_of_its_words(seed):
    given = some_rows(np.random.default_rng(seed), 30)
    chosen = current.choose(*arguments(given))
    expected = choices(given)
    for index, name in enumerate(expected):
        *places, to_look_at = (getattr(chosen, column)[index] for column in NAMES)
        found = [given[place] if place >= 0 else None for place in places]
        assert (*found, bool(to_look_at)) == expected[name]
    standing = [each[0] for each in expected.values() if each[0] is not None]
    there = {one.photo: one for one in standing if one.status != GONE}
    assert {one.photo: one for one in marked(given, current.mask(*arguments(given)))} == there
    gone = {one.photo for one in standing if one.status == GONE}
    is_kept, is_pruned = current.kept(*arguments(given)), current.kept(*arguments(given), prune_gone=True)
    for name, each in expected.items():
        kept, pruned = ([one for one in marked(given, marks) if one.photo == name] for marks in (is_kept, is_pruned))
        assert all(one in kept for one in each[:-1] if one is not None)
        assert pruned == ([] if name in gone else kept)


@pytest.mark.parametrize("seed", range(200))
def test_whatever_rows_are_left_beside_those_that_may_count_the_same_ones_do(seed):
    """As while a compaction deletes files, which may be killed."""
    draw = np.random.default_rng(seed)
    given = some_rows(draw, 12, 2)
    is_kept = current.kept(*arguments(given))
    for share in (0, 0.3, 0.7):
        left = marked(given, is_kept | (draw.random(len(given)) < share))
        assert choices(left) == choices(given)


@pytest.mark.parametrize("seed", range(200))
def test_what_is_left_out_does_not_matter_for_later_rows_either(seed):
    draw = np.random.default_rng(seed)
    given = some_rows(draw, 8, 2)
    left = marked(given, current.kept(*arguments(given)))
    later = [any_row(draw, 6 + index, 2, f"later {index}") for index in range(3)]
    for count in range(4):
        assert choices(left + later[:count]) == choices(given + later[:count])


@pytest.mark.parametrize("seed", range(200))
def test_rows_may_be_left_out_part_by_part(seed):
    """As when more rows are sorted than memory holds."""
    given = some_rows(np.random.default_rng(seed), 12, 2)
    parts = [marked(part, current.kept(*arguments(part))) for part in (given[:6], given[6:])]
    together = parts[0] + parts[1]
    expected = marked(given, current.kept(*arguments(given)))
    assert marked(together, current.kept(*arguments(together))) == expected


@pytest.mark.parametrize("seed", range(10))
def test_all_readers_have_the_same_rows(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(sorting, "_BLOCK_ROWS", 3)
    monkeypatch.setattr(sorting, "_PART_BYTES", 1000)
    given = some_rows(np.random.default_rng(seed), 40, 8)
    for run in range(4):
        commit(tmp_path, str(run), *given[run * 10 : run * 10 + 10])
    read = [one["caption"] for table in rows.latest(files(tmp_path)) for one in table.to_pylist()]
    photos, keys = digests.of_rows(caption_table(given), ["photo"]), Keys.of(caption_table(given))
    assert read == [one.caption for one in marked(given, current.mask(photos, keys))]
    for prune_gone in (False, True):
        expected = marked(given, current.kept(photos, keys, prune_gone=prune_gone))
        expected.sort(key=lambda one: (one.photo, one.run_number or 0, one.written_at, given.index(one)))
        with KeptByPhoto(10, prune_gone) as merged:
            for table in rows.read_batches(files(tmp_path)):
                merged.add(table.slice(0, 4))
                merged.add(table.slice(4))
            folded = [one for table in merged.tables() for one in caption_rows(table)]
            gone = [one for table in merged.pruned() for one in caption_rows(table)]
        assert folded == expected
        standing = [each[0] for each in choices(given).values() if each[0] and each[0].status == GONE]
        assert gone == (standing if prune_gone else [])
    # The first of copies is the current one.
    assert len({one["photo"] for table in rows.latest(files(tmp_path)) for one in table.to_pylist()}) == len(read)


def test_the_digest_of_a_picture_is_of_the_first_column_that_both_rows_have():
    """A person's caption stands as long as the picture is the same, whatever the file's metadata."""
    picture, other = "ef" * 32, "01" * 32
    job = dataclasses.replace(row("/p/a.jpg"), run_number=1, source=MODEL, sha256="ab" * 32, image_sha256=picture)
    edit = dataclasses.replace(job, caption="my dog", source=PERSON, run_number=3)
    touched = dataclasses.replace(job, run_number=2, etag="later", sha256="cd" * 32)
    changed = dataclasses.replace(touched, image_sha256=other)
    older = dataclasses.replace(touched, image_sha256=None)
    for latest, stands in ((job, True), (touched, True), (changed, False), (older, False)):
        given = [job, edit, latest]
        assert marked(given, current.mask(*arguments(given))) == [edit if stands else latest]
        assert current.choose(*arguments(given)).to_look_at.tolist() == [not stands]
