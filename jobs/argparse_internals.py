"""The parts of argparse that are not its public interface; tests/test_private_parts.py watches them."""

import argparse


def names_in(parser: argparse.ArgumentParser) -> set[str]:
    """All options of a parser, in all their spellings, such as `--runner`; argparse itself only prints them."""
    return {name for action in parser._actions for name in action.option_strings}


def required_in(parser: argparse.ArgumentParser) -> set[str]:
    """The options of a parser that must be given, in all their spellings."""
    return {name for action in parser._actions if action.required for name in action.option_strings}
