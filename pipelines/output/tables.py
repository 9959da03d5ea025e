"""The public functions `read` and `scan`: the captions of an output folder as an Arrow table, or as record batches."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from beamscribe.model.errors import BeamscribeError, InputError, flag, nearest, one_line, path_of, shown
from beamscribe.pipelines import stores
from beamscribe.pipelines.output import layout, rows
from beamscribe.pipelines.photos import CAPTION_SCHEMA
from beamscribe.pipelines.stores.base import StoreError


def read(output: str | os.PathLike[str], columns: Sequence[str] | None = None, *, history: bool = False) -> pa.Table:
    """Reads the captions of an output folder into memory: the current row of each photo.

    Args:
      output: the folder that holds the captions of all runs; local or `gs://`.
      columns: names of the columns to read, in the wanted order; None for all. docs/architecture.md lists them.
      history: whether to read the rows of all runs, the older rows of each photo included.

    Returns:
      A table with a row for each photo, captioned or failed, in the order of runs and shards.

    Raises:
      InputError: there is no such folder, no run has written to it, there is no such column, or an argument is of
        another type.
      BeamscribeError: a file of the folder can't be read, is damaged, or is of a newer version of Beamscribe.

    Example:
      >>> report = beamscribe.caption("photos", "captions", limit=3)
      >>> beamscribe.read("captions", ["photo", "caption"]).num_rows
      3
    """
    return scan(output, columns, history=history).read_all()


def scan(
    output: str | os.PathLike[str], columns: Sequence[str] | None = None, *, history: bool = False
) -> pa.RecordBatchReader:
    """Reads the captions of an output folder in batches, so that memory does not have to hold them all.

    Args:
      output, columns, history: as for `read`.

    Returns:
      A reader that gives record batches when it is iterated. DuckDB, Polars and pyarrow read from it, once.

    Raises:
      InputError, BeamscribeError: as for `read`; a damaged file is met while the batches are read.

    Example:
      >>> report = beamscribe.caption("photos", "captions", limit=3)
      >>> sum(batch.num_rows for batch in beamscribe.scan("captions", ["photo"]))
      3
    """
    uri = path_of("output", output)
    names = CAPTION_SCHEMA.names if columns is None else _columns(columns)
    flag("history", history)
    with readable(uri):
        files = layout.committed_files(checked(uri))
    schema = pa.schema([CAPTION_SCHEMA.field(name) for name in names])
    return pa.RecordBatchReader.from_batches(schema, _batches(uri, files, schema, history))


def _columns(given: Any) -> list[str]:
    """The names of columns that a caller gives.

    Raises:
      InputError: one of them is no name of a column, there is none, or one comes twice.
    """
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise InputError(f"`columns` must be a list of names, not {shown(given)}")
    names = [given] if isinstance(given, str) else list(given)
    for place, name in enumerate(names):
        if not isinstance(name, str):
            raise InputError(f"`columns` must be a list of names; one of them is {shown(name)}")
        if name not in CAPTION_SCHEMA.names:
            raise InputError(f"`columns`: there is no column {name}{nearest(name, CAPTION_SCHEMA.names)}")
        if name in names[:place]:
            raise InputError(f"`columns`: {name} comes twice; name each column once")
    if not names:
        raise InputError("`columns` is empty; name a column, or give None for all")
    return names


def _batches(uri: str, files: Sequence[str], schema: pa.Schema, history: bool) -> Iterator[pa.RecordBatch]:
    with readable(uri):
        for table in (rows.read_batches if history else rows.latest)(files, schema.names):
            yield from table.select(schema.names).cast(schema).to_batches()


def checked(uri: str) -> str:
    """The absolute path or URI of an output folder, without a slash at its end.

    Raises:
      InputError: there is no such folder, or no run has written to it.
      OSError: the store reported an error.
    """
    output = stores.absolute(uri)
    try:
        if layout.committed_files(output) or any(stores.within(output, "runs", "*", layout.CONFIG)):
            return output
    except ValueError as error:
        # Beam has no filesystem for the scheme.
        raise InputError(one_line(error)) from None
    if stores.is_local(output) and not os.path.isdir(output):
        raise InputError(f"there is no folder {output}; give the folder that captions were written to")
    raise InputError(f"{output} holds no captions; give the folder that captions were written to")


@contextlib.contextmanager
def readable(uri: str) -> Iterator[None]:
    """A block that reads an output folder; it raises a `BeamscribeError` of one line for what can't be read."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and (error.errno or isinstance(error, StoreError)):
            raise BeamscribeError(f"can't read {uri}: {one_line(error)}") from error
        # Arrow does not name the file whose bytes are no Parquet.
        raise BeamscribeError(
            f"a file of {uri} is damaged ({one_line(error)}); `beamscribe verify` says which"
        ) from error
