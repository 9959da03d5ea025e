"""Takes captions over from earlier rows: for photos that were touched, restored, re-tagged, moved or copied.

The plan proposes rows, by the photos' names and sizes (`clues.py`). The shard that reads the photo decides, by digests
of the bytes and of the picture in them.
"""

import collections
import dataclasses
import datetime
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from beamscribe.pipelines.clues import MOST
from beamscribe.pipelines.images.pictures import Expected, Picture
from beamscribe.pipelines.output import current
from beamscribe.pipelines.output.current import Keys
from beamscribe.pipelines.output.resemblance import clues_of_refs, clues_of_rows
from beamscribe.pipelines.photos import (
    CAPTION_SCHEMA,
    CAPTIONED,
    MODEL,
    PERSON,
    CaptionRow,
    Origin,
    PhotoRef,
    caption_rows,
)

# The EXIF orientations that swap width and height.
_SWAPPED = (5, 6, 7, 8)


class Known:
    """The earlier rows beside the photos of a shard.

    Args:
      table: rows of `CAPTION_SCHEMA`.
    """

    def __init__(self, table: pa.Table):
        self.table = table
        self._with_clue: dict[int, list[int]] = collections.defaultdict(list)
        for row, clues in enumerate(clues_of_rows(table).tolist()):
            for clue in clues:
                self._with_clue[clue].append(row)
        self._with_clue.pop(0, None)

    # A plan, which chooses rows of a million photos, hardly ever needs these.
    @functools.cached_property
    def keys(self) -> Keys:
        """What decides which of the rows count."""
        return Keys.of(self.table)

    @functools.cached_property
    def _rank(self) -> np.ndarray:
        """The place of each row among all, the last one last."""
        rank = np.empty(len(self.table), np.int64)
        rank[current.by_precedence(self.keys)] = np.arange(len(rank))
        return rank

    @functools.cached_property
    def rows(self) -> list[CaptionRow]:
        """All rows."""
        return caption_rows(self.table)

    @classmethod
    def none(cls) -> "Known":
        """No earlier rows."""
        return cls(CAPTION_SCHEMA.empty_table())

    def candidates(self, refs: Sequence[PhotoRef]) -> list["Candidates"]:
        """The rows that each photo is compared with, at most `MOST`.

        Rows of the photo itself come first, then those of the same size and base name, those of persons, the last ones.
        """
        clues = clues_of_refs(refs).tolist()
        return [Candidates(self, ref, self._best(own)) for ref, own in zip(refs, clues, strict=True)]

    def _best(self, clues: list[int]) -> list[int]:
        with_clue = [self._with_clue.get(clue, []) for clue in clues]
        found = list(set().union(*with_clue))
        if len(found) > MOST:
            itself, alike = set(with_clue[0]), set(with_clue[2])
            is_persons = self.keys.kinds & current.IS_PERSONS
            found.sort(key=lambda row: (row in itself, row in alike, is_persons[row], self._rank[row]), reverse=True)
        return found[:MOST]

    def selected(self, refs: Sequence[PhotoRef]) -> pa.Table:
        """Only the rows that some of the photos are compared with."""
        wanted = {row for candidates in self.candidates(refs) for row in candidates.rows}
        return self.table.take(pa.array(sorted(wanted), pa.int64()))


class Candidates(NamedTuple):
    """The earlier rows that a photo is compared with.

    Attributes:
      known: holds the rows.
      ref: the photo.
      rows: indices of the rows.
    """

    known: Known
    ref: PhotoRef
    rows: list[int]

    @property
    def expected(self) -> Expected:
        """What the photo's digests are compared with in the image process."""
        found = [self.known.rows[row] for row in self.rows]
        return Expected(
            tuple({row.sha256 for row in found if row.sha256}),
            tuple({(row.image_sha256, _orientation(row)) for row in found if row.image_sha256}),
        )

    def unread(self) -> CaptionRow | None:
        """The photo's row, taken over from an earlier one of the same version, for which nothing need be read."""
        photo, etag = self.ref.photo, self.ref.etag
        same = [row for row in self.rows if etag and (self._row(row).photo, self._row(row).etag) == (photo, etag)]
        origin = self._chosen(same)
        return origin and self._taken(origin)

    def matching(self, picture: Picture, size: int | None) -> CaptionRow | None:
        """The photo's row, taken over from an earlier one of the same bytes or the same picture; None for no such row.

        Args:
          picture: what was found out about the photo's bytes.
          size: number of its bytes.
        """
        origin = self._chosen([row for row in self.rows if _is_same(self._row(row), picture)])
        if not origin:
            return None
        is_turned = origin.orientation != picture.orientation and origin.sha256 != picture.sha256
        is_swapped = is_turned and (origin.orientation in _SWAPPED) != (picture.orientation in _SWAPPED)
        return dataclasses.replace(
            self._taken(origin),
            bytes=size,
            sha256=picture.sha256,
            image_sha256=picture.image_sha256,
            orientation=picture.orientation,
            taken_at=picture.taken_at,
            description=picture.description,
            width=origin.height if is_swapped else origin.width,
            height=origin.width if is_swapped else origin.height,
            perceptual_hash=None if is_turned else origin.perceptual_hash,
        )

    def of_same_bytes(self, row: CaptionRow) -> CaptionRow | None:
        """The photo's row, as `matching` makes it, where the row of another photo with the same bytes is known."""
        picture = Picture(
            row.sha256,
            image_sha256=row.image_sha256,
            orientation=row.orientation,
            taken_at=row.taken_at,
            description=row.description,
        )
        return self.matching(picture, row.bytes)

    def _row(self, row: int) -> CaptionRow:
        return self.known.rows[row]

    def _chosen(self, rows: list[int]) -> CaptionRow | None:
        """The row to take over, of those that are of the same picture.

        It is a job's row of the photo itself, beside which a person's row of the photo stands by itself; else a row of
        another photo that a person has captioned; else the last one.
        """
        if not rows:
            return None
        keys = self.known.keys.at(np.array(rows))
        chosen = current.choose(np.array([hash(self._row(row).photo) for row in rows]), keys)
        has_caption, is_persons, is_withdrawal = (
            (keys.kinds & bit) != 0 for bit in (current.HAS_CAPTION, current.IS_PERSONS, current.IS_WITHDRAWN)
        )
        rank = np.empty(len(rows), np.int64)
        rank[current.by_precedence(keys)] = np.arange(len(rows))
        usable: list[tuple[bool, bool, int, int]] = []
        for standing, captioned, person in zip(chosen.current, chosen.captioned, chosen.person, strict=True):
            is_itself = self._row(rows[max(standing, captioned)]).photo == self.ref.photo
            row = captioned if is_itself else standing
            if row < 0 or not has_caption[row] or (is_persons[row] and person >= 0 and is_withdrawal[person]):
                continue
            usable.append((is_itself, bool(is_persons[row]), int(rank[row]), int(row)))
        return self._row(rows[max(usable)[-1]]) if usable else None

    def _taken(self, origin: CaptionRow) -> CaptionRow:
        return dataclasses.replace(
            origin,
            photo=self.ref.photo,
            etag=self.ref.etag,
            status=CAPTIONED,
            source=origin.source or MODEL,
            taken_from=origin.taken_from or Origin(origin.photo, origin.run_number),
            written_at=datetime.datetime.now(datetime.UTC),
        )


def _orientation(row: CaptionRow) -> int | None:
    """The orientation that a picture must have to be that of a row; None for any: a person's words outlast a turn."""
    return None if row.source == PERSON else row.orientation


def _is_same(row: CaptionRow, picture: Picture) -> bool:
    if row.sha256 and row.sha256 == picture.sha256:
        return True
    if not row.image_sha256 or row.image_sha256 != picture.image_sha256:
        return False
    return _orientation(row) in (None, picture.orientation)
