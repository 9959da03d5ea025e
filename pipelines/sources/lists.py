"""Lists the photos that a list names: text with one URI per line; CSV, JSON lines or Parquet with a column of URIs."""

import concurrent.futures
import csv
import dataclasses
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beamscribe.model.errors import InputError
from beamscribe.pipelines import stores
from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import files
from beamscribe.pipelines.sources.base import Ignored, ListOptions, extension_of
from beamscribe.pipelines.stores import uris

EXTENSIONS = (".txt", ".lst", ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_COLUMNS = ("uri", "url", "photo", "image", "path", "file", "filename", "file_name", "image_path")
# Files whose metadata are fetched in parallel: fetching from a remote store is mostly waiting.
_THREADS = 16
_CHUNK_ENTRIES = 512


def list_list(uri: str, options: ListOptions) -> Iterator[PhotoRef | Ignored]:
    """Lists the photos that a list names, each once.

    Raises:
      InputError: the list has no column of URIs, or is not in the format of its extension.
    """
    # A file that the list names is not hidden.
    options = dataclasses.replace(options, hidden=True)
    seen: set[str] = set()
    folder = stores.folder_of(uri)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        for several in _chunks(_entries(uri, options)):
            wanted: list[str] = []
            for entry, resolved in several:
                if isinstance(resolved, PhotoRef):
                    yield resolved
                elif resolved not in seen:
                    seen.add(resolved)
                    if ignored := options.ignored_file(entry.removeprefix(f"{folder}/")):
                        yield ignored
                    else:
                        wanted.append(resolved)
            yield from threads.map(files.list_photo, wanted)


def check(uri: str, options: ListOptions) -> None:
    """Checks that the first entry of a list can be read.

    Raises:
      InputError: see `list_list`.
    """
    next(_entries(uri, options), None)


def _entries(uri: str, options: ListOptions) -> Iterator[tuple[str, str | PhotoRef]]:
    """Yields each entry of a list with its URI, resolved against the list's folder, or with a failure."""
    folder = stores.folder_of(uri)
    for number, value in _values(uri, options):
        if value is None:
            continue
        if (resolved := _resolved(folder, value)) is not None:
            yield value, resolved
        else:
            failure = Failure(Stage.LIST, ErrorCode.UNREADABLE, f"this entry of the list is not a URI: {value!r:.100}")
            yield "", PhotoRef(uris.member_uri(uri, f"line {number}"), etag="", failure=failure)


def _resolved(folder: str, value: Any) -> str | None:
    """The URI that an entry of a list stands for; None if the entry is not a text, or not a valid URI."""
    if not isinstance(value, str):
        return None
    try:
        resolved = stores.resolved(folder, value)
        resolved.encode()
    except ValueError:
        return None
    return resolved


def _values(uri: str, options: ListOptions) -> Iterator[tuple[int, Any]]:
    """Yields the number and the value of each line or row; the value of an empty line is None."""
    extension = extension_of(uri)
    with stores.opened(uri) as file:
        if file.read(4) == b"PAR1":
            file.seek(0)
            yield from _of_parquet(uri, pq.ParquetFile(file), options)
            return
        if extension == ".parquet":
            raise InputError(f"can't read {uri}: it has the name of a Parquet file, but is none")
        file.seek(0)
        # Files may have names that are not UTF-8.
        text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
        if extension in (".csv", ".tsv"):
            yield from _of_csv(uri, text, "\t" if extension == ".tsv" else ",", options)
        elif extension in (".jsonl", ".ndjson"):
            yield from _of_jsonl(uri, text, options)
        else:
            for number, line in enumerate(text, 1):
                yield number, line.rstrip("\r\n") or None


def _of_parquet(uri: str, table: pq.ParquetFile, options: ListOptions) -> Iterator[tuple[int, Any]]:
    column = _column(uri, table.schema_arrow.names, options)
    kind = table.schema_arrow.field(column).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(f"{uri}: the column {column} holds {kind}, not URIs; name another column", "uri_column")
    rows = (value for batch in table.iter_batches(columns=[column]) for value in batch.column(0).to_pylist())
    yield from enumerate(rows, 1)


def _of_csv(uri: str, text: Iterable[str], delimiter: str, options: ListOptions) -> Iterator[tuple[int, Any]]:
    try:
        rows = csv.DictReader(text, delimiter=delimiter)
        if not rows.fieldnames and next(rows, None) is None:
            # A list of nothing has no columns.
            return
        column = _column(uri, rows.fieldnames or (), options)
        for row in rows:
            yield rows.line_num, row[column] or None
    except csv.Error as error:
        raise InputError(f"{uri}: line {rows.line_num} is not valid CSV: {error}") from None


def _of_jsonl(uri: str, text: Iterable[str], options: ListOptions) -> Iterator[tuple[int, Any]]:
    column = None
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        wrong = line.encode("utf-8", "surrogateescape")
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = wrong
        if isinstance(value, dict):
            # The first object decides which field holds the URIs; later objects may lack it.
            column = column or _column(uri, value, options)
            value = value.get(column) or wrong
        yield number, wrong if value is None else value


def _column(uri: str, columns: Iterable[str], options: ListOptions) -> str:
    names = list(columns)
    known = [options.uri_column] if options.uri_column else _COLUMNS
    found = next((name for name in known if name in names), None)
    if found is None:
        wanted = f"no column {options.uri_column}" if options.uri_column else "no column with a known name for URIs"
        has = ", ".join(names) or "no columns"
        raise InputError(f"{uri} has {wanted}; it has {has}; name the column", "uri_column")
    return found


def _chunks(entries: Iterator[tuple[str, str | PhotoRef]]) -> Iterator[Sequence[tuple[str, str | PhotoRef]]]:
    while chunk := list(itertools.islice(entries, _CHUNK_ENTRIES)):
        yield chunk
