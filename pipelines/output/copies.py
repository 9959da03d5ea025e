"""Copies of committed shards in other formats. Any process may write a copy again: it depends only on the shard."""

import io
import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from beamscribe.pipelines import stores, tf_examples
from beamscribe.pipelines.output import layout, rows

# Rows that are encoded at once: the file of a compaction may have a million rows.
_ENCODED_ROWS = 10_000


def missing(output: str, format: str) -> Iterator[tuple[str, str]]:
    """Lists the committed shards without a copy, as pairs of the shard file and the path of its copy.

    Closing files, which hold no rows, get no copies.
    """
    closed = layout.closed_runs(output)
    for path in layout.committed_files(output):
        copy = layout.copy_of(output, path, format)
        if not stores.exists(copy) and not (layout.run_of(path) in closed and rows.is_closing(path)):
            yield path, copy


def export(files: tuple[str, str], format: str) -> str:
    """Writes the copy of a shard, if the shard is still there.

    A job that stood still may write it when the shard has been folded; it then deletes it again.

    Args:
      files: a pair from `missing`.
      format: format of the copy, a key of `layout.EXTENSIONS`.

    Returns:
      The path of the copy.

    Raises:
      OSError: the copy can't be written.
      UnreadableFileError, NewerFileError: the shard can't be read; see `rows.read_tables`.
    """
    path, copy = files
    (table,) = rows.read_tables([path])
    stores.replace(copy, tfrecord(table) if format == "tfrecord" else jsonl(table))
    if not _stands(path):
        stores.delete(copy)
    return copy


def _stands(path: str) -> bool:
    """Whether a shard file is there, and is no closing file."""
    is_closed = stores.exists(layout.closed_file_beside(path))
    return stores.exists(path) and not (is_closed and rows.is_closing(path))


def jsonl(table: pa.Table) -> bytes:
    """Converts rows to JSON lines in UTF-8: one object per row, times in ISO 8601, null for what there is not."""
    text = io.BytesIO()
    for batch in table.to_batches(_ENCODED_ROWS):
        for row in batch.to_pylist():
            line = json.dumps(row, ensure_ascii=False, default=lambda value: value.isoformat())
            text.write(f"{line}\n".encode())
    return text.getvalue()


def tfrecord(table: pa.Table) -> bytes:
    """Converts rows to a gzipped TFRecord file with one `tf.Example` per row.

    A column of several values becomes a feature for each of its fields, such as `alternatives/caption` and
    `alternatives/score`; times are in microseconds since 1970.

    Raises:
      BeamscribeError: tfx-bsl is not installed.
    """
    columns: dict[str, pa.Array] = {}
    for name in table.column_names:
        columns |= _features(name, table[name].combine_chunks())
    return tf_examples.tfrecord(pa.table(columns))


def _features(name: str, column: pa.Array) -> dict[str, pa.Array]:
    """The features that a column becomes, of types that `tf_examples` takes."""
    kind = column.type
    if pa.types.is_list(kind):
        # A null has no values. Slices and nulls of a list have values that are none of theirs.
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
        offsets = pa.array([0, *lengths.cumsum()], pa.int32())
        values = column.flatten()
        fields = {field.name: pc.struct_field(values, field.name) for field in kind.value_type}
        return {f"{name}/{field}": pa.ListArray.from_arrays(offsets, found) for field, found in fields.items()}
    if pa.types.is_struct(kind):
        return {f"{name}/{field.name}": pc.struct_field(column, field.name) for field in kind}
    is_number = pa.types.is_integer(kind) or pa.types.is_timestamp(kind)
    return {name: column.cast(pa.int64()) if is_number else column}
