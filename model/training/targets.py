"""Captions as ids to predict, and how much each weighs."""

from collections.abc import Sequence

import numpy as np

from beamscribe.model.words.vocabulary import END, PAD, START, Vocabulary


def training_targets(captions: Sequence[Sequence[Sequence[str]]], vocabulary: Vocabulary, max_words: int) -> np.ndarray:
    """The targets of teacher forcing.

    Args:
      captions: the tokenized captions of each photo.
      vocabulary: the words that have ids.
      max_words: longer captions are cut one word after it, and then have no end.

    Returns:
      Ids `[photos, captions, max_words + 1]`, int32, which end with `END`, padded with `PAD`. Photos with fewer
      captions than the most have empty ones, all `PAD`.
    """
    most = max(len(photo) for photo in captions)
    targets = np.full((len(captions), most, max_words + 1), PAD, np.int32)
    for place, photo in enumerate(captions):
        for row, tokens in enumerate(photo):
            ids = [*vocabulary.encode(tokens), END][: max_words + 1]
            targets[place, row, : len(ids)] = ids
    return targets


def shift_right(targets: np.ndarray) -> np.ndarray:
    """The inputs that go with targets `[…, length]`: `START`, then each target but the last."""
    inputs = np.roll(targets, 1, axis=-1)
    inputs[..., 0] = START
    # What follows the end is never trained on; padding keeps it one id.
    inputs[inputs == END] = PAD
    return inputs


def choose(targets: np.ndarray, captions: int, generator: np.random.Generator) -> np.ndarray:
    """Draws some captions of each photo, without repetition.

    Empty ones, of photos with fewer captions than the most, come only where there are no others, and weigh nothing.

    Args:
      targets: `[photos, captions, length]`.
      captions: how many to draw of each photo; where there are no more, all are drawn.
      generator: draws them.

    Returns:
      Their places in each photo's row, `[photos, captions]`.
    """
    keys = generator.random(targets.shape[:2]) + (targets[..., 0] == PAD)
    return np.argsort(keys, axis=1)[:, :captions]


def mean_weights(targets: np.ndarray) -> np.ndarray:
    """Equal weights that sum to 1 over all targets but padding, float32, of the targets' shape."""
    present = (targets != PAD).astype(np.float32)
    return present / max(present.sum(), 1.0)
