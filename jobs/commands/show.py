"""Prints photos and their captions: the current row of each photo, over all runs of an output folder.

Photos that are no longer there are left out, except with --history, which prints the rows of all runs.
"""

import argparse
import csv
import datetime
import heapq
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from beamscribe.jobs.options import output_folder
from beamscribe.jobs.terminal import printable, until_closed

if TYPE_CHECKING:
    import pyarrow as pa

EXAMPLE = "beamscribe show /captions --failed"

_TABLE_LIMIT = 50
_TABLE_COLUMNS = ["photo", "run_number", "written_at", "status", "caption", "error", "message"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    output_folder.add_argument(parser)
    parser.add_argument("--failed", action="store_true", help="print only the photos that failed, and why")
    parser.add_argument("--history", action="store_true", help="print all rows of each photo, not only the current one")
    parser.add_argument(
        "--limit", type=int, metavar="N", help=f"print at most N photos, 0 for all (table: {_TABLE_LIMIT}; others: all)"
    )
    parser.add_argument(
        "--format",
        choices=("table", "csv", "jsonl"),
        default="table",
        help="table: sorted by photo (default); csv: all columns but those of several values, for spreadsheets; "
        "jsonl: all columns as JSON lines, each character as it is",
    )


def run(options: argparse.Namespace, _: list[str]) -> int:
    """Prints what was asked for."""
    from beamscribe.model.errors import InputError
    from beamscribe.pipelines.output import layout, rows, tables

    if options.limit is not None and options.limit < 0:
        raise InputError(f"`limit` {options.limit}: give a number of photos, or 0 for all")
    with tables.readable(options.output):
        files = layout.committed_files(output_folder.checked(options.output))
        if not files:
            print(f"{printable(options.output)} holds no captions yet", file=sys.stderr)
            return 0
        read = rows.read_batches if options.history else rows.latest
        with until_closed():
            if options.format == "table":
                _print_table(_chosen(read(files, _TABLE_COLUMNS), options.failed), options)
            else:
                _print_records(_chosen(read(files), options.failed), options)
    return 0


def _chosen(tables: "Iterable[pa.Table]", only_failed: bool) -> "Iterator[pa.Table]":
    """All rows, or those of failed photos."""
    import pyarrow.compute as pc

    from beamscribe.pipelines.photos import FAILED

    for table in tables:
        yield table.filter(pc.equal(table["status"], FAILED)) if only_failed else table


def _print_records(tables: "Iterable[pa.Table]", options: argparse.Namespace) -> None:
    """Prints rows as they come, as CSV or JSON lines."""
    import pyarrow as pa

    from beamscribe.pipelines.output import copies
    from beamscribe.pipelines.photos import CAPTION_SCHEMA

    columns = [field.name for field in CAPTION_SCHEMA if not pa.types.is_nested(field.type)]
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    if options.format == "csv":
        writer.writeheader()
    left = options.limit or sys.maxsize
    for table in tables:
        rows = table.slice(0, left)
        if options.format == "jsonl":
            sys.stdout.write(copies.jsonl(rows).decode())
        else:
            writer.writerows(
                {name: _cell(value) for name, value in row.items()} for row in rows.select(columns).to_pylist()
            )
        left -= len(rows)
        if not left:
            break


def _cell(value: Any) -> Any:
    """A value as a cell of CSV: one line that neither a terminal nor a spreadsheet takes for a command."""
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if not isinstance(value, str):
        return value
    text = printable(value)
    # Spreadsheets take such a text for a formula (OWASP, CSV injection); the apostrophe says that it is none.
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _print_table(tables: "Iterable[pa.Table]", options: argparse.Namespace) -> None:
    """Prints the first rows in the photos' order; how many there are is known only at the end."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    total = 0

    def all_rows() -> Iterator[dict[str, Any]]:
        nonlocal total
        for table in tables:
            total += table.num_rows
            yield from table.to_pylist()

    limit = _TABLE_LIMIT if options.limit is None else options.limit or sys.maxsize
    shown = heapq.nsmallest(
        limit, all_rows(), key=lambda row: (row["photo"], row["run_number"] or 0, row["written_at"])
    )
    if not shown:
        print("no photo failed" if options.failed else "no photos")
        return
    folder = _common_folder(row["photo"] for row in shown)
    if folder:
        print(f"in {printable(folder)}:\n")
    cells = [(printable(row["photo"].removeprefix(folder)), printable(_outcome(row))) for row in shown]
    if sys.stdout.isatty():
        layout = Table("photo", "caption", box=None, pad_edge=False)
        for photo, outcome in cells:
            layout.add_row(Text(photo, overflow="fold"), Text(outcome))
        Console().print(layout)
    else:
        # A pipe has no width to keep to, and one line per photo is easier to search.
        width = max(len(photo) for photo, _ in cells)
        for photo, outcome in [("photo", "caption"), *cells]:
            print(f"{photo:{width}}  {outcome}")
    if total > len(shown):
        print(f"\n{total - len(shown):,} more; --limit 0 prints all")


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["photo"], row["run_number"] or 0, row["written_at"]


def _outcome(row: dict[str, Any]) -> str:
    from beamscribe.pipelines.photos import CAPTIONED, FAILED

    if row["status"] == CAPTIONED:
        return row["caption"]
    return f"failed: {row['error']}: {row['message']}" if row["status"] == FAILED else row["status"]


def _common_folder(photos: Iterable[str]) -> str:
    """The deepest folder that all photos lie in, with its final slash; empty where there is none."""
    prefix = os.path.commonprefix(list(photos))  # noqa: RUF071 - the last slash is looked for here
    return prefix[: prefix.rfind("/") + 1]
