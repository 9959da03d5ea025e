"""The private part of Beam's `RunInference` that is used here; tests/test_private_parts.py watches it."""

import resource

from apache_beam.ml.inference import base


def let_beam_measure_memory() -> None:
    """Gives Beam the module `resource`, with which it measures how much memory a model takes.

    Where Beam can't import PyTorch, it takes it that this module is missing, too, and warns twice for each model.
    """
    if base.resource is None:
        base.resource = resource
