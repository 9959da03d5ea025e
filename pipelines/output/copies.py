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
    """Converts rows to JSON lines in UTF-8: one object per row, times in ISO 8601."""
    text = io.BytesIO()
    for batch in table.to_batches(_ENCODED_ROWS):
        for row in batch.to_pylist():
            line = json.dumps(row, ensure_ascii=False, default=lambda value: value.isoformat())
            text.write(f"{line}\n".encode())
    return text.getvalue()


def tfrecord(table: pa.Table) -> bytes:
    """Converts rows to a gzipped TFRecord file with one `tf.Example` per row.

    The alternatives become two features, one of captions and one of scores; times are in microseconds since 1970.

    Raises:
      BeamscribeError: tfx-bsl is not installed.
    """
    alternatives = table["alternatives"].combine_chunks()
    for field in ("caption", "score"):
        values = pc.struct_field(alternatives.values, field)
        table = table.append_column(f"alternatives/{field}", pa.ListArray.from_arrays(alternatives.offsets, values))
    for name in ("width", "height", "written_at", "attempts"):
        table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.int64()))
    return tf_examples.tfrecord(table.drop_columns(["alternatives"]))
