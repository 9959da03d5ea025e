"""All that is used of Keras beyond its documented interface, each part with the reason why.

`tests/test_private_parts.py` fails where a new version of Keras changes any of it.
"""

import sys
from collections.abc import Callable, Hashable
from typing import Any

import keras

from beamscribe.model.tensors import Tensor


def variable_key(optimizer: keras.optimizers.Optimizer, variable: Any) -> Hashable:
    """A key that is equal for a Keras variable and for the backend's variable of it that an optimizer updates.

    `update_step` is given the backend's variables, on several devices one device's copy of them, which know nothing of
    the Keras variables that they belong to. The optimizer looks its own slots up by this key.

    Args:
      optimizer: of the backend that the variable is of.
      variable: a `keras.Variable`, or what `update_step` is given.
    """
    return optimizer._var_key(variable)


def never_compile_by_xla(model: keras.Model) -> None:
    """Keeps Keras from compiling a model, or one that holds it, by XLA.

    `compile(jit_compile=False)` says so for one model alone, and not for those that hold it, such as a search.
    """
    model.supports_jit = False


def preprocessing_of(classifier: Callable[..., keras.Model]) -> Callable[[Tensor], Tensor]:
    """The `preprocess_input` of a classifier of `keras.applications`.

    It is found in the module that defines the classifier, which the documented modules beside it are not for all:
    `keras.applications.mobilenet_v3` has the preprocessing, but neither of its classifiers.
    """
    return sys.modules[classifier.__module__].preprocess_input
