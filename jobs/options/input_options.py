"""The options that say what to list: the same for each command that lists an archive."""

import argparse
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from beamscribe.pipelines.sources.base import ListOptions

FORMATS = ("list", "tar", "zip", "tfrecord", "parquet")


def add_arguments(parser: argparse.ArgumentParser, required: bool) -> None:
    """Adds --input and what goes with it."""
    parser.add_argument(
        "--input",
        action="extend",
        nargs="+",
        required=required,
        default=None if required else [],
        metavar="URI",
        help="folder (all below it), glob, photo, list of photos (.txt, .csv, .jsonl, .parquet), tar, zip, TFRecord or"
        " Parquet with photos inside; local or gs://; may be given several times",
    )
    parser.add_argument("--input-format", choices=FORMATS, help="what the inputs are, where their bytes don't tell")
    parser.add_argument(
        "--include", action="append", default=[], metavar="GLOB", help="only paths that match; repeatable"
    )
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="GLOB", help="no paths that match; repeatable"
    )
    parser.add_argument(
        "--hidden", action="store_true", help="also hidden files, and what other programs keep beside photos"
    )
    parser.add_argument("--uri-column", metavar="NAME", help="column of a list that holds the photos' URIs")
    parser.add_argument(
        "--image-column",
        metavar="NAME",
        help="column of a Parquet file, or feature of examples, with the photos' bytes",
    )
    parser.add_argument("--name-column", metavar="NAME", help="the one with the photos' names")


def list_options(options: argparse.Namespace) -> "ListOptions":
    """What to list of the inputs."""
    from beamscribe.pipelines.sources.base import ListOptions

    return ListOptions(
        include=tuple(options.include),
        exclude=tuple(options.exclude),
        hidden=options.hidden,
        format=options.input_format,
        uri_column=options.uri_column,
        image_column=options.image_column,
        name_column=options.name_column,
    )


def checked_inputs(options: argparse.Namespace) -> tuple[str, ...]:
    """The inputs' absolute paths or URIs.

    Raises:
      UserError: one of them is not there, or it can't be told what it is.
    """
    from beamscribe.model.errors import UserError
    from beamscribe.pipelines import listing

    if "" in options.input:
        raise UserError("--input: it is empty; give a folder, a glob, a photo, a list or an archive")
    inputs = tuple(_absolute_input(uri) for uri in options.input)
    chosen = list_options(options)
    for uri in inputs:
        try:
            listing.check(uri, chosen)
        except (OSError, ValueError) as error:
            raise UserError(f"--input: can't look into {uri}: {error}") from None
    return inputs


def _absolute_input(uri: str) -> str:
    from beamscribe.pipelines import stores

    # A path that is not UTF-8 can be passed on as a URI.
    return stores.local_uri(absolute(uri)) if stores.is_local(uri) else absolute(uri)


def absolute(uri: str) -> str:
    """An absolute path, or a URI without a slash at its end.

    Raises:
      UserError: a URI ends behind its scheme, as with a variable that is not set.
    """
    from beamscribe.model.errors import UserError
    from beamscribe.pipelines import stores

    if re.fullmatch(r"[a-z][a-z0-9+.-]*:/*", uri):
        raise UserError(f"{uri} names no bucket; is a variable not set?")
    return os.path.abspath(stores.local_path(uri)) if stores.is_local(uri) else uri.rstrip("/")
