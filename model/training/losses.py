"""Losses of logits against word ids, one number an id."""

import keras
import numpy as np
from keras import ops

from beamscribe.model.recipe import CrossEntropy, Phase
from beamscribe.model.search import IMPOSSIBLE, NO_WORD
from beamscribe.model.tensors import Tensor


class SmoothedLoss(keras.losses.Loss):
    """Cross-entropy of each id, with label smoothing (Szegedy et al. 2016, section 7)."""

    def __init__(self, label_smoothing: float):
        super().__init__(name="cross_entropy")
        self._smoothing = label_smoothing

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The loss of each id of `y_true`, `[…]`, by its logits, `[…, vocabulary]`."""
        if not self._smoothing:
            return ops.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        # Dense targets, for TensorFlow's fused loss: a sum of separate terms takes a third of the step's time.
        size = y_pred.shape[-1]
        targets = (1 - self._smoothing) * ops.one_hot(y_true, size, dtype=y_pred.dtype) + self._smoothing / size
        return ops.categorical_crossentropy(targets, y_pred, from_logits=True)


class WrittenLoss(keras.losses.Loss):
    """Cross-entropy among the words that can be written: those that sampling draws from.

    The others are never drawn, so that no reward would ever hold their probability down, and it would grow.
    """

    def __init__(self) -> None:
        super().__init__(name="cross_entropy")

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The loss of each id of `y_true`, `[…]`, by its logits, `[…, vocabulary]`."""
        no_word = np.isin(np.arange(y_pred.shape[-1]), NO_WORD)
        return ops.sparse_categorical_crossentropy(y_true, ops.where(no_word, IMPOSSIBLE, y_pred), from_logits=True)


def of(phase: Phase) -> keras.losses.Loss:
    """The loss of a phase of a recipe."""
    return SmoothedLoss(phase.label_smoothing) if isinstance(phase, CrossEntropy) else WrittenLoss()
