"""The output folder of `beamscribe caption`, as other commands take it."""

import argparse
import os


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
      BeamscribeError: there is no such folder, or no run has written to it.
    """
    from beamscribe.jobs.options import input_options
    from beamscribe.model.errors import BeamscribeError, one_line
    from beamscribe.pipelines import stores
    from beamscribe.pipelines.output import layout

    output = input_options.absolute(uri)
    try:
        if layout.committed_files(output) or any(stores.within(output, "runs", "*", "config.json")):
            return output
    except ValueError as error:
        # Beam has no filesystem for the scheme.
        raise BeamscribeError(one_line(error)) from None
    except OSError as error:
        raise BeamscribeError(f"can't read {uri}: {one_line(error)}") from None
    if stores.is_local(output) and not os.path.isdir(output):
        raise BeamscribeError(f"there is no folder {output}; give the --output folder of `beamscribe caption`")
    raise BeamscribeError(f"{output} holds no captions; give the --output folder of `beamscribe caption`")
