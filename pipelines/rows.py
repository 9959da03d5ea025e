"""Reads committed rows: the latest of each photo, over all runs."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow.parquet as pq

from pipelines import storage


def committed(output: str) -> list[str]:
    """The committed shard files of all runs, the oldest run first."""
    return sorted(storage.within(output, "captions", "run=*", "shard-*.parquet"))


def read(path: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Some columns of one shard file, a dictionary a row."""
    return pq.read_table(io.BytesIO(storage.read(path)), columns=list(columns)).to_pylist()


def latest(output: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The latest row of each photo, with the photo and some more columns, in the order of the files.

    Holds one time a photo in memory, not the rows.
    """
    files = committed(output)
    newest: dict[str, Any] = {}
    for path in files:
        for row in read(path, ["photo", "written_at"]):
            if row["photo"] not in newest or row["written_at"] >= newest[row["photo"]]:
                newest[row["photo"]] = row["written_at"]
    for path in files:
        for row in read(path, ["photo", "written_at", *columns]):
            if newest.get(row["photo"]) == row["written_at"]:
                del newest[row["photo"]]
                yield row
