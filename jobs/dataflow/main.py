"""Begins the job of a Flex Template: runs `beamscribe caption` with the template's parameters.

Dataflow's launcher starts this script with the parameters and with options of Beam's, all as `--name=value`.
"""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from beamscribe.jobs import entry, exits
from beamscribe.model.errors import InputError, one_line

# Parameters that take several values, separated by spaces and quoted as in a shell.
SEVERAL = ("input", "include", "exclude", "recaption")
# Options without a value: `true` stands for the option, `false` for its absence.
FLAGS = ("hidden", "allow_empty", "accept_gone", "no_deduplicate")
# Options of Beam's, whose names are spelled like the parameters.
BEAMS = ("sdk_container_image",)


def parameters() -> list[str]:
    """The names of the template's parameters."""
    metadata = json.loads(Path(__file__).with_name("metadata.json").read_text(encoding="utf-8"))
    return [parameter["name"] for parameter in metadata["parameters"]]


def arguments(given: Sequence[str], image: str | None) -> list[str]:
    """The arguments of the command `beamscribe`; an empty parameter counts as not given.

    Args:
      given: the arguments that the launcher gives.
      image: of the workers, if the launcher names none.

    Raises:
      InputError: a quotation mark is not closed.
    """
    names = parameters()
    line = ["caption"]
    for argument in given:
        name, _, value = argument.removeprefix("--").partition("=")
        option = f"--{name.replace('_', '-')}"
        if name not in names or name in BEAMS:
            line += [argument] if value or name not in BEAMS else []
        elif name in FLAGS:
            line += [option] if value == "true" else []
        elif name in SEVERAL:
            try:
                line += [f"{option}={one}" for one in shlex.split(value)]
            except ValueError as error:
                raise InputError(f"{name}: {value}: {one_line(error)}; quote quotation marks, as in a shell") from None
        elif value:
            line.append(f"{option}={value}")
    if image and not any(argument.startswith("--sdk_container_image=") for argument in line):
        line.append(f"--sdk_container_image={image}")
    return line


def main() -> NoReturn:
    """Runs the command with the launcher's arguments, and exits with its status."""
    try:
        line = arguments(sys.argv[1:], os.environ.get("BEAMSCRIBE_WORKER_IMAGE"))
    except InputError as error:
        print(f"beamscribe: {error}", file=sys.stderr)
        sys.exit(exits.status_of(error))
    entry.main(line)


if __name__ == "__main__":
    main()
