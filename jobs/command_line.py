"""The parser of a command: usage errors of one line, options from a file, and errors that name options."""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from beamscribe.jobs import argparse_internals
from beamscribe.model.errors import BeamscribeError, InputError, nearest, one_line

# The options whose names are not those of the arguments of `beamscribe.caption` that they set.
_OPTIONS = {"inputs": "--input", "deduplicate": "--no-deduplicate"}
# So much of a misspelt option is right; no option of Beam is so like one of ours that must be given.
_MISSPELT = 0.75
_NEVER_IN_A_FILE = ("--help", "--config")


class UsageError(InputError):
    """The command line is wrong."""


class Parser(argparse.ArgumentParser):
    """A parser that raises `UsageError` where argparse prints the usage, which for some commands is a page."""

    def __init__(self, **options: Any):
        # Options of Beam's must pass through, also those that are beginnings of one of ours.
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parses a command line; see `argparse`.

        Raises:
          UsageError: the command line is wrong. Where it lacks an option that it misspells, the error says so.
        """
        given = list(sys.argv[1:] if args is None else args)
        try:
            return super().parse_known_args(given, namespace)
        except UsageError:
            words = [word.partition("=")[0] for word in given]
            lacking = argparse_internals.required_in(self).difference(words)
            known = argparse_internals.names_in(self)
            for word in words:
                if word.startswith("--") and word not in known and (hint := nearest(word, lacking, _MISSPELT)):
                    raise UsageError(f"unknown argument {word}{hint}") from None
            raise

    def error(self, message: str) -> NoReturn:
        """Raises the error that argparse has found."""
        raise UsageError(message.removeprefix("argument "))


def text_of(error: BeamscribeError) -> str:
    """What an error says, in one line: options, such as `--beam-width`, in place of arguments in backticks."""
    return re.sub(r"`([a-z][a-z0-9_]*)`", lambda match: option_of(match[1]), str(error))


def option_of(argument: str) -> str:
    """The option that sets an argument of `beamscribe.caption` or of a like function."""
    return _OPTIONS.get(argument, f"--{argument.replace('_', '-')}")


def value_of(option: str, arguments: Sequence[str]) -> str | None:
    """The value that a command line gives to an option; None where it does not.

    Raises:
      UsageError: the option is the last word, or comes twice.
    """
    places = [place for place, argument in enumerate(arguments) if argument.partition("=")[0] == option]
    if not places:
        return None
    if len(places) > 1:
        raise UsageError(f"{option}: give it once")
    place = places[0]
    if "=" in arguments[place]:
        return arguments[place].partition("=")[2]
    if place + 1 == len(arguments):
        raise UsageError(f"{option}: expected one argument")
    return arguments[place + 1]


def with_file(arguments: Sequence[str], path: str, parser: argparse.ArgumentParser, beam: Iterable[str]) -> list[str]:
    """The arguments of a command with the options of a file before them; an option of the command line wins.

    Args:
      arguments: the command line, which names the file.
      path: the file: YAML that maps long options, without their dashes, to values, lists of values, or true and false.
      parser: the parser of the command.
      beam: the options of Beam that the command passes on.

    Raises:
      InputError: the file can't be read, is not such a file, or holds an unknown option.
    """
    known = [*argparse_internals.names_in(parser), *beam]
    long = {name.removeprefix("--").replace("-", "_"): name for name in known if name.startswith("--")}
    given = {argument.partition("=")[0] for argument in arguments}
    added: list[str] = []
    for key, value in _read(path).items():
        name = long.get(str(key).replace("-", "_"))
        if name in _NEVER_IN_A_FILE:
            raise InputError(f"{path}: {key} is for the command line alone; take it out of the file")
        if name is None:
            proposals = (option.removeprefix("--") for option in long.values() if option not in _NEVER_IN_A_FILE)
            raise InputError(f"{path}: unknown option {key}{nearest(str(key), proposals)}")
        if name in given or value is None or value is False:
            continue
        if value is True:
            added.append(name)
            continue
        values = value if isinstance(value, list) else [value]
        if any(isinstance(one, dict | list | bool) or one is None for one in values):
            raise InputError(f"{path}: {key}: give a text, a number, true, false, or a list of texts")
        added += [f"{name}={one}" for one in values]
    return [*added, *arguments]


def _read(path: str) -> dict[Any, Any]:
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise InputError(f"`config`: can't read {path}: {one_line(error)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"`config`: {path} is not YAML: {one_line(error)}") from None
    if content is not None and not isinstance(content, dict):
        raise InputError(f"`config`: {path} does not map options to values; write one `option: value` on each line")
    return content or {}
