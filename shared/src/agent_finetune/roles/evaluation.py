"""Hold a team against trajectories: step by step after the right history, or end to end.

Step by step is the paper's way; its metrics are in `roles.metrics`. End to end the team lives with
its own history: each call gets a result, until it concludes, gives up, or has had its steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent_finetune import metrics
from agent_finetune.config import check_at_least
from agent_finetune.errors import DataError
from agent_finetune.metrics import Measure
from agent_finetune.records import AcceptedCall, Example, Message, ToolCall
from agent_finetune.roles.metrics import COLUMNS, StepMarks, mark, summarize, table
from agent_finetune.roles.prompts import Next, Step, step_of, turn_of
from agent_finetune.roles.team import Asked, Team, Turn

Accepted = Callable[[Example, int], Sequence[AcceptedCall]]
ResultOf = Callable[[Example, ToolCall], str]

RUN_COLUMNS: Mapping[str, str] = {
    "done": "Done",
    "done_with_detours": "Done, with detours",
    "calls_right": "Calls right",
    "ended_right": "Ended right",
    "hallucination": "Hallu.",
    "rouge_l": "R-L",
}
STUCK = ("no_call", "out_of_steps", "unreadable", "too_long")
"""Ends of a run that neither concludes nor gives up."""
WRONG_CALL = json.dumps({"error": "this call is not possible; check its name and arguments"})
"""What a call gets that is none of the right ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RolesReport:
    """Figures over all steps, and a row for each."""

    measures: Mapping[str, Measure]
    """`roles.metrics.summarize`, and of steps the rates `cut_off` (some part reached the most
    tokens before its end) and `too_long` (the prompt exceeded the context; counted as wrong)."""
    rows: tuple[Mapping[str, Any], ...]
    """JSON-able: id, source, step (messages before it), what was right, what each part said, what
    was made of it, and the marks."""
    examples: int

    def table(self, name: str = "team") -> str:
        """The paper's columns in its order: values, 95% intervals of rates, and n."""
        return table({name: self.measures}, COLUMNS)

    def write(self, folder: Path) -> None:
        """Write `examples.jsonl`, one row a line, then `metrics.json`; each whole or not at all."""
        _write(folder, self.measures, self.rows, self.examples)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunsReport:
    """Figures over whole runs, and a row for each.

    Measures, as rates over runs where nothing else is said:

    - `done`: the calls made are the right ones and no others, in any order, and it ended as it
      should: concluding, or giving up.
    - `done_with_detours`: each right call was made, whatever else was tried; ended as it should.
    - `calls_right`: the calls made are the right ones and no others.
    - `ended_right`: it concluded, or gave up, where that was right.
    - `hallucination`: a tool was called that is not offered.
    - `rouge_l`: mean over runs that should conclude; 0 where it did not.
    - `no_call`, `out_of_steps`, `unreadable`, `too_long`: why a run ended without either. A plan to
      call after which no call came that parses is `no_call`.
    - `steps`: mean number of turns.
    """

    measures: Mapping[str, Measure]
    rows: tuple[Mapping[str, Any], ...]
    """JSON-able: id, source, right calls and end, each turn, and the marks."""
    examples: int

    def table(self, name: str = "team") -> str:
        """Values, 95% intervals of rates, and n."""
        return table({name: self.measures}, RUN_COLUMNS)

    def write(self, folder: Path) -> None:
        """Write `examples.jsonl`, one row a line, then `metrics.json`; each whole or not at all."""
        _write(folder, self.measures, self.rows, self.examples)


def evaluate_steps(
    team: Team,
    examples: Sequence[Example],
    *,
    accepted: Accepted | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> RolesReport:
    """Let a team make every assistant turn, each after the right history.

    Turns that are not the model's own (`trained` is off) are history only.

    Args:
        team: Who is measured.
        examples: Trajectories, as histories of `roles.prompts`.
        accepted: Right calls with alternatives for the turn at a place of an example's messages;
            none, or no such function, takes the turn's own.
        on_progress: Called with the number of steps done and of all.

    Raises:
        DataError: There is not one step.
    """
    todo = [
        (example, place, step_of(message))
        for example in examples
        for place, message in enumerate(example.messages)
        if message.role == "assistant" and message.trained
    ]
    if not todo:
        raise DataError(f"{len(examples)} examples without one assistant turn to be measured on")
    turns = team.turns(
        [Asked(messages=e.messages[:place], tools=e.tools) for e, place, _ in todo],
        on_progress=on_progress,
    )
    marks, rows = [], []
    for (example, place, right), turn in zip(todo, turns, strict=True):
        calls = _right_calls(example, place, right, accepted)
        one = mark(turn.step, right, broken=turn.broken, tools=example.tools, accepted=calls)
        marks.append(one)
        rows.append(
            {"id": example.id, "source": example.source, "step": place}
            | {"right": _shown(right, calls)}
            | _made(turn)
            | _marked(one)
        )
    measures = summarize(marks) | _rates(
        cut_off=[bool(turn.cut_off) for turn in turns],
        too_long=[bool(turn.too_long) for turn in turns],
    )
    return RolesReport(measures=measures, rows=tuple(rows), examples=len(examples))


def evaluate_runs(
    team: Team,
    examples: Sequence[Example],
    *,
    result_of: ResultOf | None = None,
    accepted: Accepted | None = None,
    most_steps: int = 6,
    on_progress: Callable[[int, int], None] | None = None,
) -> RunsReport:
    """Let a team go on by itself from each example's last user turn, all runs side by side.

    Args:
        team: Who is measured.
        examples: Trajectories that end in an answer or a giving up.
        result_of: What a call gives; None answers a right call as the trajectory does, and any
            other with an error.
        accepted: As in `evaluate_steps`.
        most_steps: Turns that a run may have.
        on_progress: Called with the number of runs done and of all.

    Raises:
        DataError: An example ends otherwise.
    """
    check_at_least("most_steps", most_steps, 1)
    runs = [_Run(example, accepted) for example in examples]
    for number in range(most_steps):
        going = [run for run in runs if not run.ended]
        if on_progress is not None:
            on_progress(len(runs) - len(going), len(runs))
        turns = team.turns([Asked(messages=r.history, tools=r.example.tools) for r in going])
        for run, turn in zip(going, turns, strict=True):
            run.take(turn, result_of, last=number + 1 == most_steps)
    if on_progress is not None:
        on_progress(len(runs), len(runs))
    marks = [run.marks() for run in runs]
    rows = [run.about() | one for run, one in zip(runs, marks, strict=True)]
    return RunsReport(measures=_run_measures(marks), rows=tuple(rows), examples=len(examples))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wanted:
    """A right call, and what it gives."""

    call: AcceptedCall
    result: str


@dataclass(slots=True)
class _Run:
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
        messages, last = self.example.messages, self.example.messages[-1]
        if last.role != "assistant" or step_of(last).plan.next is Next.CALL:
            found = "a call" if last.role == "assistant" else f"a {last.role!r} message"
            raise DataError(
                f"{self.example.source or 'example'}: ends in {found}; a run is measured by how "
                "the assistant's last turn ends it: with an answer, or giving up"
            )
        start = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1) + 1
        self.history = list(messages[:start])
        self.wanted = [w for i in range(start, len(messages)) for w in self._wants(i)]
        self.right = step_of(last)

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
            "right": _shown(self.right, calls),
            "turns": [_made(turn) for turn in self.turns],
        }

    def _wants(self, place: int) -> Iterator[_Wanted]:
        message = self.example.messages[place]
        if message.role != "assistant":
            return
        step = step_of(message)
        calls = _right_calls(self.example, place, step, self.accepted)
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


def _right_calls(
    example: Example, place: int, right: Step, accepted: Accepted | None
) -> Sequence[AcceptedCall]:
    if right.plan.next is not Next.CALL:
        return ()
    listed = accepted(example, place) if accepted is not None else ()
    return listed or tuple(map(metrics.accepted_call, right.calls))


def _shown(right: Step, calls: Sequence[AcceptedCall]) -> dict[str, Any]:
    listed = [
        {"name": c.name, "arguments": {k: list(v) for k, v in c.arguments.items()}} for c in calls
    ]
    return {"next": right.plan.next, "calls": listed, "answer": right.answer}


def _made(turn: Turn) -> dict[str, Any]:
    step = turn.step
    return {
        "said": {part.value: words for part, words in turn.said.items()},
        "tokens": {part.value: count for part, count in turn.tokens.items()},
        "next": step.plan.next,
        "calls": [{"name": c.name, "arguments": dict(c.arguments)} for c in step.calls],
        "broken": list(turn.broken),
        "answer": step.answer,
        "cut_off": sorted(turn.cut_off),
        "too_long": {part.value: why for part, why in turn.too_long.items()},
    }


def _marked(one: StepMarks) -> dict[str, Any]:
    calling = one.wanted is Next.CALL
    return {
        "plan_right": one.planned is one.wanted,
        "names_right": one.names if calling else None,
        "exact": one.call.exact if calling else None,
        "argument_f1": one.call.argument_f1 if calling else None,
        "hallucinated": one.hallucinated,
        "rouge_l": one.rouge_l,
    }


def _run_measures(marks: Sequence[Mapping[str, Any]]) -> dict[str, Measure]:
    rates = ("done", "done_with_detours", "calls_right", "ended_right", "hallucination")
    found = _rates(**{name: [one[name] for one in marks] for name in rates})
    rouge = metrics.mean([one["rouge_l"] for one in marks if one["rouge_l"] is not None])
    steps = metrics.mean([one["steps"] for one in marks])
    return (
        found
        | ({"rouge_l": rouge} if rouge else {})
        | _rates(**{why: [one["ended"] == why for one in marks] for why in STUCK})
        | ({"steps": steps} if steps else {})
    )


def _rates(**hits: Sequence[bool]) -> dict[str, Measure]:
    found = {name: metrics.rate(sum(each), len(each)) for name, each in hits.items()}
    return {name: measure for name, measure in found.items() if measure is not None}


def _write(
    folder: Path,
    measures: Mapping[str, Measure],
    rows: tuple[Mapping[str, Any], ...],
    examples: int,
) -> None:
    from agent_finetune.evaluate import Report  # needs torch

    Report(measures=measures, rows=rows, examples=examples).write(folder)
