"""Whole trajectories from the Berkeley Function Calling Leaderboard, held out by function name.

A question with a call becomes: a thought, the call, a made-up result, a thought, an answer that
says the result. A question that no function fits becomes a thought and a giving up. The thoughts
are made by rule from the gold call and the function's own description, so every way of training
learns from the same words.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolloop.questions import MOST_CHARACTERS, MOST_TOOLS, outcome, usable, without

from agent_finetune import readers
from agent_finetune.artifacts import write_text
from agent_finetune.recordings.recording import openai_message
from agent_finetune.records import AcceptedCall, Example, Message
from agent_finetune.splits import tool_families

if TYPE_CHECKING:
    from agent_finetune.contracts import Settings

KINDS: Mapping[str, Callable[[Example], bool]] = {
    "one tool": lambda e: bool(e.accepted) and len(e.tools) == 1,
    "several tools": lambda e: bool(e.accepted) and len(e.tools) > 1,
    "no tool fits": lambda e: not e.accepted,
}
"""What a request is, as the leaderboard has it."""
SMALL_FAMILY = 10
"""Groups of more questions about the same functions stay in training."""
THOUGHT = 90
"""Most characters of a description that a thought quotes."""
SPLIT_SEED = 0
"""The held-out requests are the same for every training seed."""
UNFIT = "None of the functions offered does what is asked."

Accepted = Mapping[str, tuple[AcceptedCall, ...]]
"""Right calls with their alternatives, by trajectory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Trajectories to learn from and to measure on; no function of one is offered in the other."""

    training: tuple[Example, ...]
    held_out: tuple[Example, ...]
    accepted: Accepted
    """Of the held-out ones."""

    def alternatives(self, example: Example, place: int) -> tuple[AcceptedCall, ...]:
        """What is right for the call at a message; every call here is the first step."""
        assert example.messages[place].tool_calls, (example.id, place)
        return self.accepted[example.id]


def split(
    settings: Settings,
    *,
    training: int,
    held_out: int,
    fits: Callable[[Example], bool],
) -> Split:
    """Draw both parts.

    Args:
        settings: Where the leaderboard's files are kept.
        training: Trajectories to learn from: a third without a call, the others as they come.
        held_out: Trajectories of each kind to measure on.
        fits: Whether a trajectory is short enough.

    Raises:
        ValueError: The leaderboard has too few.
    """
    r = random.Random(SPLIT_SEED)
    questions = [e for e in _questions(settings) if fits(trajectory(e, random.Random(e.id)))]
    chosen = _held_out(questions, held_out, r)
    left = without(questions, {name for e in chosen for name in e.tool_names})
    calling = r.sample([e for e in left if e.accepted], training - training // 3)
    refusing = r.sample([e for e in left if not e.accepted], training // 3)
    mixed = [*calling, *refusing]
    r.shuffle(mixed)
    return Split(
        training=tuple(trajectory(e, random.Random(e.id)) for e in mixed),
        held_out=tuple(trajectory(e, random.Random(e.id)) for e in chosen),
        accepted={e.id: e.accepted or () for e in chosen},
    )


def _questions(settings: Settings) -> list[Example]:
    calls = readers.read("bfcl", settings=settings).examples
    none = readers.read("bfcl:irrelevance,live_irrelevance", settings=settings).examples
    return [*filter(usable, calls), *filter(_short, none)]


def _short(example: Example) -> bool:
    (asked, *more) = example.messages
    return (
        not more
        and asked.role == "user"
        and asked.text.isascii()
        and 0 < len(asked.text) <= MOST_CHARACTERS
        and 0 < len(example.tools) <= MOST_TOOLS
    )


def _held_out(questions: Sequence[Example], count: int, r: random.Random) -> list[Example]:
    """As many of each kind, from small families."""
    calling = [e for e in questions if e.accepted]
    refusing = [e for e in questions if not e.accepted]
    families = [f for part in (calling, refusing) for f in tool_families(part)]
    small = [family for family in families if len(family) <= SMALL_FAMILY]
    r.shuffle(small)
    chosen = []
    for kind, is_kind in KINDS.items():
        found = [e for family in small for e in family if is_kind(e)][:count]
        if len(found) < count:
            raise ValueError(f"only {len(found)} questions with {kind} can be held out of {count}")
        chosen += found
    return chosen


def trajectory(question: Example, r: random.Random) -> Example:
    """A question of the leaderboard, lived through to its end.

    Args:
        question: With one right call, or with none.
        r: Draws the result and the wording of the answer.
    """
    asked = question.messages[0]
    if not question.accepted:
        ending = Message(role="assistant", text="give up", thinking=UNFIT)
        return replace(question, messages=(asked, ending), accepted=None)
    call = replace(question.messages[-1].tool_calls[0], id="call00001")
    function = next(t["function"] for t in question.tools if t["function"]["name"] == call.name)
    described = str(function.get("description", ""))
    thought = f"{call.name} fits: {_quoted(described)}"
    result, answer = outcome(call, described, r)
    steps = (
        Message(role="assistant", text=thought, tool_calls=(call,)),
        Message(role="tool", text=_as_text(result), tool_call_id=call.id, name=call.name),
        Message(role="assistant", text=answer, thinking=f"{call.name} gave the result."),
    )
    return replace(question, messages=(asked, *steps), accepted=None)


def write(examples: Sequence[Example], path: Path) -> None:
    """Write trajectories in the format `messages`."""
    rows = (
        {
            "id": example.id,
            "messages": [openai_message(message) for message in example.messages],
            "tools": list(example.tools),
        }
        for example in examples
    )
    write_text(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))


def _quoted(description: str) -> str:
    """The first sentence of a description, cut at a word."""
    first = description.split(". ")[0].strip().rstrip(".")
    if len(first) > THOUGHT:
        first = first[:THOUGHT].rpartition(" ")[0]
    return f"{first}."


def _as_text(result: Any) -> str:
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
