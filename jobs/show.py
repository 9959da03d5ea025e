"""Prints photos and their captions: the latest row of each photo, over all runs of an output folder."""

import argparse
import csv
import heapq
import io
import itertools
import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

EXAMPLE = "beamscribe show /captions --failed"

_TABLE_LIMIT = 50
_TABLE_COLUMNS = ["photo", "written_at", "status", "caption", "error", "message"]
# Narrower columns than this are no use, whatever the terminal's width.
_NARROWEST = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    parser.add_argument("output", metavar="OUTPUT", help="the --output folder of `beamscribe caption`; local or gs://")
    parser.add_argument("--failed", action="store_true", help="only photos without a caption, and why")
    parser.add_argument(
        "--limit", type=int, metavar="N", help=f"photos to print, 0 for all (table: {_TABLE_LIMIT}, others: all)"
    )
    parser.add_argument(
        "--format",
        choices=("table", "csv", "jsonl"),
        default="table",
        help="table, sorted by photo (default); or all columns as CSV (but for the alternatives) or JSON lines",
    )


def run(options: argparse.Namespace, beam_arguments: list[str]) -> int:
    """Prints what was asked for."""
    from model.errors import UserError

    if options.limit is not None and options.limit < 0:
        raise UserError(f"--limit {options.limit}: give a number of photos, or 0 for all")
    try:
        files = _committed_files(options.output)
        if not files:
            print(f"{options.output}: nothing is committed yet", file=sys.stderr)
            return 0
        if options.format == "table":
            _print_table(_latest(files, options.failed, _TABLE_COLUMNS), options)
        else:
            _print_records(_latest(files, options.failed), options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has enough (`| head`). Python flushes again at exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        raise UserError(f"can't read {options.output}: {error.strerror or error}") from None
    return 0


def _committed_files(output: str) -> list[str]:
    """The shard files of all runs; none where a run has committed nothing yet."""
    from model.errors import UserError
    from pipelines import report, storage

    try:
        files = report.committed_files(output)
        is_output = files or any(storage.within(output, "runs", "*", "config.json"))
    except ValueError as error:
        # No filesystem for the scheme.
        raise UserError(str(error)) from None
    if is_output:
        return files
    if storage.is_local(output) and not os.path.isdir(output):
        raise UserError(f"no folder {output}; give the --output folder of `beamscribe caption`")
    raise UserError(f"{output} holds no captions; give the --output folder of `beamscribe caption`")


def _latest(files: list[str], only_failed: bool, columns: list[str] | None = None) -> "Iterator[pa.Table]":
    """The rows that no later row of the same photo replaces, file by file; only the photos' names stay in memory.

    Args:
      files: shard files of any runs.
      only_failed: leave out the captioned ones.
      columns: what to read; all by default.
    """
    import pyarrow as pa

    from pipelines import report
    from pipelines.photos import FAILED

    newest: dict[str, int] = {}
    for table in report.read_tables(files, ["photo", "written_at"]):
        for photo, time in _times(table):
            newest[photo] = max(time, newest.get(photo, time))
    for table in report.read_tables(files, columns):
        wanted = []
        for (photo, time), status in zip(_times(table), table["status"].to_pylist(), strict=True):
            latest = newest.get(photo) == time
            if latest:
                # Gone, so that of two rows of the same moment only one counts.
                del newest[photo]
            wanted.append(latest and (status == FAILED or not only_failed))
        yield table.filter(pa.array(wanted, pa.bool_()))


def _times(table: "pa.Table") -> Iterable[tuple[str, int]]:
    """Each row's photo and time of writing, microseconds since 1970."""
    return zip(table["photo"].to_pylist(), table["written_at"].cast("int64").to_pylist(), strict=True)


def _print_records(tables: "Iterable[pa.Table]", options: argparse.Namespace) -> None:
    """Prints rows as they come, as CSV or JSON lines."""
    from pipelines import export
    from pipelines.photos import CAPTION_SCHEMA

    if options.format == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerow(_csv_columns(CAPTION_SCHEMA))
    left = options.limit or sys.maxsize
    for table in tables:
        rows = table.slice(0, left)
        sys.stdout.write(export.jsonl(rows).decode() if options.format == "jsonl" else _csv(rows))
        left -= len(rows)
        if not left:
            break


def _csv_columns(schema: "pa.Schema") -> list[str]:
    return [name for name in schema.names if name != "alternatives"]


def _csv(table: "pa.Table") -> str:
    """The rows as CSV, without a header."""
    text = io.StringIO()
    records = table.select(_csv_columns(table.schema)).to_pylist()
    for record in records:
        record["written_at"] = record["written_at"].isoformat()
    csv.writer(text, lineterminator="\n").writerows(record.values() for record in records)
    return text.getvalue()


def _print_table(tables: "Iterable[pa.Table]", options: argparse.Namespace) -> None:
    """Prints the first rows in the photos' order; how many there are is known only at the end."""
    total = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal total
        for table in tables:
            total += table.num_rows
            yield from table.to_pylist()

    limit = _TABLE_LIMIT if options.limit is None else options.limit or sys.maxsize
    shown = heapq.nsmallest(limit, rows(), key=lambda row: row["photo"])
    if not shown:
        print("no photo failed" if options.failed else "no photos")
        return
    folder = _common_folder(row["photo"] for row in shown)
    if folder:
        print(f"in {_printable(folder)}:\n")
    cells = [(_printable(row["photo"].removeprefix(folder)), _printable(_outcome(row))) for row in shown]
    # In a pipe there is no width to keep to, and one line a photo is easier to search.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in _lines([("photo", "caption"), *cells], width):
        print(line)
    if total > len(shown):
        print(f"\n{total - len(shown):,} more; --limit 0 prints all")


def _outcome(row: dict[str, Any]) -> str:
    from pipelines.photos import CAPTIONED

    return row["caption"] if row["status"] == CAPTIONED else f"failed: {row['error']}: {row['message']}"


def _common_folder(photos: Iterable[str]) -> str:
    """The deepest folder that all photos lie in, with its final slash; empty where there is none."""
    photos = iter(photos)
    first = next(photos, "")
    folder = first[: first.rfind("/") + 1]
    for photo in photos:
        while not photo.startswith(folder):
            folder = folder[: folder.rfind("/", 0, -1) + 1]
    return folder


def _printable(text: str) -> str:
    """The text without what would move a terminal's cursor or change its colours."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _lines(cells: list[tuple[str, str]], width: int | None) -> Iterator[str]:
    """Lays out two columns.

    Args:
      cells: the rows, left and right.
      width: of the terminal, columns; None for one line a row however long.
    """
    left_width = max(_width(left) for left, _ in cells)
    if width is not None:
        left_width = min(left_width, max(_NARROWEST, width * 2 // 5))
    for left, right in cells:
        left = _shorten(left, left_width)
        wrapped = [right] if width is None else textwrap.wrap(right, max(_NARROWEST, width - left_width - 2))
        yield f"{left}{' ' * (left_width - _width(left))}  {wrapped[0] if wrapped else ''}".rstrip()
        yield from (f"{'':{left_width}}  {line}" for line in wrapped[1:])


def _width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _shorten(text: str, width: int) -> str:
    """Cuts the middle out, as a path's ends tell most."""
    if _width(text) <= width:
        return text
    half = (width - 1) // 2
    return f"{_start(text, half)}…{_start(text[::-1], width - 1 - half)[::-1]}"


def _start(text: str, width: int) -> str:
    """As much of a text's start as fits."""
    widths = itertools.accumulate(map(_character_width, text))
    return "".join(character for character, end in zip(text, widths, strict=True) if end <= width)
