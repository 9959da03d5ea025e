"""The output folder of `beamscribe caption`, as other commands take it."""

import argparse


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the folder as a positional argument."""
    parser.add_argument(
        "output", metavar="OUTPUT", help="folder given to `beamscribe caption` as --output; local or gs://"
    )


def checked(uri: str) -> str:
    """The folder's absolute path or URI, without a slash at its end.

    Args:
      uri: what the user typed.

    Raises:
      InputError: there is no such folder, no run has written to it, or what was typed is empty.
      BeamscribeError: the folder can't be read.
    """
    from beamscribe.model.errors import path_of
    from beamscribe.pipelines.output import tables

    path_of("OUTPUT", uri)
    with tables.readable(uri):
        return tables.checked(uri)
