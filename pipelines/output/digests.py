"""Digests of 16 bytes that stand for a photo or a whole row, so that millions of them can be compared in memory."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Stands for a null, so that it differs from an empty string. No column contains this string.
_NULL = "\x01null"


def of_rows(table: pa.Table, columns: Sequence[str] | None = None) -> np.ndarray:
    """Computes a digest of each row.

    Args:
      table: rows of `CAPTION_SCHEMA`, with some or all of its columns.
      columns: names of the columns to digest; all by default.

    Returns:
      `[rows]`, strings of 16 bytes.
    """
    texts = [_as_text(table[name]) for name in columns or table.column_names]
    joined = pc.binary_join_element_wise(*texts, "\0", null_handling="replace", null_replacement=_NULL)
    digests = (hashlib.blake2b(text, digest_size=16).digest() for text in joined.cast(pa.binary()).to_pylist())
    return np.frombuffer(b"".join(digests), dtype="S16")


def total(digests: np.ndarray) -> int:
    """The digest total of rows, in any order: the sum of the first halves of their digests, modulo 2**64.

    Args:
      digests: `[rows]`, as `of_rows` returns them.
    """
    return int(halves(digests).sum(dtype=np.uint64))


def halves(digests: np.ndarray) -> np.ndarray:
    """The first half of each digest, `[rows]`, uint64.

    Args:
      digests: `[rows]`, as `of_rows` returns them.
    """
    # A copy, so that it does not keep the other halves.
    return np.ascontiguousarray(digests).view("<u8")[::2].copy()


def add(*totals: int) -> int:
    """The digest total of several sets of rows together, from their totals."""
    return sum(totals) % 2**64


def contains(known: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """Tells for each digest whether it is among the known digests.

    Args:
      known: sorted digests.
      digests: `[rows]`, digests to look up.

    Returns:
      `[rows]`, bool.
    """
    if not len(known):
        return np.zeros(digests.shape, bool)
    return known[np.minimum(np.searchsorted(known, digests), len(known) - 1)] == digests


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    if pa.types.is_list(column.type):
        return _list_as_text(column.combine_chunks())
    return _struct_as_text(column.combine_chunks()) if pa.types.is_struct(column.type) else column.cast(pa.string())


def _list_as_text(lists: pa.ListArray) -> pa.Array:
    """Joins the structs of each row into one string: their number, and the values of each field; null for a null."""
    fields = [_field_as_text(lists.values, field.name) for field in lists.type.value_type]
    joined = [pc.binary_join(pa.ListArray.from_arrays(lists.offsets, field), "\x02") for field in fields]
    length = pc.list_value_length(lists).cast(pa.string())
    return pc.binary_join_element_wise(length, *joined, "\x02", null_handling="replace", null_replacement=_NULL)


def _struct_as_text(structs: pa.StructArray) -> pa.Array:
    """Joins the fields of each struct into one string; a null remains one, unlike a struct of nulls."""
    fields = [_field_as_text(structs, field.name) for field in structs.type]
    joined = pc.binary_join_element_wise(*fields, "\x02")
    return pc.if_else(pc.is_valid(structs), joined, pa.scalar(None, pa.string()))


def _field_as_text(structs: pa.StructArray, name: str) -> pa.Array:
    return pc.struct_field(structs, name).cast(pa.string()).fill_null(_NULL)
