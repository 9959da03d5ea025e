"""Where training runs: the CPU, a GPU, or several GPUs, each with a copy of the weights."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from beamscribe.model.errors import InputError


class Devices:
    """The devices that share each step of a training.

    On GPUs, layers compute in bfloat16 and keep their weights in float32; it has float32's range, so that no loss
    need be scaled (Kalamkar et al. 2019, arXiv:1905.12322).

    Args:
      number: how many to use; None for one where there is one.
      kind: of device, `GPU` or, to try things out, `CPU`.

    Raises:
      InputError: there are not so many.
    """

    def __init__(self, number: int | None = None, kind: str = "GPU"):
        names = [device.name for device in tf.config.list_logical_devices(kind)]
        if number is not None and number < 1:
            raise InputError(f"`gpus` {number}: give 1 or more; without it, training takes one if there is one")
        if number is not None and number > len(names):
            found = f"{len(names) or 'no'} {kind}{'' if len(names) == 1 else 's'}"
            raise InputError(f"`gpus` {number}: TensorFlow sees {found} on this machine")
        names = names[: number or 1]
        self._strategy = tf.distribute.MirroredStrategy(names) if len(names) > 1 else tf.distribute.get_strategy()
        self._precision = "mixed_bfloat16" if names and kind == "GPU" else "float32"

    @property
    def count(self) -> int:
        """How many there are: batches must be a multiple of it."""
        return self._strategy.num_replicas_in_sync

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Where what is trained must be made, for its variables to be on all devices."""
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self._precision)
        try:
            with self._strategy.scope():
                yield
        finally:
            keras.config.set_dtype_policy(before)

    def share_steps(self, model: keras.Model) -> None:
        """Makes each device take an equal part of every batch that the model trains on or predicts.

        Keras gives a whole batch to all of them, but for those of its own `fit`.
        """
        if self.count > 1:
            for name in ("train_step", "predict_step"):
                setattr(model, name, _of_own_part(getattr(model, name)))


def _of_own_part(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def step_of_own_part(batch: Any) -> Any:
        context = tf.distribute.get_replica_context()
        place, devices = context.replica_id_in_sync_group, context.num_replicas_in_sync

        def part(array: tf.Tensor) -> tf.Tensor:
            photos = tf.shape(array)[0] // devices
            return array[place * photos : (place + 1) * photos]

        return step(keras.tree.map_structure(part, batch))

    return step_of_own_part
