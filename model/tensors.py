"""The name of tensors in signatures."""

from typing import Any, TypeAlias

Tensor: TypeAlias = Any
"""A tensor of Keras' backend, a symbolic one, or an array that Keras turns into one; docstrings say shape and type."""
