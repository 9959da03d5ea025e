"""CIDEr-D by ids (Vedantam et al. 2015, arXiv:1411.5726, section 6), fast enough to be a reward.

The same formula as pycocoevalcap's, on this package's tokens; no Java.
"""

import collections
import functools
import math
from collections.abc import Hashable, Sequence

import numpy as np

ORDERS = 4
SIGMA = 6.0

Caption = Sequence[Hashable]


class CiderD:
    """Scores captions against the references of the photos that it was made for.

    Args:
      references: for each photo its tokenized reference captions. Document frequencies are counted
        over these, a photo being a document.
    """

    def __init__(self, references: Sequence[Sequence[Caption]]):
        self._documents = math.log(max(len(references), 2))
        frequencies: collections.Counter = collections.Counter()
        for captions in references:
            frequencies.update(set().union(*map(_ngrams, captions)))
        # What one photo alone has weighs as much as what none has; it is most of them.
        self._frequencies = {ngram: count for ngram, count in frequencies.items() if count > 1}
        self._references = references
        # Weighed references take far more memory than the captions, and a photo's samples are scored in a row.
        self._weighed = functools.lru_cache(maxsize=1)(self._weigh_references)

    def score(self, photo: int, caption: Caption) -> float:
        """CIDEr-D of one caption for the photo at that place of the references: 0 to 10, usually below 1.5."""
        weights, norms = self._weigh(_ngrams(caption))
        similarities = np.zeros(ORDERS)
        references = self._weighed(photo)
        for reference, reference_norms, length in references:
            products = np.zeros(ORDERS)
            for ngram, weight in weights.items():
                if ngram in reference:
                    # Clipping: a word said too often earns nothing more.
                    products[len(ngram) - 1] += min(weight, reference[ngram]) * reference[ngram]
            penalty = math.exp(-((len(caption) - length) ** 2) / (2 * SIGMA**2))
            scale = norms * reference_norms
            similarities += penalty * np.divide(products, scale, out=np.zeros(ORDERS), where=scale > 0)
        return float(10 * similarities.mean() / max(len(references), 1))

    def mean(self, captions: Sequence[Caption]) -> float:
        """The corpus score: the mean over all photos, given one caption for each, in their order."""
        return float(np.mean([self.score(photo, caption) for photo, caption in enumerate(captions)]))

    def _weigh_references(self, photo: int) -> list[tuple[dict, np.ndarray, int]]:
        """Weights, norms and length of each reference of a photo."""
        return [(*self._weigh(_ngrams(caption)), len(caption)) for caption in self._references[photo]]

    def _weigh(self, ngrams: collections.Counter) -> tuple[dict, np.ndarray]:
        """TF-IDF weight of each n-gram, and the norm of the weights for each n."""
        weights = {}
        squares = np.zeros(ORDERS)
        for ngram, count in ngrams.items():
            weight = count * (self._documents - math.log(self._frequencies.get(ngram, 1)))
            weights[ngram] = weight
            squares[len(ngram) - 1] += weight * weight
        return weights, np.sqrt(squares)


def _ngrams(caption: Caption) -> collections.Counter:
    """Counts all n-grams, n from 1 to `ORDERS`."""
    caption = tuple(caption)
    return collections.Counter(
        caption[start : start + n] for n in range(1, ORDERS + 1) for start in range(len(caption) - n + 1)
    )
