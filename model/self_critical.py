"""Self-critical sequence training: sampled captions, rewarded with CIDEr-D (Rennie et al. 2017, arXiv:1612.00563).

The baseline of each sample is the mean reward of the photo's other samples (Luo 2020, arXiv:2003.09971).
"""

from collections.abc import Iterable, Iterator

import numpy as np

from model.cider import CiderD
from model.dataset import shift_right
from model.recipe import SelfCritical
from model.search import Sampler
from model.vocabulary import END, PAD


def batches(
    examples: Iterable[tuple[np.ndarray, np.ndarray]],
    sampler: Sampler,
    targets: np.ndarray,
    reward: CiderD,
    phase: SelfCritical,
    generator: np.random.Generator,
) -> Iterator[tuple]:
    """Turns photos into steps of training: sampled captions, weighed by how much better they are than the others.

    Args:
      examples: batches of features and of the photos' places in `targets`.
      sampler: draws `phase.samples` captions a photo from the decoder that is being trained.
      targets: every photo's reference captions, `[photos, captions, slots]`, int32, padded with `PAD`.
      reward: made over the same references, as `sentences` gives them.
      phase: number of references and their share of the loss.
      generator: chooses the references.

    Yields:
      Inputs (features and ids), targets and weights of `[batch, samples + references, slots]`.
    """
    for features, places in examples:
        features, places = np.asarray(features), np.asarray(places)
        sampled = np.asarray(sampler.predict_on_batch(features))
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
            # Empty references, of photos with fewer captions than the most, weigh nothing.
            picks = generator.permuted(np.tile(np.arange(targets.shape[1]), (len(places), 1)), axis=1)
            references = targets[places[:, None], picks[:, : phase.references]]
            chosen = np.concatenate([sampled, references], axis=1)
            weights = np.concatenate([weights, phase.reference_share * mean_weights(references)], axis=1)
        # The loss is a mean over all that is in a batch: weights that sum to 1 must be scaled by its size.
        yield (features, shift_right(chosen)), chosen, (weights * chosen.size).astype(np.float32)


def sentences(ids: np.ndarray) -> list[tuple[int, ...]]:
    """The captions of rows of ids, the end included, so that a caption is rewarded for ending well."""
    return [tuple(row[: _length(row)].tolist()) for row in ids if row[0] != PAD]


def mean_weights(targets: np.ndarray) -> np.ndarray:
    """Equal weights that sum to 1 over all targets but padding."""
    present = (targets != PAD).astype(np.float32)
    return present / max(present.sum(), 1.0)


def _length(row: np.ndarray) -> int:
    ends = np.flatnonzero(row == END)
    return int(ends[0]) + 1 if len(ends) else int((row != PAD).sum())
