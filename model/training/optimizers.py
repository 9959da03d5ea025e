"""The optimizer of a phase of training."""

from collections.abc import Iterable
from typing import Any

import keras

from beamscribe.model import keras_internals
from beamscribe.model.decoders.base import Decoder
from beamscribe.model.recipe import Phase
from beamscribe.model.tensors import Tensor
from beamscribe.model.training.photo_decoder import PhotoDecoder


class AdamW(keras.optimizers.AdamW):
    """AdamW with another learning rate for some variables.

    Args:
      slow: those variables.
      scale: what their learning rate is multiplied with.
    """

    def __init__(self, *args: Any, slow: Iterable[keras.Variable], scale: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._slow = {keras_internals.variable_key(self, variable) for variable in slow}
        self._scale = scale

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        """As the base class says, with the variable's own learning rate."""
        slow = keras_internals.variable_key(self, variable) in self._slow
        super().update_step(gradient, variable, learning_rate * self._scale if slow else learning_rate)


def of(phase: Phase, steps: int, network: Decoder) -> keras.optimizers.Optimizer:
    """AdamW with warm-up and cosine decay (Loshchilov and Hutter 2017, 2019), averaged weights and clipped gradients.

    Args:
      phase: of a recipe.
      steps: of an epoch.
      network: what it is to train; a trained encoder has a learning rate of its own.
    """
    warm = phase.warmup_steps > 0
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warm else phase.learning_rate,
        decay_steps=max(phase.epochs * steps - phase.warmup_steps, 1),
        alpha=phase.final_learning_rate,
        warmup_target=phase.learning_rate if warm else None,
        warmup_steps=phase.warmup_steps,
    )
    encoder = network.photo_encoder.trainable_variables if isinstance(network, PhotoDecoder) else []
    optimizer = AdamW(
        schedule,
        beta_2=0.98,
        weight_decay=phase.weight_decay,
        global_clipnorm=phase.clip_norm,
        use_ema=phase.weight_average > 0,
        ema_momentum=phase.weight_average,
        slow=encoder,
        scale=phase.encoder_learning_rate / phase.learning_rate,
    )
    # Biases and normalisations are few and have no reason to be small; an encoder's weights have proved their worth.
    small = [variable for variable in network.trainable_variables if len(variable.shape) < 2]
    optimizer.exclude_from_weight_decay(var_list=[*small, *encoder])
    return optimizer
