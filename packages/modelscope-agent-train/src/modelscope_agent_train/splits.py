"""Hold rows out for testing, so that what is measured was not trained."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Literal

from agent_finetune.errors import ConfigError, DataError
from agent_finetune.records import Example
from agent_finetune.splits import tool_families

SplitBy = Literal["rows", "tools"]
_SHARE = 20
"""A group that would be more than one part in so many of the test set is taken last."""
_SMALL = 10
"""Examples that a group may always have."""


def split(
    examples: Sequence[Example], *, test_ratio: float, seed: int, by: SplitBy = "rows"
) -> tuple[list[Example], list[Example]]:
    """Examples to train on, and examples to test on; the order of both is that of `examples`.

    `rows` keeps together what begins with the same question over the same tools: ToolBench has a
    row for each step of one conversation, and sets are full of doubles. `tools` keeps together what
    shares a tool, directly or through others, so that no tool of a test row was ever trained.
    Groups are drawn by the seed, none is cut, and large ones come last: one well-known service must
    not become the whole test.

    Args:
        examples: Examples, with tools or without.
        test_ratio: Share for testing, from 0 (none) to 1 (all).
        seed: Of the draw.
        by: What must not be on both sides.

    Raises:
        ConfigError: The ratio is out of range, or `by` is not known.
        DataError: Every group is larger than the share.
    """
    if not 0 <= test_ratio <= 1:
        raise ConfigError(f"dataset_test_ratio is {test_ratio!r}; it must lie between 0 and 1")
    if by not in ("rows", "tools"):
        raise ConfigError(f"split_by is {by!r}; legal are rows, tools")
    if test_ratio in (0, 1):
        return (list(examples), []) if test_ratio == 0 else ([], list(examples))
    groups = tool_families(examples) if by == "tools" else _conversations(examples)
    room = max(1, round(test_ratio * len(examples)))
    smallest = min(map(len, groups), default=0)
    if len(groups) > 1 and smallest <= _SMALL:
        room = max(room, smallest)  # of few rows, one group is the least that can be held out
    held = _drawn(groups, room, seed)
    if not held:
        raise DataError(
            f"dataset_test_ratio {test_ratio!r} of {len(examples)} rows is {room}, and the "
            f"smallest group that must stay together by {by} has {smallest}; raise the ratio, or "
            "set it to 0 to hold out none"
        )
    return (
        [example for example in examples if id(example) not in held],
        [example for example in examples if id(example) in held],
    )


def _drawn(groups: list[list[Example]], room: int, seed: int) -> set[int]:
    """The ids of the objects in the groups that fill the room, small groups first."""
    shuffled = random.Random(seed).sample(groups, len(groups))
    small = max(_SMALL, room // _SHARE)
    held: set[int] = set()
    for group in sorted(shuffled, key=lambda group: len(group) > small):
        if len(group) <= room - len(held):
            held.update(id(example) for example in group)
    return held


def _conversations(examples: Sequence[Example]) -> list[list[Example]]:
    groups: defaultdict[Hashable, list[Example]] = defaultdict(list)
    for example in examples:
        groups[_question(example)].append(example)
    return list(groups.values())


def _question(example: Example) -> Hashable:
    """What was asked before the first answer that is learned, and over which tools."""
    asked: list[str] = []
    for message in example.messages:
        if message.role == "assistant" and message.trained:
            break
        if message.role == "user":
            asked.append(message.text)
    return tuple(asked), example.tool_names
