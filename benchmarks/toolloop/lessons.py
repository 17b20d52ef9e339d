"""The training data: half of it practised on real functions, half out of the leaderboard."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from agentscope.tool import FunctionTool

from agent_finetune.records import Example, ToolCall

from . import leaderboard, questions
from .drills import DRILLS, LOOKUPS, Drill, listed
from .loop import ALLOWED
from .practice import Practice
from .teaching import Lesson, conversation
from .world import World, functions

EVERY = DRILLS + LOOKUPS
TWO_CALLS = 0.15
"""Share of the practice conversations with two calls, one after the other."""
MOST_OFFERED = 4


async def rows(
    count: int,
    examples: Sequence[Example],
    *,
    fits: Callable[[Mapping[str, Any]], bool],
    share: float = 0.5,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Conversations to train on, in a random order.

    Args:
        count: How many.
        examples: Of the leaderboard.
        fits: Whether a conversation is short enough.
        share: How much of it is out of the leaderboard; what that lacks is practised.
        seed: Of the choice.

    Raises:
        ValueError: Hardly any conversation is short enough.
    """
    r = random.Random(seed)
    allowed = questions.without(examples, functions(World()))
    chosen = [example for example in allowed if questions.usable(example)]
    r.shuffle(chosen)
    made: list[dict[str, Any]] = []
    for example in chosen:
        if len(made) >= count * share:
            break
        row = await conversation(leaderboard.lesson(example, r))
        if row is not None and fits(row):
            made.append(row)
    for practised in islice(practice(r), 100 + 10 * count):
        if len(made) >= count:
            break
        row = await conversation(practised)
        if row is not None and fits(row):
            made.append(row)
    if len(made) < count:
        raise ValueError(f"only {len(made)} of {count} conversations are short enough")
    r.shuffle(made)
    return made


def practice(r: random.Random) -> Iterator[Lesson]:
    """Lessons on the practice functions without end, each of them equally often."""
    while True:
        for drill in r.sample(EVERY, len(EVERY)):
            drills = [drill]
            if r.random() < TWO_CALLS:
                drills.append(r.choice([drill, *EVERY]))
            yield practice_lesson(drills, r)


def practice_lesson(drills: Sequence[Drill], r: random.Random) -> Lesson:
    """One call for each drill, and an answer that says all the results."""
    known: dict[str, Any] = {}
    asks, says, calls = [], [], []
    for drill in drills:
        arguments = drill.draw(r)
        while drill.key and str(arguments[drill.key]) in known:
            arguments = drill.draw(r)
        if drill.key and drill.find:
            value = known[str(arguments[drill.key])] = drill.find(r)
        else:
            value = getattr(Practice(), drill.name)(**arguments)
        gaps = {"value": value} | {k: _said(v) for k, v in arguments.items()}
        asks.append(r.choice(drill.asks).format(**gaps))
        says.append(r.choice(drill.says).format(**gaps))
        calls.append(ToolCall(name=drill.name, arguments=arguments))
    return Lesson(
        request=" ".join(asks),
        tools=_offered([drill.name for drill in drills], Practice(known), r),
        calls=tuple(calls),
        answer=" ".join(says),
    )


def _said(argument: Any) -> Any:
    return listed(argument) if isinstance(argument, list) else argument


def _offered(needed: Sequence[str], world: Practice, r: random.Random) -> tuple[FunctionTool, ...]:
    """The tools that are needed among others, in a random order."""
    names = dict.fromkeys(needed)
    others = [drill.name for drill in EVERY if drill.name not in names]
    offered = [*names, *r.sample(others, r.randint(0, MOST_OFFERED - len(names)))]
    r.shuffle(offered)
    return tuple(FunctionTool(getattr(world, name), permission=ALLOWED) for name in offered)


def practised_names() -> frozenset[str]:
    """Names of the practice functions."""
    return frozenset(drill.name for drill in EVERY)


def offered_names(row: Mapping[str, Any]) -> list[str]:
    """Names of the tools that a conversation offers."""
    return [tool["function"]["name"] for tool in row["tools"]]
