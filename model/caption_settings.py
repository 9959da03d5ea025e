"""How captions are written: what the caller may choose for each call of a model, and the randomness of drawing."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class CaptionSettings(NamedTuple):
    """What the caller may choose for each call of the model.

    Attributes:
      beam_width: captions that beam search keeps at each step.
      max_length: most words in a caption.
      min_length: fewest words in a caption.
      length_penalty: how much beam search favours long captions (Wu et al. 2016, arXiv:1609.08144, equation 14).
      no_repeat_ngram: no sequence of so many words occurs twice in a caption; 0 allows all.
      top_p: above 0, captions are drawn, not searched for: from the most probable words that together have this
        probability (Holtzman et al. 2020, arXiv:1904.09751).
      temperature: of the drawing; above 1 for more varied captions.
      seed: of the drawing.
    """

    beam_width: int
    max_length: int
    min_length: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram: int = 0
    top_p: float = 0.0
    temperature: float = 1.0
    seed: int = 0

    @property
    def idle(self) -> frozenset[str]:
        """The fields that change nothing: those of drawing in a search, and the other way round."""
        return _OF_SEARCH if self.top_p else _OF_DRAWING

    @property
    def fingerprint(self) -> str:
        """A short text that is equal for settings that write the same captions."""
        return ",".join(f"{name}={value}" for name, value in self._asdict().items() if name not in self.idle)


_OF_SEARCH = frozenset(("beam_width", "length_penalty"))
_OF_DRAWING = frozenset(("top_p", "temperature", "seed"))


def draws(names: Sequence[str], settings: CaptionSettings, captions: int, longest: int) -> np.ndarray | None:
    """Makes the randomness of drawing captions, which depends on the seed and on each photo's name alone.

    A photo's captions are thus the same in any batch, shard and run.

    Args:
      names: of the photos of a batch.
      settings: whether to draw at all, and the seed.
      captions: how many to draw for each photo.
      longest: most words that a caption of the model can have.

    Returns:
      `[batch, captions, longest + 1]`, float32, in [0, 1); None where captions are searched for.
    """
    if not settings.top_p:
        return None
    digests = [hashlib.sha256(f"{settings.seed} {name}".encode(errors="surrogatepass")).digest() for name in names]
    generators = [np.random.default_rng(int.from_bytes(digest, "little")) for digest in digests]
    return np.stack([generator.random((captions, longest + 1), np.float32) for generator in generators])
