"""Cross-entropy training: each next word of the captions that people wrote."""

from collections.abc import Iterable, Iterator

import numpy as np

from beamscribe.model.recipe import CrossEntropy
from beamscribe.model.training.targets import choose, mean_weights, shift_right
from beamscribe.model.words.vocabulary import PAD


def batches(
    examples: Iterable[tuple[np.ndarray, np.ndarray]],
    targets: np.ndarray,
    phase: CrossEntropy,
    generators: Iterable[np.random.Generator],
) -> Iterator[tuple]:
    """Turns photos into steps of training.

    Args:
      examples: batches of features and of the photos' places in `targets`.
      targets: every photo's captions, `[photos, captions, slots]`, int32, padded with `PAD`.
      phase: number of captions of each photo.
      generators: one a step; chooses the captions.

    Yields:
      Inputs (features and ids), targets and weights of `[batch, captions, slots]`.
    """
    for (features, places), generator in zip(examples, generators, strict=False):
        chosen = targets[places]
        # Elsewhere a photo may have more captions than all of these, and the rows for them are empty here.
        chosen = chosen[:, : int((chosen[..., 0] != PAD).sum(axis=1).max())]
        if phase.captions:
            places_of_captions = choose(chosen, phase.captions, generator)
            chosen = np.take_along_axis(chosen, places_of_captions[..., None], axis=1)
        # The loss is a mean over all that is in a batch: weights that sum to 1 must be scaled by its size.
        yield (np.asarray(features), shift_right(chosen)), chosen, mean_weights(chosen) * chosen.size
