"""Prints SQL for DuckDB that makes views of an output: `captions`, a row for each photo, and `history`, all rows.

beamscribe sql /captions > captions.sql
duckdb -init captions.sql
"""

import argparse

from beamscribe.jobs.options import output_folder
from beamscribe.jobs.terminal import printable, until_closed

EXAMPLE = "beamscribe sql /captions > captions.sql"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    output_folder.add_argument(parser)


def run(options: argparse.Namespace, _: list[str]) -> int:
    """Prints the statements."""
    from beamscribe.model.errors import InputError
    from beamscribe.pipelines.output import duckdb_views, layout, tables

    output = output_folder.checked(options.output)
    with tables.readable(output):
        if not layout.committed_files(output):
            raise InputError(f"{printable(output)} holds no captions yet; run `beamscribe caption` first")
    with until_closed():
        print(duckdb_views.views(output), end="")
    return 0
