"""The options that say which photos to list, for every command that lists an archive."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beamscribe.pipelines.sources.base import ListOptions

FORMATS = ("list", "tar", "zip", "tfrecord", "parquet")


def add_arguments(parser: argparse.ArgumentParser, required: bool) -> None:
    """Adds --input and the options that say what to list of the inputs."""
    group = parser.add_argument_group("what to list")
    group.add_argument(
        "--input",
        dest="inputs",
        action="extend",
        nargs="+",
        required=required,
        default=None if required else [],
        metavar="URI",
        help=("required: " if required else "")
        + "folder (all photos below it), glob, photo, list of photos (.txt, .csv, .jsonl, .parquet), or a tar, zip,"
        " TFRecord or Parquet file that holds photos; local or gs://; repeatable",
    )
    group.add_argument(
        "--include", action="append", default=[], metavar="GLOB", help="list only photos whose paths match; repeatable"
    )
    group.add_argument(
        "--exclude", action="append", default=[], metavar="GLOB", help="leave out photos whose paths match; repeatable"
    )
    group.add_argument(
        "--hidden",
        action="store_true",
        help="also list hidden files, and the files that other programs keep beside photos",
    )


def add_rare_arguments(group: Any) -> None:
    """Adds the options for inputs that are not understood without them."""
    group.add_argument("--input-format", choices=FORMATS, help="format of the inputs (told by their content)")
    group.add_argument("--uri-column", metavar="NAME", help="column of a list that holds the URIs of photos")
    group.add_argument(
        "--image-column",
        metavar="NAME",
        help="column of a Parquet file, or feature of the examples of a TFRecord file, that holds the bytes of photos",
    )
    group.add_argument("--name-column", metavar="NAME", help="column or feature that holds the names of photos")


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
