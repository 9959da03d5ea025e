"""Words: from a caption's text to tokens, and from tokens to ids and back."""

import string
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

# The first ids of every vocabulary.
PAD, START, END, UNKNOWN = range(4)
SPECIALS = ("<pad>", "<start>", "<end>", "<unk>")

# Of all scripts: the categories P of Unicode, and what else ASCII has.
_PUNCTUATION = string.punctuation + "".join(
    character for character in map(chr, range(0x80, 0x10000)) if unicodedata.category(character).startswith("P")
)
_CLITICS = frozenset(("'s", "'re", "'ve", "'ll", "'d", "'m", "'t"))


def tokenize(text: str) -> list[str]:
    """Splits a caption into lower-case words, without the punctuation around them.

    Punctuation inside a word (`t-shirt`) and clitics that stand alone (`'s`) stay.
    """
    tokens = []
    for piece in text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split():
        word = piece if piece in _CLITICS else piece.strip(_PUNCTUATION)
        if word:
            # Millions of captions consist of some thousand words.
            tokens.append(sys.intern(word))
    return tokens


class Vocabulary:
    """The words that a decoder knows, in the order of their ids, the four specials first."""

    def __init__(self, words: Sequence[str]):
        if tuple(words[: len(SPECIALS)]) != SPECIALS:
            raise ValueError(f"a vocabulary starts with {' '.join(SPECIALS)}")
        self.words = tuple(words)
        self._ids = {word: index for index, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], min_count: int) -> "Vocabulary":
        """Takes the words that were seen at least `min_count` times, the most frequent first."""
        kept = sorted((word for word, count in counts.items() if count >= min_count), key=lambda w: (-counts[w], w))
        return cls((*SPECIALS, *kept))

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Reads a file that `save` wrote."""
        return cls(path.read_text(encoding="utf-8").splitlines())

    def save(self, path: Path) -> None:
        """Writes one word a line."""
        path.write_text("".join(f"{word}\n" for word in self.words), encoding="utf-8")

    def written(self) -> tuple[str, ...]:
        """The words proper, without the specials."""
        return self.words[len(SPECIALS) :]

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """Ids of the tokens; `UNKNOWN` for words that are not in the vocabulary."""
        return [self._ids.get(token, UNKNOWN) for token in tokens]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Words up to the first `END`, without specials."""
        words = []
        for index in ids:
            if index == END:
                break
            if index >= len(SPECIALS):
                words.append(self.words[index])
        return words
