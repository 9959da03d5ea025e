"""The options that say how captions are written, for every command that writes some."""

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from beamscribe.model.bundle import CaptionSettings, Description


class _Option(NamedTuple):
    kind: type
    help: str
    must_be: str
    allows: Callable[[float], bool]


# The fields of `beamscribe.model.bundle.CaptionSettings`.
_OPTIONS = {
    "beam_width": _Option(int, "captions that beam search keeps (3)", "at least 1", lambda n: n >= 1),
    "max_length": _Option(int, "most words in a caption (20)", "at least 1", lambda n: n >= 1),
    "min_length": _Option(int, "fewest words in a caption (1)", "at least 1", lambda n: n >= 1),
    "length_penalty": _Option(
        float, "how much beam search favours long captions (1)", "from 0 to 10", lambda x: 0 <= x <= 10
    ),
    "no_repeat_ngram": _Option(int, "write no N words in a row twice (0: allowed)", "at least 0", lambda n: n >= 0),
    "top_p": _Option(
        float,
        "draw captions, from the likeliest words up to this probability",
        "above 0, up to 1",
        lambda x: 0 < x <= 1,
    ),
    "temperature": _Option(
        float, "with --top-p: above 1 for more varied captions (1)", "above 0", lambda x: 0 < x < math.inf
    ),
    "seed": _Option(int, "with --top-p: another one for other captions (0)", "at least 0", lambda n: n >= 0),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options; what is not given stays as the bundle has it."""
    for name, option in _OPTIONS.items():
        parser.add_argument(_flag(name), type=option.kind, metavar="N" if option.kind is int else "X", help=option.help)


def given(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, by the names of the settings."""
    return {name: getattr(options, name) for name in _OPTIONS if getattr(options, name) is not None}


def chosen(options: argparse.Namespace, model: "Description") -> "CaptionSettings":
    """A model's settings with what was asked for.

    Raises:
      UserError: an option is out of range, or says nothing beside the others.
    """
    from beamscribe.model.errors import UserError

    asked = given(options)
    for name, value in asked.items():
        if not _OPTIONS[name].allows(value):
            raise UserError(f"{_flag(name)} {value}: must be {_OPTIONS[name].must_be}")
    settings = model.settings._replace(**asked)
    for name in asked:
        if name in settings.idle:
            other = "beam search only: leave it or --top-p out" if settings.top_p else "drawing only: give --top-p, too"
            raise UserError(f"{_flag(name)} is for {other}")
    if settings.max_length > model.longest:
        raise UserError(f"--max-length {settings.max_length}: the model writes at most {model.longest} words")
    if settings.min_length > settings.max_length:
        raise UserError(f"--min-length {settings.min_length}: must be at most --max-length, {settings.max_length}")
    if asked.get("no_repeat_ngram", 0) > model.longest:
        raise UserError(f"--no-repeat-ngram {settings.no_repeat_ngram}: the model writes at most {model.longest} words")
    return settings


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
