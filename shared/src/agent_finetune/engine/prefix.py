"""What finished conversations leave behind, so that their next turn need not be computed again.

The longest common token prefix of a prompt with any of them is used. Memories made with one
adapter say nothing of another's, so each is filed under its revision.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

_LEAST = 8
"""Shortest common prefix, in tokens, that is worth a copy."""
_TAIL = 64
"""Longest end of a conversation that is given up when the rest of it goes on, in tokens.

Templates print past turns a little differently from how they were said. A longer rest is another
conversation that began the same way, and is left in place."""


class Remembered(Protocol):
    """A memory, however a model's cache is built (`engine.memory`, `engine.solo`)."""

    @property
    def ids(self) -> Sequence[int]: ...

    @property
    def nbytes(self) -> int: ...

    @property
    def can_cut(self) -> bool: ...

    def cut(self, count: int) -> None: ...

    def copy(self, count: int) -> Remembered: ...


M = TypeVar("M", bound=Remembered)


class PrefixStore:
    """Memories of finished conversations, the least recently used given up first.

    Args:
        limit: Most bytes to hold.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[int, tuple[str, Remembered]] = OrderedDict()
        self._number = 0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(memory.nbytes for _, memory in self._held.values())

    def put(self, revision: str, memory: Remembered) -> None:
        """Keep a finished conversation's memory; what is least recently used makes room."""
        if not memory.ids or memory.nbytes > self._limit:
            return
        self._number += 1
        self._held[self._number] = (revision, memory)
        while self.nbytes > self._limit:
            self._held.popitem(last=False)

    def take(
        self, revision: str, prompt: Sequence[int], running: Iterable[M] = ()
    ) -> Remembered | None:
        """A memory that begins as a prompt does, for a new row to go on with; None without one.

        At least the prompt's last token is left to compute, since its logits are wanted.

        Args:
            revision: Of the adapter that will answer.
            prompt: Token ids.
            running: Memories of rows under way with the same adapter, to copy from.
        """
        best, place = 0, 0
        for number, (owner, memory) in self._held.items():
            count = _usable(memory, prompt) if owner == revision else 0
            if count > best:
                best, place = count, number
        donor = max(running, key=lambda memory: _usable(memory, prompt), default=None)
        if donor is not None and _usable(donor, prompt) > max(best, _LEAST):
            return donor.copy(_usable(donor, prompt))
        if best < _LEAST:
            return None
        memory = self._held[place][1]
        if len(memory.ids) - best > _TAIL:
            self._held.move_to_end(place)
            return memory.copy(best)
        del self._held[place]
        if best < len(memory.ids):
            memory.cut(best)
        return memory

    def drop(self, revision: str) -> None:
        """Forget what was said with an adapter that is gone."""
        for number in [n for n, (owner, _) in self._held.items() if owner == revision]:
            del self._held[number]

    def clear(self) -> bool:
        """Forget everything; answers whether there was anything."""
        held = bool(self._held)
        self._held.clear()
        return held


def _usable(memory: Remembered, prompt: Sequence[int]) -> int:
    """Tokens of a prompt that a memory spares."""
    count = min(common_length(memory.ids, prompt), len(prompt) - 1)
    return count if memory.can_cut or count == len(memory.ids) else 0


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common; by halving, comparing slices."""
    one, other = list(one), list(other)  # a slice of a list never equals one of a tuple
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
