"""Keys and values of a conversation's tokens: what a model remembers of a prefix.

Each row of a batch has a memory of its own, one contiguous tensor for a layer's keys and one for
its values. A finished row's memory is kept (`engine.prefix`) and continued by the next turn of the
same conversation, without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_GROWTH = 256
"""Tokens that a memory grows by at least; growing copies, so it is not done for every token."""


class Memory:
    """Keys and values of one row, layer by layer, and the tokens they are of.

    Axes: g key/value heads, c capacity in tokens, d head dimension.
    """

    def __init__(self) -> None:
        self.ids: list[int] = []
        """Tokens whose keys and values are held in every layer."""
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}

    def extend(
        self, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put a layer's keys and values behind those held; `commit` makes them part of the memory.

        Args:
            layer: Number of the layer.
            key: (g, n, d).
            value: (g, n, d of values).

        Returns:
            Keys and values of the tokens held and of the new ones, (g, held + n, d) each; views.
        """
        start = len(self.ids)
        end = start + key.shape[1]
        for store, new in ((self._keys, key), (self._values, value)):
            held = store.get(layer)
            if held is None or held.shape[1] < end:
                held = store[layer] = _grown(held, start, end, new)
            held[:, start:end] = new
        return self._keys[layer][:, :end], self._values[layer][:, :end]

    def commit(self, ids: Sequence[int]) -> None:
        """Say which tokens the last `extend` of every layer was for, once the pass is whole.

        A pass that failed is not committed; the next one writes over what it left.
        """
        self.ids.extend(ids)

    can_cut = True
    """Any number of its first tokens can go on by themselves."""

    def cut(self, count: int) -> None:
        """Forget all but the first `count` tokens."""
        del self.ids[count:]

    def copy(self, count: int) -> Memory:
        """A memory of its own of the first `count` tokens."""
        other = Memory()
        other.ids = self.ids[:count]
        for mine, theirs in ((self._keys, other._keys), (self._values, other._values)):
            for layer, held in mine.items():
                theirs[layer] = _grown(held, count, count, held)
        return other

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(held.nbytes for store in (self._keys, self._values) for held in store.values())


def _grown(held: torch.Tensor | None, used: int, needed: int, like: torch.Tensor) -> torch.Tensor:
    """Room for `needed` tokens and some more, beginning with the `used` first ones of `held`."""
    room = (needed // _GROWTH + 1) * _GROWTH
    made = like.new_empty((like.shape[0], room, like.shape[2]))
    if held is not None:
        made[:, :used] = held[:, :used]
    return made
