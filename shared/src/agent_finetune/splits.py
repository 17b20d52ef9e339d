"""Hold examples out so that nothing they are measured on was ever trained.

A random split of tool-use data leaves the same function on both sides: on the Berkeley Function
Calling Leaderboard half of the test functions were then in training, and the score measures memory.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence

from agent_finetune.errors import DataError
from agent_finetune.records import Example


def tool_families(examples: Iterable[Example]) -> list[list[Example]]:
    """Group examples that share any tool, directly or through others.

    Two examples are of one family when a chain of examples leads from one to the other in which
    each offers a tool that the next offers too. Example order is kept inside a family; families
    come in the order of their first example. An example without tools is a family of its own.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while (above := parent.setdefault(name, name)) != name:
            parent[name] = name = parent[above]
        return name

    listed = list(examples)
    for example in listed:
        for name in example.tool_names[1:]:
            parent[root(name)] = root(example.tool_names[0])
    families: defaultdict[object, list[Example]] = defaultdict(list)
    for index, example in enumerate(listed):
        families[root(example.tool_names[0]) if example.tools else index].append(example)
    return list(families.values())


def hold_out_tools(
    examples: Sequence[Example], *, one_tool: int, several_tools: int, seed: int, largest: int = 10
) -> tuple[list[Example], list[Example]]:
    """Split by tool: no tool offered in a held-out example is offered in a trained one.

    Args:
        examples: Examples with tools.
        one_tool: Held-out examples that offer exactly one tool.
        several_tools: Held-out examples that offer more than one.
        seed: Seed of the choice of families.
        largest: Families of more examples than this stay in training, so that one well-known
            service does not become the whole test.

    Returns:
        Training examples in their order, and held-out examples, one tool first. What is left of
        a held-out family is in neither.

    Raises:
        DataError: There are not enough small families.
    """
    families = [family for family in tool_families(examples) if len(family) <= largest]
    random.Random(seed).shuffle(families)
    wanted = {False: one_tool, True: several_tools}
    held: dict[bool, list[Example]] = {False: [], True: []}
    taken: set[int] = set()
    for family in families:
        several = len(family[0].tools) > 1
        if len(held[several]) < wanted[several]:
            held[several] += [e for e in family if (len(e.tools) > 1) == several]
            taken.update(id(example) for example in family)
    for several, count in wanted.items():
        if len(held[several]) < count:
            kind = "several tools" if several else "one tool"
            raise DataError(
                f"only {len(held[several])} examples with {kind} can be held out of {count}"
            )
    train = [example for example in examples if id(example) not in taken]
    return train, held[False][:one_tool] + held[True][:several_tools]
