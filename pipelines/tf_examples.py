"""Converts Arrow columns to `tf.Example` records of TFRecord files, and back, with tfx-bsl."""

import gzip
import io
import platform
import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import google_crc32c
import pyarrow as pa

from beamscribe.model.errors import BeamscribeError

if TYPE_CHECKING:
    from tensorflow_metadata.proto.v0 import schema_pb2

# The platforms for which tfx-bsl has wheels, by `platform.system` and `platform.machine`; as in pyproject.toml.
_WHEELS = (("Linux", "x86_64"), ("Darwin", "arm64"))
# Level 6 would make files 15 % smaller and take four times as long.
_GZIP_LEVEL = 1
# Rows that are encoded at once: a table may have a million rows.
_ENCODED_ROWS = 10_000


def require(purpose: str, instead: str = "") -> None:
    """Checks that tfx-bsl is installed.

    Args:
      purpose: what needs tfx-bsl, for the error message.
      instead: what else the user can do, ending in ", or ".

    Raises:
      BeamscribeError: tfx-bsl is not installed.
    """
    _coder(purpose, instead)


def _coder(purpose: str = "a TFRecord file", instead: str = "use another format, or ") -> Any:
    """The module of tfx-bsl that encodes and decodes examples; imported late, since captioning works without it."""
    try:
        from tfx_bsl.coders import example_coder
    except ImportError:
        here = (platform.system(), platform.machine())
        if here in _WHEELS:
            problem, remedy = "is not installed", "install it: pip install tfx-bsl"
        else:
            problem = f"has no wheel for {' on '.join(here)}"
            remedy = f"{instead}a machine with Linux on x86_64, or a Mac with Apple silicon"
        raise BeamscribeError(f"{purpose} needs tfx-bsl, which {problem}; {remedy}") from None
    return example_coder


def tfrecord(table: pa.Table) -> bytes:
    """Encodes a table as a gzipped TFRecord file with one `tf.Example` per row and one feature per column.

    Args:
      table: columns of string, binary, int64 or float32, or lists of them. A null becomes a feature without values.

    Returns:
      The bytes of the file.

    Raises:
      BeamscribeError: tfx-bsl is not installed.
    """
    encoder = _coder().RecordBatchToExamplesEncoder()
    # TensorFlow writes to paths alone: a process that is killed would leave a temporary file.
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=_GZIP_LEVEL, mtime=0) as writer:
        for batch in table.to_batches(_ENCODED_ROWS):
            columns = [_as_lists(column) for column in batch.columns]
            for record in encoder.encode(pa.RecordBatch.from_arrays(columns, batch.schema.names)):
                writer.write(_framed(record))
    return file.getvalue()


def _framed(record: bytes) -> bytes:
    """A record as it is in a TFRecord file: its length, the length's checksum, the record, and its checksum.

    Source: https://www.tensorflow.org/tutorials/load_data/tfrecord.
    """
    length = struct.pack("<Q", len(record))
    return b"".join((length, struct.pack("<I", checksum(length)), record, struct.pack("<I", checksum(record))))


def checksum(data: bytes) -> int:
    """The checksum of data in a TFRecord file: CRC32C, masked; 32 bits."""
    found = google_crc32c.value(data)
    return ((found >> 15 | found << 17) + 0xA282EAD8) & 0xFFFFFFFF


def features(record: bytes) -> list[str]:
    """The names of the features of a serialized `tf.Example`; empty if the record is not a `tf.Example`.

    Raises:
      BeamscribeError: tfx-bsl is not installed.
    """
    decoder = _coder().ExamplesToRecordBatchDecoder()
    try:
        return decoder.DecodeBatch([record]).schema.names
    except RuntimeError:
        return []


def first_values(records: Sequence[bytes], names: Sequence[str]) -> list[tuple[bytes | None, ...] | None]:
    """Reads the first value of the named features from each serialized `tf.Example`.

    Args:
      records: serialized examples.
      names: names of features that hold bytes.

    Returns:
      One entry per record: the values, with None for a missing feature; None if the record is not a `tf.Example`.

    Raises:
      BeamscribeError: tfx-bsl is not installed.
    """
    if not records:
        return []
    decoder = _coder().ExamplesToRecordBatchDecoder(_schema((name, "BYTES") for name in names).SerializeToString())
    try:
        batch = decoder.DecodeBatch(list(records))
    except RuntimeError:
        # A bad record fails the whole batch, and the error does not tell which record it is.
        return [None] if len(records) == 1 else [first_values([record], names)[0] for record in records]
    columns = [[values[0] if values else None for values in batch.column(name).to_pylist()] for name in names]
    return list(zip(*columns, strict=True))


def _as_lists(column: pa.Array) -> pa.Array:
    """Converts a column to the form that tfx-bsl encodes: a list of values per row, with strings as bytes."""
    if pa.types.is_list(column.type):
        texts = pa.types.is_string(column.type.value_type)
        return column.cast(pa.list_(pa.binary())) if texts else column
    if pa.types.is_string(column.type):
        column = column.cast(pa.binary())
    ends = column.is_valid().to_numpy(zero_copy_only=False).cumsum()
    return pa.ListArray.from_arrays(pa.array([0, *ends], pa.int32()), column.drop_null())


def schema_text(features: Sequence[tuple[str, str]]) -> str:
    """The schema of features, in the text format of TensorFlow Metadata.

    Args:
      features: (name, type) pairs; the type is BYTES, INT or FLOAT.
    """
    from google.protobuf import text_format

    return text_format.MessageToString(_schema(features))


def _schema(features: Iterable[tuple[str, str]]) -> "schema_pb2.Schema":
    from tensorflow_metadata.proto.v0 import schema_pb2

    schema = schema_pb2.Schema()
    for name, kind in features:
        schema.feature.add(name=name, type=schema_pb2.FeatureType.Value(kind))
    return schema
