"""The options that say how captions are written, for every command that writes captions."""

import argparse
from typing import Any

# Fields of `beamscribe.model.caption_settings.CaptionSettings`, which checks their values.
_SEARCH = {
    "beam_width": (int, "number of captions that beam search keeps"),
    "max_length": (int, "largest number of words in a caption"),
    "min_length": (int, "smallest number of words in a caption"),
    "length_penalty": (float, "how much beam search favours long captions"),
    "no_repeat_ngram": (int, "never repeat a sequence of N words in a caption; 0 allows it"),
}
_SAMPLING = {
    "top_p": (float, "draw words at random from the most probable ones, whose probabilities add up to X (off)"),
    "temperature": (float, "with --top-p: temperature, above 1 for more varied captions (1)"),
    "seed": (int, "with --top-p: seed of the random numbers (0)"),
}


def add_arguments(parser: argparse.ArgumentParser) -> Any:
    """Adds the options; where one is not given, the setting of the bundle counts.

    Returns:
      The group of the options that say how to caption, to which others can be added.
    """
    from beamscribe.model import bundle

    path = bundle.DEFAULT / bundle.DESCRIPTION
    settings = bundle.Description.from_json(path.read_bytes(), str(path)).settings
    group = parser.add_argument_group(
        "how to caption", "The defaults are those of the bundle in the package; another bundle has its own."
    )
    group.add_argument(
        "--bundle",
        metavar="DIR[@sha256:DIGEST]",
        help="folder of a model bundle, local or, with its digest, gs:// (the bundle in the package)",
    )
    for name, (kind, text) in _SEARCH.items():
        _add(group, name, kind, f"{text} ({getattr(settings, name):g})")
    return group


def add_rare_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of sampling."""
    group = parser.add_argument_group("captions drawn at random, rarely needed")
    for name, (kind, text) in _SAMPLING.items():
        _add(group, name, kind, text)


def given(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that the options give, by their names."""
    return {name: value for name in (*_SEARCH, *_SAMPLING) if (value := getattr(options, name)) is not None}


def _add(group: Any, name: str, kind: type, text: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    group.add_argument(flag, type=kind, metavar="N" if kind is int else "X", help=text)
