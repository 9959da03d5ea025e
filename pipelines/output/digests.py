"""Digests of rows: 16 bytes stand for a name, or for a whole row, where millions of them are compared."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# A string that no column holds, so that a null differs from an empty text.
_NULL = "\x01null"


def of_rows(table: pa.Table, columns: Sequence[str] | None = None) -> np.ndarray:
    """A digest of each row, as an array of 16-byte strings.

    Args:
      table: rows of `CAPTION_SCHEMA`, or some columns of it.
      columns: what to digest; all by default.
    """
    texts = [_as_text(table[name]) for name in columns or table.column_names]
    joined = pc.binary_join_element_wise(*texts, "\0", null_handling="replace", null_replacement=_NULL)
    digests = (hashlib.blake2b(text, digest_size=16).digest() for text in joined.cast(pa.binary()).to_pylist())
    return np.frombuffer(b"".join(digests), dtype="S16")


def total(digests: np.ndarray) -> int:
    """One number for any number of rows, in whatever order: the sum of the digests' first halves, modulo 2**64."""
    return int(digests.view("<u8")[::2].sum(dtype=np.uint64))


def add(*totals: int) -> int:
    """The total of all the rows that some totals stand for."""
    return sum(totals) % 2**64


def contains(known: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """For each digest, whether it is among the known ones, which are sorted."""
    if not len(known):
        return np.zeros(len(digests), bool)
    return known[np.minimum(np.searchsorted(known, digests), len(known) - 1)] == digests


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    return _list_as_text(column.combine_chunks()) if pa.types.is_list(column.type) else column.cast(pa.string())


def _list_as_text(lists: pa.ListArray) -> pa.Array:
    """The alternatives of each row: how many there are, and the texts and scores of all."""
    fields = [pc.struct_field(lists.values, name).cast(pa.string()).fill_null(_NULL) for name in ("caption", "score")]
    joined = [pc.binary_join(pa.ListArray.from_arrays(lists.offsets, field), "\x02") for field in fields]
    length = pc.list_value_length(lists).cast(pa.string())
    return pc.binary_join_element_wise(length, *joined, "\x02", null_handling="replace", null_replacement=_NULL)
