"""The rule that selects the current row of a photo. Every reader uses this module.

Among all rows of a photo, over all runs, the row that was written last is current. Rows with the same time are copies
that an interrupted compaction left; among them, the first one is current, in the order of runs and shards.
"""

import numpy as np


def by_precedence(written_at: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
    """Sorts rows so that the current row of each photo comes after the photo's other rows.

    Args:
      written_at: `[rows]`, int64, times of writing in microseconds since 1970.
      places: `[rows]`, integers, positions of the rows in the order of runs and shards; by default, the given order.

    Returns:
      `[rows]`, indices of the rows in that order.
    """
    places = np.arange(len(written_at)) if places is None else places
    return np.lexsort((-places, written_at))


def mask(photos: np.ndarray, written_at: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
    """Marks the current row of each photo.

    Args:
      photos: `[rows]`, an identifier of each row's photo, of any sortable type.
      written_at, places: as for `by_precedence`.

    Returns:
      `[rows]`, bool, True for the current rows.
    """
    order = by_precedence(written_at, places)
    grouped = order[np.argsort(photos[order], kind="stable")]
    is_current = np.zeros(len(photos), bool)
    if len(photos):
        is_last = np.append(photos[grouped[1:]] != photos[grouped[:-1]], True)
        is_current[grouped[is_last]] = True
    return is_current
