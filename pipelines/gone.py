"""Finds photos that are no longer there: those with rows, below an input that was listed whole, that are not listed.

Their rows become rows with the status `gone`, which keep all that they say: a photo that comes back needs no reading.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from beamscribe.pipelines.clues import Wanted
from beamscribe.pipelines.output import current, digests
from beamscribe.pipelines.output.current import Keys
from beamscribe.pipelines.photos import GONE
from beamscribe.pipelines.sources.scope import Scope

# Of more photos than one of this many, whatever is below the inputs, a mistake is the likelier reason.
SHARE = 10


class Tombstones(NamedTuple):
    """Rows of photos that are gone.

    Attributes:
      rows: table of `CAPTION_SCHEMA`, with the status `gone`.
      moved: number of them whose photo is in another place now, by its size and name.
    """

    rows: pa.Table
    moved: int


def tombstones(table: pa.Table, scope: Scope, wanted: Wanted) -> Tombstones:
    """Makes the rows of photos that are gone.

    Args:
      table: all rows of photos that are not listed.
      scope: what has been listed whole.
      wanted: clues of the photos that are planned.
    """
    covered = pa.array([scope.covers(photo) for photo in table["photo"].to_pylist()], pa.bool_())
    table = table.filter(covered)
    keys = Keys.of(table)
    chosen = current.choose(digests.of_rows(table, ["photo"]), keys)
    # The last row with a caption says most; that of a photo without one says why.
    rows = np.where(chosen.captioned >= 0, chosen.captioned, chosen.newest)
    table = table.take(pa.array(rows[rows >= 0], pa.int64())).sort_by("photo")
    place = table.schema.get_field_index("status")
    table = table.set_column(place, table.schema.field(place), pa.array([GONE] * len(table), pa.string()))
    return Tombstones(table, int(wanted.includes(table).sum()))


def are_many(vanished: int, below: int) -> bool:
    """Whether so many photos have vanished that a mistake is the likelier reason, such as a disk that is missing.

    Args:
      vanished: number of photos that are no longer there, and not in another place.
      below: number of photos below the inputs that have rows.
    """
    return vanished * SHARE > below
