"""One run of a team, end to end: calls get results until it ends or is stuck."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent_finetune import metrics
from agent_finetune.errors import DataError
from agent_finetune.records import AcceptedCall, Example, Message, ToolCall
from agent_finetune.roles.prompts import Next, Step, step_of, turn_of
from agent_finetune.roles.published import read_published
from agent_finetune.roles.reports import made, shown
from agent_finetune.roles.turns import Turn

Accepted = Callable[[Example, int], Sequence[AcceptedCall]]
ResultOf = Callable[[Example, ToolCall], str]
STUCK = ("no_call", "out_of_steps", "unreadable", "too_long")
"""Ends of a run that neither concludes nor gives up."""
ROW = "a published row of one part, no trajectory"
WRONG_CALL = json.dumps({"error": "this call is not possible; check its name and arguments"})
"""What a call gets that is none of the right ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wanted:
    """A right call, and what it gives."""

    call: AcceptedCall
    result: str


@dataclass(slots=True)
class Run:
    """One run while it goes on."""

    example: Example
    accepted: Accepted | None
    history: list[Message] = field(init=False)
    wanted: list[_Wanted] = field(init=False)
    right: Step = field(init=False)
    """How it should end."""
    turns: list[Turn] = field(init=False, default_factory=list)
    ended: str = field(init=False, default="")
    """Why it is over: a `Next`, or one of `STUCK`."""

    def __post_init__(self) -> None:
        messages = self.example.messages
        start = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1) + 1
        self.history = list(messages[:start])
        self.wanted = [w for i in range(start, len(messages)) for w in self._wants(i)]
        self.right = step_of(messages[-1])

    def take(self, turn: Turn, result_of: ResultOf | None, *, last: bool) -> None:
        """Add a turn and the results of its calls, and end if it ends."""
        self.turns.append(turn)
        planned = turn.step.plan.next
        if turn.too_long:
            self.ended = "too_long"
        elif planned is None:
            self.ended = "unreadable"
        elif planned is not Next.CALL:
            self.ended = planned.value
        elif not turn.step.calls:
            self.ended = "no_call"
        elif last:
            self.ended = "out_of_steps"
        else:
            self.history.append(turn_of(turn.step))
            self.history += (self._result(call, result_of) for call in turn.step.calls)

    def marks(self) -> dict[str, Any]:
        """What came of it."""
        calls = [call for turn in self.turns for call in turn.step.calls]
        broken = sum(len(turn.broken) for turn in self.turns)
        right = [wanted.call for wanted in self.wanted]
        one = metrics.score_step(calls, right, broken=broken, tools=self.example.tools)
        found = one.exact if right else not one.spurious
        ended = self.ended == self.right.plan.next
        answer = self.turns[-1].step.answer
        known = self.right.plan.next is Next.CONCLUDE and self.right.answer
        return {
            "done": found and ended,
            "done_with_detours": ended and all(self._made(one, calls) for one in right),
            "calls_right": found,
            "ended_right": ended,
            "hallucination": one.hallucinated > 0,
            "rouge_l": metrics.rouge_l(answer, self.right.answer) if known else None,
            "ended": self.ended,
            "steps": len(self.turns),
        }

    def about(self) -> dict[str, Any]:
        """What was asked, wanted and done."""
        calls = [wanted.call for wanted in self.wanted]
        return {
            "id": self.example.id,
            "source": self.example.source,
            "right": shown(self.right, calls),
            "turns": [made(turn) for turn in self.turns],
        }

    def _wants(self, place: int) -> Iterator[_Wanted]:
        message = self.example.messages[place]
        if message.role != "assistant":
            return
        step = step_of(message)
        calls = right_calls(self.example, place, step, self.accepted)
        results = list(_results(self.example.messages[place + 1 :]))
        by_id = {m.tool_call_id: m.text for m in results if m.tool_call_id}
        for number, call in enumerate(calls):
            own = step.calls[number] if number < len(step.calls) else None
            text = results[number].text if number < len(results) else ""
            yield _Wanted(call=call, result=by_id.get(own.id, text) if own and own.id else text)

    def _made(self, right: AcceptedCall, calls: Sequence[ToolCall]) -> bool:
        """Whether one of the calls is the right one."""
        functions = {tool["function"]["name"]: tool["function"] for tool in self.example.tools}
        schema = functions.get(right.name, {}).get("parameters")
        return any(metrics.score_call(call, right, schema).exact for call in calls)

    def _result(self, call: ToolCall, result_of: ResultOf | None) -> Message:
        if result_of is not None:
            text = result_of(self.example, call)
        else:
            right = (w.result for w in self.wanted if self._made(w.call, [call]))
            text = next(right, WRONG_CALL)
        return Message(role="tool", text=text, name=call.name, tool_call_id=call.id)


def _results(messages: Sequence[Message]) -> Iterator[Message]:
    """The tool results that follow at once."""
    for message in messages:
        if message.role != "tool":
            return
        yield message


def right_calls(
    example: Example, place: int, right: Step, accepted: Accepted | None
) -> Sequence[AcceptedCall]:
    """Right calls of a step, with alternatives where `accepted`, else the example, has any."""
    if right.plan.next is not Next.CALL:
        return ()
    listed = accepted(example, place) if accepted is not None else ()
    if not listed and place == len(example.messages) - 1:
        listed = example.accepted or ()
    return listed or tuple(map(metrics.accepted_call, right.calls))


def no_run(example: Example) -> str | None:
    """Why an example is no whole trajectory."""
    last = example.messages[-1]
    if is_row(example):
        return ROW
    if last.role != "assistant":
        return f"ends in a {last.role!r} message"
    return "ends in a call" if step_of(last).plan.next is Next.CALL else None


def is_row(example: Example) -> bool:
    """Whether an example is one of the paper's published rows."""
    try:
        return read_published(example) is not None
    except DataError:
        return True
