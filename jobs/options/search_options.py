"""The options that say how captions are written, for every command that writes captions."""

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from beamscribe.model.bundle import Description
    from beamscribe.model.caption_settings import CaptionSettings


class _Option(NamedTuple):
    kind: type
    help: str
    must_be: str
    allows: Callable[[float], bool]


# The fields of `beamscribe.model.caption_settings.CaptionSettings`.
_OPTIONS = {
    "beam_width": _Option(
        int, "number of captions that beam search keeps (the bundle's)", "at least 1", lambda n: n >= 1
    ),
    "max_length": _Option(int, "largest number of words in a caption (the bundle's)", "at least 1", lambda n: n >= 1),
    "min_length": _Option(int, "smallest number of words in a caption (the bundle's)", "at least 1", lambda n: n >= 1),
    "length_penalty": _Option(
        float, "how much beam search favours long captions (the bundle's)", "from 0 to 10", lambda x: 0 <= x <= 10
    ),
    "no_repeat_ngram": _Option(
        int,
        "never repeat a sequence of N words in a caption; 0 allows it (the bundle's)",
        "at least 0",
        lambda n: n >= 0,
    ),
    "top_p": _Option(
        float,
        "draw words at random from the most probable ones, whose probabilities add up to X",
        "above 0, up to 1",
        lambda x: 0 < x <= 1,
    ),
    "temperature": _Option(
        float, "with --top-p: temperature, above 1 for more varied captions (1)", "above 0", lambda x: 0 < x < math.inf
    ),
    "seed": _Option(int, "with --top-p: seed of the random numbers (0)", "at least 0", lambda n: n >= 0),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options; where one is not given, the setting of the bundle counts."""
    for name, option in _OPTIONS.items():
        parser.add_argument(_flag(name), type=option.kind, metavar="N" if option.kind is int else "X", help=option.help)


def given(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that the options give, by their names."""
    return {name: getattr(options, name) for name in _OPTIONS if getattr(options, name) is not None}


def chosen(options: argparse.Namespace, model: "Description") -> "CaptionSettings":
    """A model's settings, changed as the options ask.

    Raises:
      BeamscribeError: an option is out of range, or has no effect together with the others.
    """
    from beamscribe.model.errors import BeamscribeError

    asked = given(options)
    for name, value in asked.items():
        if not _OPTIONS[name].allows(value):
            raise BeamscribeError(f"{_flag(name)} {value}: must be {_OPTIONS[name].must_be}")
    settings = model.settings._replace(**asked)
    for name in asked:
        if name in settings.idle:
            raise BeamscribeError(
                f"{_flag(name)} has no effect with --top-p; leave out one of the two"
                if settings.top_p
                else f"{_flag(name)} has no effect without --top-p; give --top-p, too"
            )
    if settings.max_length > model.longest:
        raise BeamscribeError(f"--max-length {settings.max_length}: the model writes at most {model.longest} words")
    if settings.min_length > settings.max_length:
        raise BeamscribeError(
            f"--min-length {settings.min_length}: must be at most --max-length, {settings.max_length}"
        )
    if asked.get("no_repeat_ngram", 0) > model.longest:
        raise BeamscribeError(
            f"--no-repeat-ngram {settings.no_repeat_ngram}: the model writes at most {model.longest} words"
        )
    return settings


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
