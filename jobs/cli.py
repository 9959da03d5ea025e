"""The `beamscribe` command: one parser for each subcommand, and one place for errors."""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "caption": "caption an archive of photos",
    "show": "print photos and their captions",
    "verify": "check that the captions are readable and complete",
    "compact": "fold the files of many runs into few",
    "prepare": "make training data from photos and captions",
    "train": "train a model on prepared data",
    "evaluate": "score captions against captions that people wrote",
    "recipes": "list the recipes with their figures, or print one",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Args:
      arguments: the command line without the program's name; the process's own by default.

    Returns:
      The exit status: 0 for success, 1 for an error, 2 for a wrong command line, 130 for an interruption (Ctrl-C).
    """
    _quiet_libraries()
    parser = argparse.ArgumentParser(
        prog="beamscribe",
        description="Captions photo archives in bulk, and accounts for every photo.",
        epilog=_examples(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        # A command's module imports heavy libraries only when it runs, so that help and typing errors come at once.
        module = importlib.import_module(f"beamscribe.jobs.commands.{name}")
        command = commands.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            # Beam's options must pass through, also those that are beginnings of one of ours.
            allow_abbrev=False,
        )
        module.add_arguments(command)
        command.set_defaults(module=module)
    options, rest = parser.parse_known_args(arguments)
    if rest and not getattr(options.module, "TAKES_BEAM_OPTIONS", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")

    from beamscribe.model.errors import BeamscribeError

    try:
        return options.module.run(options, rest)
    except BeamscribeError as error:
        print(f"beamscribe {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nbeamscribe {options.command}: stopped; run the same command again to go on", file=sys.stderr)
        return 130


def _examples() -> str:
    examples = "\n\n".join(
        f"  {importlib.import_module(f'beamscribe.jobs.commands.{name}').EXAMPLE}" for name in COMMANDS
    )
    return f"examples:\n\n{examples}\n\nbeamscribe COMMAND --help explains a command's options."


def _quiet_libraries() -> None:
    """Keeps the start-up messages of libraries off the terminal; errors still show."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")


if __name__ == "__main__":
    sys.exit(main())
