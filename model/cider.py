"""CIDEr-D by ids (Vedantam et al. 2015, arXiv:1411.5726, section 6), fast enough to be a reward.

The same formula as pycocoevalcap's, on this package's tokens; no Java.
"""

import collections
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
        self._frequencies: collections.Counter = collections.Counter()
        counted = [[_ngrams(caption) for caption in captions] for captions in references]
        for captions in counted:
            self._frequencies.update(set().union(*captions))
        self._references = [
            [(*self._weigh(ngrams), len(caption)) for ngrams, caption in zip(photo, captions, strict=True)]
            for photo, captions in zip(counted, references, strict=True)
        ]

    def score(self, photo: int, caption: Caption) -> float:
        """CIDEr-D of one caption for the photo at that place of the references: 0 to 10, usually below 1.5."""
        weights, norms = self._weigh(_ngrams(caption))
        similarities = np.zeros(ORDERS)
        for reference, reference_norms, length in self._references[photo]:
            products = np.zeros(ORDERS)
            for ngram, weight in weights.items():
                if ngram in reference:
                    # Clipping: a word said too often earns nothing more.
                    products[len(ngram) - 1] += min(weight, reference[ngram]) * reference[ngram]
            penalty = math.exp(-((len(caption) - length) ** 2) / (2 * SIGMA**2))
            scale = norms * reference_norms
            similarities += penalty * np.divide(products, scale, out=np.zeros(ORDERS), where=scale > 0)
        return float(10 * similarities.mean() / max(len(self._references[photo]), 1))

    def mean(self, captions: Sequence[Caption]) -> float:
        """The corpus score: the mean over all photos, given one caption for each, in their order."""
        return float(np.mean([self.score(photo, caption) for photo, caption in enumerate(captions)]))

    def _weigh(self, ngrams: collections.Counter) -> tuple[dict, np.ndarray]:
        """TF-IDF weight of each n-gram, and the norm of the weights for each n."""
        weights = {}
        squares = np.zeros(ORDERS)
        for ngram, count in ngrams.items():
            weight = count * (self._documents - math.log(max(self._frequencies[ngram], 1)))
            weights[ngram] = weight
            squares[len(ngram) - 1] += weight * weight
        return weights, np.sqrt(squares)


def _ngrams(caption: Caption) -> collections.Counter:
    """Counts all n-grams, n from 1 to `ORDERS`."""
    caption = tuple(caption)
    return collections.Counter(
        caption[start : start + n] for n in range(1, ORDERS + 1) for start in range(len(caption) - n + 1)
    )
