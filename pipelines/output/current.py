"""The rule that selects the current row of a photo. Every reader uses this module.

Rows are ordered by the numbers of their runs, and those of one run by the time of writing; rows without a number come
first. Of all rows of a photo, over all runs, the last one is current. Numbers are taken with the lease, so
a clock that is ahead or behind decides nothing between runs. Rows with the same number and time are copies that an
interrupted compaction left; among them, the first one is current, in the order of runs and shards.
"""

import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# The columns that decide which row is the current one.
COLUMNS = ("run_number", "written_at")


class Keys(NamedTuple):
    """What rows are ordered by.

    Attributes:
      run_numbers: `[rows]`, int64, numbers of the runs; 0 for rows without one.
      written_at: `[rows]`, int64, times of writing in microseconds since 1970.
    """

    run_numbers: np.ndarray
    written_at: np.ndarray

    @classmethod
    def of(cls, table: pa.Table) -> "Keys":
        """The keys of rows with the columns `COLUMNS`."""
        numbers = pc.fill_null(table["run_number"], 0).to_numpy()
        return cls(numbers, table["written_at"].cast(pa.int64()).to_numpy())

    @classmethod
    def concatenated(cls, several: "list[Keys]") -> "Keys":
        """The keys of several tables together."""
        if not several:
            return cls(np.empty(0, np.int64), np.empty(0, np.int64))
        return cls(*(np.concatenate(arrays) for arrays in zip(*several, strict=True)))


class Since(NamedTuple):
    """An unfinished run that a new run continues: the rows from that run on.

    Attributes:
      run_number: number of the unfinished run; 0 for a run of a version that gave none.
      started_at: when that run started, which counts only where it has no number.
    """

    run_number: int
    started_at: datetime.datetime

    def covers(self, run_number: int, written_at: int) -> bool:
        """Whether that run, or one after it, made a row.

        Args:
          run_number, written_at: of the row, as in `Keys`.
        """
        if self.run_number:
            return run_number >= self.run_number
        return run_number > 0 or written_at >= int(self.started_at.timestamp() * 1_000_000)


def by_precedence(keys: Keys, places: np.ndarray | None = None) -> np.ndarray:
    """Sorts rows so that the current row of each photo comes after the photo's other rows.

    Args:
      keys: keys of the rows.
      places: `[rows]`, integers, positions of the rows in the order of runs and shards; by default, the given order.

    Returns:
      `[rows]`, indices of the rows in that order.
    """
    places = np.arange(len(keys.written_at)) if places is None else places
    return np.lexsort((-places, keys.written_at, keys.run_numbers))


def mask(photos: np.ndarray, keys: Keys, places: np.ndarray | None = None) -> np.ndarray:
    """Marks the current row of each photo.

    Args:
      photos: `[rows]`, an identifier of each row's photo, of any sortable type.
      keys, places: as for `by_precedence`.

    Returns:
      `[rows]`, bool, True for the current rows.
    """
    order = by_precedence(keys, places)
    grouped = order[np.argsort(photos[order], kind="stable")]
    is_current = np.zeros(len(photos), bool)
    if len(photos):
        is_last = np.append(photos[grouped[1:]] != photos[grouped[:-1]], True)
        is_current[grouped[is_last]] = True
    return is_current
