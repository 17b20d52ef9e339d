"""What three roles on one backbone cost: memory, and a switch from one role to another."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from live.ways import tensor_bytes, tensor_storages

from agent_finetune import plugins
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import EngineConfig, Request, Result
from agent_finetune.engine import registry
from agent_finetune.records import Message, ToolCall
from agent_finetune.roles.prompts import ROLES, Next, Part, Plan
from agent_finetune.roles.recipe import read_manifest
from agent_finetune.roles.team import Asked, Team

if TYPE_CHECKING:
    from agent_finetune.contracts import Engine, Settings

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city today.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ASKED = (Message(role="user", text="What is the weather in Paris today?"),)
STEP = (
    Message(
        role="assistant",
        thinking="I need the weather of Paris.",
        tool_calls=(ToolCall(name="get_weather", arguments={"city": "Paris"}),),
    ),
    Message(role="tool", text='{"sky": "clear", "degrees": 21}', name="get_weather"),
)
PLAN = Plan(thought="Go on.", next=Next.CALL)
WORDS = Request(messages=(Message(role="user", text="Describe a city at length."),))
"""What is answered for the clock, by every role alike."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How much of a role's prompt had to be computed."""

    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TeamCost:
    """What was measured; bytes are of tensors of this process, each storage counted once."""

    one_adapter_bytes: int
    """The base and one adapter, before anything was asked."""
    three_adapters_bytes: int
    memory_ratio: float
    switches: int
    """Times that another role spoke than the one before it."""
    moved_bytes: int
    """Of base and adapters, what no longer lay where it had been after all the switches."""
    one_role_ms: float
    """Milliseconds per generated token, one role answering again and again: the median."""
    switching_ms: float
    """The same, with another role for every answer."""
    second_turn: Mapping[str, Reading]
    """By role, its prompt of the second turn. What a role has read is of no use to another, since
    keys and values come through its adapter: each reads a conversation once, and only what is new
    afterwards."""


def team_cost(folder: Path, settings: Settings, *, tokens: int = 8, repeats: int = 5) -> TeamCost:
    """Measure three roles that were trained by `train_roles`.

    Every live model of this process is unloaded first, for its weights would be shared.

    Args:
        folder: What the recipe left, roles with an adapter each.
        settings: Cache, token and offline switch.
        tokens: Most tokens of an answer for the clock.
        repeats: Rounds of as many answers as there are roles, both ways in turn.

    Raises:
        ValueError: The roles do not have an adapter each.
    """
    found = read_manifest(folder)
    paths = [found["parts"].get(part.value) for part in ROLES]
    if found["method"] == "full" or len({*paths} - {None}) < len(ROLES):
        raise ValueError(f"{folder}: {found['layout']}; measured are roles with an adapter each")
    registry.close_all()
    before = tensor_bytes()
    model = replace(ModelConfig(**found["model"]), adapter=None)
    engine = plugins.open_engine(EngineConfig(model=model, keep_alive=0.0), settings)
    try:
        engine.attach("one", paths[0])
        one = tensor_bytes() - before
        team = Team.of(folder, engine)
        three = tensor_bytes() - before
        held = tensor_storages()
        names = [str(team.adapters[part]) for part in ROLES]
        same, other, switches = _speeds(engine, names, tokens, repeats)
        second = _second_turn(team, engine)
        now = tensor_storages()
    finally:
        engine.close()
    return TeamCost(
        one_adapter_bytes=one,
        three_adapters_bytes=three,
        memory_ratio=three / one,
        switches=switches,
        moved_bytes=sum(size for place, size in held.items() if now.get(place) != size),
        one_role_ms=same,
        switching_ms=other,
        second_turn=second,
    )


def _speeds(
    engine: Engine, names: Sequence[str], tokens: int, repeats: int
) -> tuple[float, float, int]:
    """Milliseconds per token by one role and by all in turn, and switches made by the latter.

    The prompt is short, and known to every role before the clock starts.
    """
    for name in names:
        _answer(engine, name, tokens)
    same, other = [], []
    for _ in range(repeats):
        same.append(_per_token(engine, [names[0]] * len(names), tokens))
        other.append(_per_token(engine, names, tokens))
    return statistics.median(same), statistics.median(other), repeats * (len(names) - 1)


def _per_token(engine: Engine, names: Sequence[str], tokens: int) -> float:
    start = time.perf_counter()
    said = sum(_answer(engine, name, tokens).usage.completion_tokens for name in names)
    return 1000 * (time.perf_counter() - start) / said


def _answer(engine: Engine, name: str, tokens: int) -> Result:
    return engine.generate(replace(WORDS, adapter=name, max_new_tokens=tokens))


def _second_turn(team: Team, engine: Engine) -> dict[str, Reading]:
    """What each role finds computed of its second prompt, after it was asked the first."""
    found = {}
    for messages in (ASKED, (*ASKED, *STEP)):
        asked = Asked(messages=messages, tools=(TOOL,))
        for part in ROLES:
            request = team.request(part, asked, None if part is Part.PLANNER else PLAN)
            usage = engine.generate(replace(request, max_new_tokens=1)).usage
            found[part.value] = Reading(
                prompt_tokens=usage.prompt_tokens, cached_tokens=usage.cached_tokens
            )
    return found
