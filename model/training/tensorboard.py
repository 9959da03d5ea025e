"""TensorBoard logs of one phase of a training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import tensorflow as tf


class Log:
    """Writes the figures of each epoch.

    Args:
      folder: of the logs.
    """

    def __init__(self, folder: Path):
        self._writer = tf.summary.create_file_writer(str(folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, figures: Mapping[str, Any]) -> None:
        """Writes the figures of an epoch, as they are in the history."""
        with self._writer.as_default(figures["epoch"]):
            for name, figure in figures.items():
                if isinstance(figure, float | int) and name != "epoch":
                    tf.summary.scalar(name, figure)
