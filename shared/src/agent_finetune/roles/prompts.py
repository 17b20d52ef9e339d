"""What each part sees of a conversation, and what it says: the one way, in training and serving.

A history is what an `Example` holds. There an assistant's turn with calls has its thought as
thinking, else as words; a turn without calls is the conclusion, or a giving up. `step_of` takes
such a turn apart, `turn_of` is how a step stands in a history, and `see` is how a history looks to
a part. Labels, order and form are the paper's in spirit (arXiv 2401.07324), the words are ours,
and calls are written as the model's own template writes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from agent_finetune.errors import ConfigError, DataError
from agent_finetune.records import Message, ToolCall


class Part(StrEnum):
    """Who speaks: the single model, or one of the three roles."""

    BACKBONE = "backbone"
    PLANNER = "planner"
    CALLER = "caller"
    SUMMARIZER = "summarizer"


ROLES = (Part.PLANNER, Part.CALLER, Part.SUMMARIZER)


class Next(StrEnum):
    """What a plan says comes next, as it is written."""

    CALL = "caller"
    CONCLUDE = "conclusion"
    GIVE_UP = "give up"


SYSTEM: Mapping[Part, str] = {
    Part.BACKBONE: (
        "Solve the request with the functions offered. Write one thought, then call a function; "
        'or write "conclusion:" and the answer; or "give up" if the functions cannot help.'
    ),
    Part.PLANNER: (
        "Plan the next step towards the request and call nothing yourself. Write one thought, then "
        '"Next: caller." for a function call, "Next: conclusion." for the answer, or '
        '"Next: give up." if the functions cannot help.'
    ),
    Part.CALLER: "Write the function call that the planner asks for, and nothing else.",
    Part.SUMMARIZER: "Write the final answer to the user from this conversation, nothing else.",
}
"""What a part is told first; a system message of the conversation itself stands behind it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What the planner says: a thought, and what comes next."""

    thought: str
    next: Next | None
    """None: what was said names no next step."""

    def text(self) -> str:
        """The planner's words; `read_plan` reads them back."""
        return _lines(self.thought, f"Next: {self.next}." if self.next else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one assistant turn of a trajectory says, taken apart."""

    plan: Plan
    calls: tuple[ToolCall, ...] = ()
    answer: str = ""
    """What the user is told; empty unless the plan is to conclude."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A prompt: what a part is served before it speaks."""

    messages: tuple[Message, ...]
    """Assistant turns among them are not trained."""
    tools: tuple[Mapping[str, Any], ...]


_NEXT = re.compile(
    r"\bnext\b[\s*_`]{0,4}:[\s*_`\"']{0,8}(?:the\s)?"
    r"(?P<next>call(?:er)?|conclu(?:sion|de)|summari[sz]er?|give[ _-]?up)\b",
    re.I,
)
_WORD = re.compile(r"\w")
_LABEL = re.compile(r"\A(?:\s*(?:planner|assistant|thought)\s*:)+", re.I)
_GIVES_UP = re.compile(r"\W*(?:i\s+)?give[ _-]?up(?:\s+and\s+restart)?\W*", re.I)
_CONCLUDES = re.compile(r"^[ \t]*conclusion[ \t]*:[ \t]*", re.I | re.M)
_NAMED = {"ca": Next.CALL, "co": Next.CONCLUDE, "su": Next.CONCLUDE, "gi": Next.GIVE_UP}


def read_plan(text: str) -> Plan:
    """What a planner said, its case, its stop and a label before it not minded.

    Where the words do not end with what is next, the first line that says it counts, and what
    stands behind that line is no part of the plan.
    """
    whole = _LABEL.sub("", text).strip()
    named = list(_NEXT.finditer(whole))
    lines = [found for found in named if _own_line(whole, found) is not None]
    ended = named and not _WORD.search(whole, named[-1].end())
    found = named[-1] if ended else lines[0] if lines else None
    if found is None:
        return Plan(thought=whole, next=None)
    return _plan(whole, found)


def step_of(message: Message) -> Step:
    """An assistant's turn of a history, taken apart.

    ToolBench's call of `Finish` is the answer that it carries, or a giving up.

    Raises:
        DataError: It is no assistant's turn.
    """
    if message.role != "assistant":
        raise DataError(f"a {message.role!r} message is no step; expected an 'assistant' one")
    ending = next((c for c in message.tool_calls if c.name == "Finish"), None)
    if ending is not None and "return_type" in ending.arguments:
        return _finished(message, ending)
    thinking, text = (message.thinking or "").strip(), message.text.strip()
    said = _ended(text)
    if message.tool_calls:
        thought = thinking or (said.thought if said else text)
        return Step(plan=Plan(thought=thought, next=Next.CALL), calls=message.tool_calls)
    if said:
        return Step(plan=replace(said, thought=thinking or said.thought))
    words, _, last = text.rpartition("\n")
    if _GIVES_UP.fullmatch(last):
        return Step(plan=Plan(thought=thinking or words.strip(), next=Next.GIVE_UP))
    return Step(plan=Plan(thought=thinking, next=Next.CONCLUDE), answer=text)


def turn_of(step: Step) -> Message:
    """How a step stands in a history; `step_of` reads it back, provided that it has a next.

    Without one, its thought is what the user is told.
    """
    plan = step.plan
    if plan.next is None:
        return _says(plan.thought, step.calls)
    if step.calls:
        return _says("", step.calls, plan.thought)
    if plan.next is Next.CONCLUDE:
        return _says(step.answer, thinking=plan.thought)
    if plan.next is Next.GIVE_UP:
        return _says(Next.GIVE_UP.value, thinking=plan.thought)
    return _says(plan.text())


def backbone_turn(step: Step) -> Message:
    """What the single model says for a step; `read_backbone` reads it back."""
    thought = step.plan.thought
    if step.plan.next is Next.CONCLUDE:
        return _says(_lines(thought, f"conclusion: {step.answer}"))
    if step.plan.next is Next.GIVE_UP:
        return _says(_lines(thought, Next.GIVE_UP.value))
    return _says(thought, step.calls)


def read_backbone(text: str, calls: Sequence[ToolCall] = (), thinking: str | None = None) -> Step:
    """What the single model said: a call, `conclusion:` and an answer, or `give up`, if any.

    Args:
        text: Its words.
        calls: Its calls.
        thinking: What it thought: some templates say so the words beside a call.
    """
    whole = _LABEL.sub("", text).strip()
    if calls:
        thought = whole or (thinking or "").strip()
        return Step(plan=Plan(thought=thought, next=Next.CALL), calls=tuple(calls))
    if found := _CONCLUDES.search(whole):
        plan = Plan(thought=whole[: found.start()].strip(), next=Next.CONCLUDE)
        return Step(plan=plan, answer=whole[found.end() :].strip())
    words, _, last = whole.rpartition("\n")
    if _GIVES_UP.fullmatch(last):
        return Step(plan=Plan(thought=words.strip(), next=Next.GIVE_UP))
    return Step(plan=Plan(thought=whole, next=None))


def target_of(part: Part, step: Step) -> Message:
    """What a part says for a step, as it is trained and as it is served."""
    if part is Part.BACKBONE:
        return backbone_turn(step)
    if part is Part.PLANNER:
        return _says(step.plan.text())
    return _says("", step.calls) if part is Part.CALLER else _says(step.answer)


def see(
    part: Part,
    history: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
    plan: Plan | None = None,
) -> Seen:
    """The prompt of a part.

    Past steps are shown in one form: to the roles as the planner's words with the call, to the
    single model as its own; past conclusions as plain answers. The summarizer is offered no tools.

    Args:
        part: Who is asked.
        history: The conversation so far; its own system message stands behind the part's.
        tools: Tools offered.
        plan: What the planner just said; the caller and the summarizer answer to it.

    Raises:
        ConfigError: The plan of a caller or summarizer is missing, or another part is given one.
    """
    answers = part in (Part.CALLER, Part.SUMMARIZER)
    if answers != (plan is not None):
        found = "none" if plan is None else repr(plan.text())
        raise ConfigError(
            f"the plan is {found}; legal for {part} is {'one' if answers else 'none'}"
        )
    start = next((i for i, m in enumerate(history) if m.role != "system"), len(history))
    told = [SYSTEM[part], *(m.text for m in history[:start])]
    messages = [Message(role="system", text="\n\n".join(filter(None, told)))]
    messages += (_shown(part, m) if m.role == "assistant" else m for m in history[start:])
    if plan is not None:
        messages.append(Message(role="user", text=f"{Part.PLANNER}: {plan.text()}"))
    offered = () if part is Part.SUMMARIZER else tuple(tools)
    return Seen(messages=tuple(messages), tools=offered)


def _shown(part: Part, message: Message) -> Message:
    """A past turn as a part sees it; its exact ids are of another form, and left out."""
    step = step_of(message)
    if step.plan.next is Next.CALL:
        words = step.plan.thought if part is Part.BACKBONE else step.plan.text()
    else:
        words = Next.GIVE_UP.value if step.plan.next is Next.GIVE_UP else step.answer
    return replace(_says(words, step.calls), trained=False)


def _finished(message: Message, call: ToolCall) -> Step:
    thought = (message.thinking or message.text).strip()
    answer = call.arguments.get("final_answer")
    if call.arguments["return_type"] == "give_up_and_restart" or not isinstance(answer, str):
        return Step(plan=Plan(thought=thought, next=Next.GIVE_UP))
    return Step(plan=Plan(thought=thought, next=Next.CONCLUDE), answer=answer.strip())


def _ended(text: str) -> Plan | None:
    """The plan that the last line of a recorded turn names, if it does."""
    whole = _LABEL.sub("", text).strip()
    found = next((f for f in _NEXT.finditer(whole) if not _WORD.search(whole, f.end())), None)
    if found is None or _own_line(whole, found) is None:
        return None
    return _plan(whole, found)


def _plan(text: str, found: re.Match[str]) -> Plan:
    line = _own_line(text, found)
    thought = text[: found.start() if line is None else line].strip()
    return Plan(thought=thought, next=_NAMED[found["next"][:2].lower()])


def _own_line(text: str, found: re.Match[str]) -> int | None:
    """Where the line of a match begins; None where words stand before or behind it there."""
    start = text.rfind("\n", 0, found.start()) + 1
    end = text.find("\n", found.end())
    rest = text[found.end() : end if end >= 0 else None]
    return None if _WORD.search(text[start : found.start()] + rest) else start


def _lines(*parts: str) -> str:
    return "\n".join(filter(None, parts))


def _says(text: str, calls: Sequence[ToolCall] = (), thinking: str = "") -> Message:
    return Message(role="assistant", text=text, thinking=thinking or None, tool_calls=tuple(calls))
