"""Self-critical sequence training: sampled captions, rewarded with CIDEr-D (Rennie et al. 2017, arXiv:1612.00563).

The baseline of each sample is the mean reward of the photo's other samples (Luo 2020, arXiv:2003.09971).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from beamscribe.model.recipe import SelfCritical
from beamscribe.model.search import Sampler
from beamscribe.model.training.cider import CiderD
from beamscribe.model.training.targets import choose, mean_weights, shift_right
from beamscribe.model.words.vocabulary import END, PAD, UNKNOWN


def batches(
    examples: Iterable[tuple[np.ndarray, np.ndarray]],
    sampler: Sampler,
    targets: np.ndarray,
    reward: CiderD,
    phase: SelfCritical,
    generators: Iterable[np.random.Generator],
) -> Iterator[tuple]:
    """Turns photos into steps of training: sampled captions, weighed by how much better they are than the others.

    Args:
      examples: batches of features and of the photos' places in `targets`.
      sampler: draws `phase.samples` captions a photo from the decoder that is being trained.
      targets: every photo's reference captions, `[photos, captions, slots]`, int32, padded with `PAD`.
      reward: made over the same references, as `sentences` gives them.
      phase: number of references and their share of the loss.
      generators: one a step; draws the captions and chooses the references.

    Yields:
      Inputs (features and ids), targets and weights of `[batch, samples + references, slots]`.
    """
    slots = targets.shape[-1]
    for (features, places), generator in zip(examples, generators, strict=False):
        features, places = np.asarray(features), np.asarray(places)
        uniforms = generator.random((len(places), phase.samples, slots), np.float32)
        sampled = np.asarray(sampler.predict_on_batch((features, uniforms)))
        rewards = np.array(
            [
                [reward.score(place, caption) for caption in sentences(ids)]
                for place, ids in zip(places, sampled, strict=True)
            ]
        )
        others = (rewards.sum(axis=1, keepdims=True) - rewards) / (phase.samples - 1)
        weights = (1 - phase.reference_share) * (rewards - others)[..., None] * mean_weights(sampled)
        chosen = sampled
        if phase.references:
            picks = choose(targets[places], phase.references, generator)
            references = targets[places[:, None], picks]
            chosen = np.concatenate([sampled, references], axis=1)
            # What a reference has and captions can't have is not learned.
            written = np.where(references == UNKNOWN, PAD, references)
            weights = np.concatenate([weights, phase.reference_share * mean_weights(written)], axis=1)
        # The loss is a mean over all that is in a batch: weights that sum to 1 must be scaled by its size.
        yield (features, shift_right(chosen)), chosen, (weights * chosen.size).astype(np.float32)


def sentences(ids: np.ndarray) -> list[tuple[int, ...]]:
    """The captions of rows of ids, the end included, so that a caption is rewarded for ending well."""
    return [tuple(row[: _length(row)].tolist()) for row in ids if row[0] != PAD]


class References(Sequence):
    """The reference captions of every photo, as `sentences` gives them, made when they are asked for.

    Args:
      targets: `[photos, captions, slots]`, int32, padded with `PAD`.
    """

    def __init__(self, targets: np.ndarray):
        self._targets = targets

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, photo: Any) -> list[tuple[int, ...]]:
        return sentences(self._targets[photo])


def _length(row: np.ndarray) -> int:
    ends = np.flatnonzero(row == END)
    return int(ends[0]) + 1 if len(ends) else int((row != PAD).sum())
