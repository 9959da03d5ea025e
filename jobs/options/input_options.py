"""The options that say which photos to list, for every command that lists an archive."""

import argparse
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from beamscribe.model.errors import InputError
    from beamscribe.pipelines.sources.base import ListOptions

FORMATS = ("list", "tar", "zip", "tfrecord", "parquet")


def add_arguments(parser: argparse.ArgumentParser, required: bool) -> None:
    """Adds --input and the options that say what to list of the inputs."""
    parser.add_argument(
        "--input",
        action="extend",
        nargs="+",
        required=required,
        default=None if required else [],
        metavar="URI",
        help="folder (all photos below it), glob, photo, list of photos (.txt, .csv, .jsonl, .parquet), or a tar, zip,"
        " TFRecord or Parquet file that holds photos; local or gs://; repeatable",
    )
    parser.add_argument("--input-format", choices=FORMATS, help="format of the inputs (told by their content)")
    parser.add_argument(
        "--include", action="append", default=[], metavar="GLOB", help="list only photos whose paths match; repeatable"
    )
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="GLOB", help="leave out photos whose paths match; repeatable"
    )
    parser.add_argument(
        "--hidden",
        action="store_true",
        help="also list hidden files, and the files that other programs keep beside photos",
    )
    parser.add_argument("--uri-column", metavar="NAME", help="column of a list that holds the URIs of photos")
    parser.add_argument(
        "--image-column",
        metavar="NAME",
        help="column of a Parquet file, or feature of the examples of a TFRecord file, that holds the bytes of photos",
    )
    parser.add_argument("--name-column", metavar="NAME", help="column or feature that holds the names of photos")


def list_options(options: argparse.Namespace) -> "ListOptions":
    """The options that say what to list of the inputs, together."""
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
      BeamscribeError: an input is not there, or its format can't be told.
    """
    from beamscribe.model.errors import BeamscribeError, InputError, one_line
    from beamscribe.pipelines import listing

    if "" in options.input:
        raise BeamscribeError("--input: it is empty; give a folder, a glob, a photo, a list or an archive")
    inputs = tuple(_absolute_input(uri) for uri in options.input)
    chosen = list_options(options)
    for uri in inputs:
        try:
            listing.check(uri, chosen)
        except InputError as error:
            raise BeamscribeError(f"--input: {error}{_remedy(error)}") from None
        except (OSError, ValueError) as error:
            raise BeamscribeError(f"--input: can't read {uri}: {one_line(error)}") from None
    return inputs


# The option that sets each field of `ListOptions` which an error may name.
_FLAGS = {
    "format": "--input-format",
    "uri_column": "--uri-column",
    "image_column": "--image-column",
    "name_column": "--name-column",
}


def _remedy(error: "InputError") -> str:
    """The option that helps, where one does."""
    return f" with {_FLAGS[error.field]}" if error.field else ""


def _absolute_input(uri: str) -> str:
    from beamscribe.pipelines import stores
    from beamscribe.pipelines.stores import uris

    # A path that is not UTF-8 can be passed on as a URI.
    return uris.local_uri(absolute(uri)) if stores.is_local(uri) else absolute(uri)


def absolute(uri: str) -> str:
    """An absolute path, or a URI without a slash at its end.

    Raises:
      BeamscribeError: a URI ends after its scheme, as it does where a shell variable is not set.
    """
    from beamscribe.model.errors import BeamscribeError
    from beamscribe.pipelines import stores
    from beamscribe.pipelines.stores import uris

    if re.fullmatch(r"[a-z][a-z0-9+.-]*:/*", uri):
        raise BeamscribeError(f"{uri} names no bucket; is a shell variable not set?")
    return os.path.abspath(uris.local_path(uri)) if stores.is_local(uri) else uri.rstrip("/")
