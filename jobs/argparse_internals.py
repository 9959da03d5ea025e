"""The parts of argparse that are not its public interface; tests/test_private_parts.py watches them."""

import argparse


def names_in(parser: argparse.ArgumentParser) -> set[str]:
    """All options of a parser, in all their spellings, such as `--runner`; argparse itself only prints them."""
    return {name for action in parser._actions for name in action.option_strings}
