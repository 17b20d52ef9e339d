"""Rows one at a time, through the model's own cache: for models that cannot share a flat pass.

These are models with layers that carry a state (convolutions, linear attention, state spaces),
with positions that hang on the longest row of a pass, or with code of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache


class SoloMemory:
    """A cache of Transformers, and the tokens it has seen.

    Args:
        config: The model's own.
        can_cut: Whether the cache can forget its last tokens.
    """

    def __init__(self, config: Any, *, can_cut: bool) -> None:
        self.ids: list[int] = []
        self.cache = DynamicCache(config=config)
        self.can_cut = can_cut

    def commit(self, ids: Sequence[int]) -> None:
        """Say which tokens the cache has just seen."""
        self.ids.extend(ids)

    def cut(self, count: int) -> None:
        """Forget all but the first `count` tokens."""
        self.cache.crop(count)
        del self.ids[count:]

    def copy(self, count: int) -> SoloMemory:
        """A memory of its own of the first `count` tokens."""
        other = copy.deepcopy(self)
        if count < len(other.ids):
            other.cut(count)
        return other

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in the cache, as far as its layers show them."""
        tensors = (
            value
            for layer in self.cache.layers
            for value in vars(layer).values()
            if isinstance(value, torch.Tensor)
        )
        return sum(tensor.nbytes for tensor in tensors)
