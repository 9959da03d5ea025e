"""What is printed to a terminal."""


def printable(text: str) -> str:
    """The text without what would move a terminal's cursor or change its colours."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
