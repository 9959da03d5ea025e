"""The parser of a command: usage errors of one line, options from a file, and errors that name options."""

import argparse
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from beamscribe.jobs import argparse_internals
from beamscribe.model.errors import BeamscribeError, InputError, nearest, one_line

# The options whose names are not those of the arguments of `beamscribe.caption` that they set.
_OPTIONS = {"inputs": "--input", "deduplicate": "--no-deduplicate"}


class UsageError(InputError):
    """The command line is wrong."""


class Parser(argparse.ArgumentParser):
    """A parser that raises `UsageError` where argparse prints the usage, which for some commands is a page."""

    def __init__(self, **options: Any):
        # Options of Beam's must pass through, also those that are beginnings of one of ours.
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raises the error that argparse has found."""
        raise UsageError(message.removeprefix("argument "))


def text_of(error: BeamscribeError) -> str:
    """What an error says, with options in place of arguments in backticks: `--beam-width` for `beam_width`."""
    return re.sub(r"`([a-z][a-z0-9_]*)`", lambda match: option_of(match[1]), str(error))


def option_of(argument: str) -> str:
    """The option that sets an argument of `beamscribe.caption` or of a like function."""
    return _OPTIONS.get(argument, f"--{argument.replace('_', '-')}")


def value_of(option: str, arguments: Sequence[str]) -> str | None:
    """The value that a command line gives to an option; None where it does not.

    Raises:
      UsageError: the option is the last word.
    """
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
        if argument == option:
            if place + 1 == len(arguments):
                raise UsageError(f"{option}: expected one argument")
            return arguments[place + 1]
    return None


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
        if name is None or name in ("--help", "--config"):
            proposals = (option.removeprefix("--") for option in long.values())
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
