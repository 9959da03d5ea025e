"""Begins the job of a Flex Template: `beamscribe caption` with the template's parameters.

Dataflow's launcher starts it with these, and with options of Beam's, all as `--name=value`.
"""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from beamscribe.jobs import cli
from beamscribe.model.errors import UserError

# Several values in one parameter, with spaces between them, quoted as in a shell.
SEVERAL = ("input", "include", "exclude", "recaption")
# Options without a value: `true` gives them.
FLAGS = ("hidden", "no_deduplicate")
# Options of Beam's, which are spelled as the parameters are.
BEAMS = ("sdk_container_image",)


def parameters() -> list[str]:
    """The names of the template's parameters."""
    metadata = json.loads(Path(__file__).with_name("metadata.json").read_text(encoding="utf-8"))
    return [parameter["name"] for parameter in metadata["parameters"]]


def arguments(given: Sequence[str], image: str | None) -> list[str]:
    """The command line of `beamscribe`; a parameter that is empty counts as not given.

    Args:
      given: the launcher's.
      image: of the workers, where none is given.

    Raises:
      UserError: a quotation has no end.
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
                raise UserError(f"{name}: {value}: {error}; quote a quotation mark, as in a shell") from None
        elif value:
            line.append(f"{option}={value}")
    if image and not any(argument.startswith("--sdk_container_image=") for argument in line):
        line.append(f"--sdk_container_image={image}")
    return line


def main() -> int:
    """Runs the command with the launcher's arguments, and returns its exit status."""
    try:
        line = arguments(sys.argv[1:], os.environ.get("BEAMSCRIBE_WORKER_IMAGE"))
    except UserError as error:
        print(f"beamscribe: {error}", file=sys.stderr)
        return 1
    return cli.main(line)


if __name__ == "__main__":
    sys.exit(main())
