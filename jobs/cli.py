"""The `beamscribe` command: finds the subcommand, and turns errors and signals into lines and exit statuses."""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from types import ModuleType

import beamscribe
from beamscribe.jobs import argparse_internals, command_line, exits, streams
from beamscribe.jobs.command_line import Parser, UsageError
from beamscribe.jobs.interruption import Interruption
from beamscribe.jobs.terminal import PrintableFormatter
from beamscribe.model.errors import BeamscribeError, InputError, nearest

COMMANDS = {
    "caption": "caption an archive of photos",
    "plan": "say what `caption` would do, and why",
    "stop": "ask the run that writes to an output to end early",
    "show": "print photos and their captions",
    "sql": "print views of the captions for DuckDB",
    "verify": "check that the captions are readable and complete",
    "compact": "fold the files of many runs into few",
    "prepare": "make training data from photos and captions",
    "train": "train a model on prepared data",
    "evaluate": "score captions against captions that people wrote",
    "recipes": "list the recipes with their figures, or print one",
}


def main(arguments: Sequence[str]) -> int:
    """Runs one subcommand; `entry.main` does so in a process of its own.

    Args:
      arguments: the command line without the program's name.

    Returns:
      The exit status, one of `beamscribe.jobs.exits`. Where a signal has ended the command, the process dies by that
      signal instead.
    """
    given = list(arguments)
    place, name = next(((i, word) for i, word in enumerate(given) if not word.startswith("-")), (len(given), ""))
    try:
        module = _module(name, given)
    except BeamscribeError as error:
        return _told("beamscribe", error)
    with Interruption(name, getattr(module, "ADVICE", "run the same command again")) as interruption:
        is_done = False
        try:
            status = _run(name, module, given[:place] + given[place + 1 :], interruption)
            is_done = True
        except BeamscribeError as error:
            status = exits.FAILED if interruption.number else _told(f"beamscribe {name}", error)
        except BaseException:
            # An engine that is interrupted may raise anything.
            if not interruption.number:
                raise
        if interruption.number:
            interruption.die(is_done)
    return status


def _module(name: str, arguments: Sequence[str]) -> ModuleType:
    """The module of a subcommand; a command line without one is answered here.

    Raises:
      UsageError: there is no such command.
    """
    if name in COMMANDS:
        return importlib.import_module(f"beamscribe.jobs.commands.{name}")
    parser = Parser(
        prog="beamscribe",
        usage="beamscribe COMMAND …",
        description="Captions photo archives in bulk, and accounts for every photo.",
        epilog=_commands_and_examples() if {"-h", "--help"} & set(arguments) else None,
    )
    parser.add_argument("--version", action="version", version=f"beamscribe {beamscribe.__version__}")
    if not name:
        parser.parse_args(arguments)
        raise UsageError(f"give a command: {', '.join(COMMANDS)}")
    raise UsageError(f"unknown command {name}{nearest(name, COMMANDS)}")


def _commands_and_examples() -> str:
    commands = "\n".join(f"  {name:10} {summary}" for name, summary in COMMANDS.items())
    modules = (importlib.import_module(f"beamscribe.jobs.commands.{name}") for name in COMMANDS)
    examples = "\n\n".join(f"  {module.EXAMPLE}" for module in modules)
    hint = "beamscribe COMMAND --help explains a command's options."
    return f"commands:\n\n{commands}\n\nexamples:\n\n{examples}\n\n{hint}"


def _run(name: str, module: ModuleType, arguments: list[str], interruption: Interruption) -> int:
    takes_beams = getattr(module, "TAKES_BEAM_OPTIONS", False)
    parser = _parser(name, module)
    path = command_line.value_of("--config", arguments)
    if path is not None:
        arguments = command_line.with_file(arguments, path, parser, _beams() if takes_beams else ())
    options, rest = parser.parse_known_args(arguments)
    _configure_logging(options)
    names = argparse_internals.names_in(parser)
    if rest and not takes_beams:
        raise UsageError(f"unknown argument {rest[0]}{nearest(rest[0].partition('=')[0], names)}")
    if rest:
        from beamscribe.jobs.runners import beam_runner

        try:
            beam_runner.check_names(rest, names)
        except InputError as error:
            raise UsageError(str(error)) from None
    options.interruption = interruption
    return module.run(options, rest)


def _beams() -> set[str]:
    """The options of Beam; looking for them loads Beam."""
    from beamscribe.jobs.runners import beam_internals

    return beam_internals.option_names()


def _parser(name: str, module: ModuleType) -> Parser:
    parser = Parser(
        prog=f"beamscribe {name}",
        usage=f"beamscribe {name} …",
        description=module.__doc__,
        epilog=f"example:\n  {module.EXAMPLE}",
    )
    module.add_arguments(parser)
    group = parser.add_argument_group("for every command")
    group.add_argument(
        "--config", metavar="FILE", help="YAML file with options, `option: value`; the command line wins"
    )
    group.add_argument("--verbose", action="store_true", help="log what the job does, and what libraries say")
    group.add_argument("--quiet", action="store_true", help="print only what was asked for, warnings and errors")
    return parser


def _configure_logging(options: argparse.Namespace) -> None:
    """Sends logs to stderr, with levels and times; libraries say only errors, except with --verbose."""
    if not options.verbose:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # While TensorFlow is imported, descriptor 2 leads nowhere: what is logged meanwhile must not be lost.
    to_terminal = logging.StreamHandler(streams.to_stderr(os.dup(2)))
    to_terminal.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(handlers=[to_terminal])
    least = logging.INFO if options.verbose else logging.ERROR
    logging.getLogger().setLevel(least)
    for handler in logging.getLogger().handlers:
        # Beam gives some of its loggers levels of their own.
        handler.addFilter(lambda record: record.levelno >= least or record.name.startswith("beamscribe."))
    level = logging.DEBUG if options.verbose else logging.WARNING if options.quiet else logging.INFO
    logging.getLogger("beamscribe").setLevel(level)
    # What workers do matters to few, and most workers log elsewhere.
    logging.getLogger("beamscribe.pipelines").setLevel(logging.DEBUG if options.verbose else logging.WARNING)


def _told(program: str, error: BeamscribeError) -> int:
    text = command_line.text_of(error)
    hint = f"{'' if text.endswith('?') else ';'} see `{program} --help`" if isinstance(error, UsageError) else ""
    print(f"{program}: {text}{hint}", file=sys.stderr)
    return exits.status_of(error)
