"""Copies of committed shards in other formats. They are derived: anyone may write them again."""

import dataclasses
import io
import json
from collections.abc import Iterator

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from beamscribe.pipelines import stores, tf_examples
from beamscribe.pipelines.output import rows

# Rows that are encoded at once: a file that was folded from others may have a million.
_ENCODED_ROWS = 10_000

EXTENSIONS = {"tfrecord": ".tfrecord.gz", "jsonl": ".jsonl"}


@dataclasses.dataclass
class ExportMissing(beam.PTransform):
    """From an output folder to the copies that it lacks.

    Attributes:
      format: a key of `EXTENSIONS`.
    """

    format: str

    def expand(self, outputs):
        """`outputs` holds the one output folder."""
        return (
            outputs
            | "ListMissing" >> beam.FlatMap(missing, self.format)
            | "ReshuffleMissing" >> beam.Reshuffle()
            | "ExportShard" >> beam.Map(export, self.format)
        )


def missing(output: str, format: str) -> Iterator[tuple[str, str]]:
    """Committed shards without a copy: (committed file, file to write)."""
    for path in rows.committed_files(output):
        run, name = path.split("/")[-2:]
        copy = stores.join(output, "exports", format, run, name.replace(".parquet", EXTENSIONS[format]))
        if not stores.exists(copy):
            yield path, copy


def export(files: tuple[str, str], format: str) -> str:
    """Writes the copy of one committed shard, as `missing` pairs them, and returns its path."""
    path, copy = files
    table = rows.read_table(path)
    stores.replace(copy, tfrecord(table) if format == "tfrecord" else jsonl(table))
    return copy


def jsonl(table: pa.Table) -> bytes:
    """One JSON object a row, UTF-8; times in ISO 8601."""
    text = io.BytesIO()
    for batch in table.to_batches(_ENCODED_ROWS):
        for row in batch.to_pylist():
            line = json.dumps(row, ensure_ascii=False, default=lambda value: value.isoformat())
            text.write(f"{line}\n".encode())
    return text.getvalue()


def tfrecord(table: pa.Table) -> bytes:
    """One `tf.Example` a row; the alternatives as two features, the time in microseconds since 1970."""
    alternatives = table["alternatives"].combine_chunks()
    for field in ("caption", "score"):
        values = pc.struct_field(alternatives.values, field)
        table = table.append_column(f"alternatives/{field}", pa.ListArray.from_arrays(alternatives.offsets, values))
    integers = {"width": pa.int64(), "height": pa.int64(), "written_at": pa.int64()}
    for name, kind in integers.items():
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    return tf_examples.tfrecord(table.drop_columns(["alternatives"]))
