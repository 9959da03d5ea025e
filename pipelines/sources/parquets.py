"""Photos in Parquet files, in a column of bytes: Hugging Face's `image` struct, img2dataset's `jpg`, or another one.

The `place` of a photo is its row number. Each row group is a block, since row groups are read one by one.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beamscribe.pipelines import stores
from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import damage
from beamscribe.pipelines.sources.base import MAX_BYTES, Ignored, ListOptions
from beamscribe.pipelines.stores import uris
from beamscribe.pipelines.stores.base import NoCredentialsError

# The usual names of columns of photos and of their names, in the order of the search.
_IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "bytes", "content", "image/encoded")
_NAME_COLUMNS = ("key", "__key__", "file_name", "filename", "path", "name", "id", "image_id", "image/filename")
# The approximate number of bytes, and the maximum number of rows, of a row group that are read at once.
_BATCH_BYTES = 32 * 2**20
_BATCH_ROWS = 256


def image_column(schema: pa.Schema, options: ListOptions) -> str | None:
    """The path of the column that holds photos, such as `jpg`, or `image.bytes` of a struct; None if there is none."""
    names = [options.image_column] if options.image_column else _IMAGE_COLUMNS
    for name in names:
        if name not in schema.names:
            continue
        kind = schema.field(name).type
        if _is_bytes(kind):
            return name
        if pa.types.is_struct(kind) and any(field.name == "bytes" and _is_bytes(field.type) for field in kind):
            return f"{name}.bytes"
    return None


def members(uri: str, options: ListOptions) -> Iterator[PhotoRef | Ignored]:
    """Lists the photos of a file; if the file is damaged, yields a failure of the file itself at the end."""
    version = stores.version(uri)
    with stores.opened(uri) as file:
        try:
            table = pq.ParquetFile(file)
            sizes = _sizes(table)
            names = _names(table, options)
            if names and len(names) != sum(sizes):
                raise pa.ArrowInvalid(f"the row groups have {sum(sizes)} rows, but the file holds {len(names)} names")
            row = 0
            for group, size in enumerate(sizes):
                for _ in range(size):
                    name = names[row] if names else str(row)
                    photo = uris.member_uri(uri, name)
                    ref = PhotoRef(photo, version, 0, uri, "parquet", row, group)
                    yield options.ignored_file(name) or ref
                    row += 1
        except Exception as error:  # noqa: BLE001 - `pyarrow` may raise anything on broken bytes
            yield PhotoRef(uri, etag=version, failure=damage.failure(Stage.LIST, error))


def read(uri: str, refs: Sequence[PhotoRef], options: ListOptions) -> Iterator[bytes | Failure]:
    """Reads the photos of some rows.

    Args:
      uri: URI of the file.
      refs: references to photos of the file, sorted by `place`.
      options: which column holds the photos.

    Yields:
      The bytes or the failure of each photo, in order.

    Raises:
      NoCredentialsError: there are no credentials for the store.
    """
    left = list(reversed(refs))
    try:
        with stores.opened(uri) as file:
            if stores.version(uri) != refs[0].etag:
                message = "the file changed after it was listed"
                yield from (Failure(Stage.READ, ErrorCode.CHANGED_WHILE_READING, message) for _ in refs)
                return
            table = pq.ParquetFile(file)
            column = image_column(table.schema_arrow, options)
            groups = sorted({ref.block for ref in refs})
            for row, value in _values(table, groups, column or ""):
                while left and left[-1].place == row:
                    left.pop()
                    yield _content(value)
    except NoCredentialsError:
        raise
    except Exception as error:  # noqa: BLE001 - `pyarrow` may raise anything on broken bytes
        yield from (damage.failure(Stage.READ, error) for _ in left)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _tells(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)


def _names(table: pq.ParquetFile, options: ListOptions) -> list[str] | None:
    """The names of the photos, from the first column with a different name for each; None if there is none."""
    schema = table.schema_arrow
    known = [options.name_column] if options.name_column else _NAME_COLUMNS
    columns = [name for name in known if name in schema.names and _tells(schema.field(name).type)]
    image = image_column(schema, options)
    if image and image.endswith(".bytes"):
        struct = image.removesuffix(".bytes")
        if any(field.name == "path" for field in schema.field(struct).type):
            columns.append(f"{struct}.path")
    for column in columns:
        names = [name for batch in table.iter_batches(columns=[column]) for name in _texts(batch.column(0))]
        if len(set(names)) == len(names) and None not in names:
            return [str(name) for name in names]
    return None


def _texts(values: pa.Array) -> list[Any]:
    """The values of a column, or of the field that was read of a struct; bytes that are no UTF-8 become escapes."""
    if pa.types.is_struct(values.type):
        (values,) = values.flatten()
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        found = values.cast(pa.large_binary()).to_pylist()
        return [None if value is None else value.decode("utf-8", "backslashreplace") for value in found]
    return values.to_pylist()


def _values(table: pq.ParquetFile, groups: Iterable[int], column: str) -> Iterator[tuple[int, bytes | None]]:
    """Yields the number and the bytes of each row of some row groups."""
    sizes = _sizes(table)
    for group in groups:
        row = sum(sizes[:group])
        mean = table.metadata.row_group(group).total_byte_size // max(sizes[group], 1)
        rows = min(max(_BATCH_BYTES // max(mean, 1), 1), _BATCH_ROWS)
        for batch in table.iter_batches(rows, row_groups=[group], columns=[column]):
            for value in batch.column(0):
                yield row, _leaf(value.as_py())
                row += 1


def _sizes(table: pq.ParquetFile) -> list[int]:
    """The number of rows of each row group."""
    return [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]


def _leaf(value: Any) -> Any:
    """The value of the only field that was read of a struct; any other value unchanged."""
    return next(iter(value.values())) if isinstance(value, dict) else value


def _content(value: bytes | None) -> bytes | Failure:
    if value is None:
        return Failure(Stage.READ, ErrorCode.EMPTY, "the row holds no bytes")
    if len(value) > MAX_BYTES:
        return Failure(Stage.READ, ErrorCode.TOO_LARGE, f"the photo has {len(value)} bytes, the limit is {MAX_BYTES}")
    return value
