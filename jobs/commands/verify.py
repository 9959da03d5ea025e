"""Checks the committed rows: that they can be read, add up, and hold each photo once.

With --input, it also checks that every photo of the inputs has a row for its present version. It changes nothing. For
each problem it prints a line: where, what, and what to do. The exit status is 0 if all is well and 1 if it is not. With
--quiet, it prints the problems only.
"""

import argparse
from typing import TYPE_CHECKING

from beamscribe.jobs.options import input_options, output_folder
from beamscribe.jobs.terminal import printable, until_closed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from beamscribe.pipelines.output.checks import Finding, Result
    from beamscribe.pipelines.photos import PhotoRef

EXAMPLE = "beamscribe verify /captions --input /photos"

_LEASE = (
    "make sure that no job writes to the folder, since another one may now start beside it; the next `beamscribe "
    "caption` or `beamscribe compact` then deletes the file"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    output_folder.add_argument(parser)
    input_options.add_arguments(parser, required=False)
    input_options.add_rare_arguments(parser.add_argument_group("rarely needed"))


def run(options: argparse.Namespace, _: list[str]) -> int:
    """Prints each problem, or that all is well."""
    from beamscribe.model.errors import BeamscribeError, one_line
    from beamscribe.pipelines.output import checks

    output = output_folder.checked(options.output)
    try:
        result = checks.verify(output, _listing(options) if options.inputs else None)
        result.findings.extend(_leases(output))
    except OSError as error:
        raise BeamscribeError(f"can't read {output}: {one_line(error)}") from None
    with until_closed():
        _print(result, options.quiet)
    return 1 if result.findings else 0


def _leases(output: str) -> "Iterator[Finding]":
    """Finds the leases that are damaged."""
    from beamscribe.model.documents import DamagedDocumentError
    from beamscribe.model.errors import one_line
    from beamscribe.pipelines import stores
    from beamscribe.pipelines.control.holder import Holder
    from beamscribe.pipelines.output import layout
    from beamscribe.pipelines.output.checks import Finding

    for path in sorted(stores.within(layout.leases_folder(output), "*.json")):
        try:
            if layout.lease_number(path) is not None:
                Holder.from_json(stores.read(path), path)
        except FileNotFoundError:
            # A job has just taken the next lease and deleted this one.
            continue
        except DamagedDocumentError as error:
            yield Finding(path, error.problem, _LEASE)
        except OSError as error:
            yield Finding(path, f"can't be read ({one_line(error)})", _LEASE)


def _print(result: "Result", is_quiet: bool) -> None:
    for note in () if is_quiet else result.notes:
        print(f"note: {printable(note)}")
    for finding in result.findings:
        print(printable(f"{finding.subject}: {finding.problem}; {finding.remedy}"))
    if not is_quiet:
        extent = f"{result.files:,} files of {result.runs:,} runs, {result.rows:,} rows, {result.photos:,} photos"
        print(f"not all is well: {extent}" if result.findings else f"all is well: {extent}")


def _listing(options: argparse.Namespace) -> "Iterator[PhotoRef]":
    """The photos that the inputs hold now."""
    from beamscribe.jobs import arguments
    from beamscribe.pipelines import listing

    chosen = input_options.list_options(options)
    return listing.list_photos(arguments.inputs(options.inputs, chosen), chosen)
