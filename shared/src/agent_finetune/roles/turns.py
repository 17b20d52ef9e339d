"""What a turn of a team is asked and what it says: plain values, and how results become one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent_finetune.contracts import Result
from agent_finetune.records import Message
from agent_finetune.roles.prompts import Next, Part, Plan, Step, read_backbone


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One turn to be made."""

    messages: Sequence[Message]
    """The conversation so far, as a history of `roles.prompts`."""
    tools: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What the agent did, and what each part said for it."""

    step: Step
    """Its plan names no next where the words of planner or single model cannot be read: then
    nobody else was asked, and there is neither call nor answer."""
    broken: tuple[str, ...] = ()
    """Calls that do not parse, raw."""
    said: Mapping[Part, str] = field(default_factory=dict)
    """By who was asked, in that order: words, then calls as JSON and broken ones, one a line."""
    tokens: Mapping[Part, int] = field(default_factory=dict)
    """Tokens that each generated."""
    cut_off: frozenset[Part] = frozenset()
    """Who reached the most tokens before the end."""
    too_long: Mapping[Part, str] = field(default_factory=dict)
    """Who could not be asked, as the prompt and an answer exceed the context; and by how much."""


def of_single(said: Result | str) -> Turn:
    """What the single model said, or why it could not be asked."""
    if isinstance(said, str):
        return _turn(Step(plan=Plan(thought="", next=None)), {Part.BACKBONE: said})
    step = read_backbone(said.message.text, said.message.tool_calls, said.message.thinking)
    if said.broken_calls and not step.calls:  # it set out to call
        step = Step(plan=Plan(thought=said.message.text, next=Next.CALL))
    return _turn(step, {Part.BACKBONE: said})


def of_roles(plan: Plan, said: Mapping[Part, Result | str]) -> Turn:
    """What the roles said, by who was asked, or why one could not be."""
    caller, summarizer = said.get(Part.CALLER), said.get(Part.SUMMARIZER)
    step = Step(
        plan=plan,
        calls=caller.message.tool_calls if isinstance(caller, Result) else (),
        answer=summarizer.message.text.strip() if isinstance(summarizer, Result) else "",
    )
    return _turn(step, said)


def _turn(step: Step, said: Mapping[Part, Result | str]) -> Turn:
    results = {part: one for part, one in said.items() if isinstance(one, Result)}
    # A planner's or a summarizer's calls are no calls of the team's; they show in what was said.
    callers = [one for part, one in results.items() if part in (Part.BACKBONE, Part.CALLER)]
    return Turn(
        step=step,
        broken=tuple(raw for one in callers for raw in one.broken_calls),
        said={part: _words(one) for part, one in results.items()},
        tokens={part: one.usage.completion_tokens for part, one in results.items()},
        cut_off=frozenset(part for part, one in results.items() if one.finish == "length"),
        too_long={part: one for part, one in said.items() if isinstance(one, str)},
    )


def _words(result: Result) -> str:
    message = result.message
    calls = (
        json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
        for call in message.tool_calls
    )
    return "\n".join(filter(None, (message.text, *calls, *result.broken_calls)))
