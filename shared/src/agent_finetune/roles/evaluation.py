"""Hold a team against trajectories: step by step after the right history, or end to end.

Step by step is the paper's way; its metrics are in `roles.metrics`. End to end the team lives with
its own history: each call gets a result, until it concludes, gives up, or has had its steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent_finetune import metrics
from agent_finetune.config import check_at_least
from agent_finetune.errors import DataError
from agent_finetune.metrics import Measure
from agent_finetune.records import Example
from agent_finetune.roles.metrics import StepMarks, mark, summarize
from agent_finetune.roles.prompts import Next, Step, step_of
from agent_finetune.roles.reports import RolesReport, RunsReport, made, rates, shown
from agent_finetune.roles.running import (
    ROW,
    STUCK,
    Accepted,
    ResultOf,
    Run,
    is_row,
    no_run,
    right_calls,
)
from agent_finetune.roles.team import Asked, Team

__all__ = ["RolesReport", "RunsReport", "evaluate_runs", "evaluate_steps"]


def evaluate_steps(
    team: Team,
    examples: Sequence[Example],
    *,
    accepted: Accepted | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> RolesReport:
    """Let a team make every assistant turn, each after the right history.

    Turns that are not the model's own (`trained` is off) are history only. A turn that does not
    say what is right is left out and counted, and so is a published row of one part alone.

    Args:
        team: Who is measured.
        examples: Trajectories, as histories of `roles.prompts`.
        accepted: Right calls with alternatives for the turn at a place of an example's messages;
            none, or no such function, takes the turn's own.
        on_progress: Called with the number of steps done and of all.

    Raises:
        DataError: There is not one step.
    """
    todo, left_out = _steps(examples)
    turns = team.turns(
        [Asked(messages=e.messages[:place], tools=e.tools) for e, place, _ in todo],
        on_progress=on_progress,
    )
    marks, rows = [], []
    for (example, place, right), turn in zip(todo, turns, strict=True):
        calls = right_calls(example, place, right, accepted)
        one = mark(turn.step, right, broken=turn.broken, tools=example.tools, accepted=calls)
        marks.append(one)
        rows.append(
            {"id": example.id, "source": example.source, "step": place}
            | {"right": shown(right, calls)}
            | made(turn)
            | _marked(one)
        )
    measures = summarize(marks) | rates(
        cut_off=[bool(turn.cut_off) for turn in turns],
        too_long=[bool(turn.too_long) for turn in turns],
    )
    return RolesReport(
        measures=measures, rows=tuple(rows), examples=len(examples), left_out=left_out
    )


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
        examples: Trajectories; one that ends neither in an answer nor giving up is left out and
            counted.
        result_of: What a call gives; None answers a right call as the trajectory does, and any
            other with an error.
        accepted: As in `evaluate_steps`.
        most_steps: Turns that a run may have.
        on_progress: Called with the number of runs done and of all.

    Raises:
        DataError: There is not one whole trajectory.
    """
    check_at_least("most_steps", most_steps, 1)
    whys = [no_run(example) for example in examples]
    left_out = dict(Counter(filter(None, whys)))
    runs = [Run(e, accepted) for e, why in zip(examples, whys, strict=True) if not why]
    if not runs:
        raise DataError(_nothing("trajectory", examples, left_out))
    for number in range(most_steps):
        going = [run for run in runs if not run.ended]
        if not going:
            break
        if on_progress is not None:
            on_progress(len(runs) - len(going), len(runs))
        turns = team.turns([Asked(messages=r.history, tools=r.example.tools) for r in going])
        for run, turn in zip(going, turns, strict=True):
            run.take(turn, result_of, last=number + 1 == most_steps)
    if on_progress is not None:
        on_progress(len(runs), len(runs))
    marks = [run.marks() for run in runs]
    rows = [run.about() | one for run, one in zip(runs, marks, strict=True)]
    return RunsReport(
        measures=_run_measures(marks), rows=tuple(rows), examples=len(runs), left_out=left_out
    )


def _steps(
    examples: Sequence[Example],
) -> tuple[list[tuple[Example, int, Step]], dict[str, int]]:
    """Every turn to be made: its place and what it says; and what is left out."""
    todo: list[tuple[Example, int, Step]] = []
    left_out: Counter[str] = Counter()
    for example in examples:
        if is_row(example):
            left_out[ROW] += 1
            continue
        for place, message in enumerate(example.messages):
            if message.role != "assistant" or not message.trained:
                continue
            step = step_of(message)
            if step.plan.next is Next.CALL and not step.calls:
                left_out["the call is missing"] += 1
            else:
                todo.append((example, place, step))
    if not todo:
        raise DataError(_nothing("assistant turn", examples, left_out))
    return todo, dict(left_out)


def _nothing(what: str, examples: Sequence[Example], left_out: Mapping[str, int]) -> str:
    reasons = "; ".join(f"{count} {why}" for why, count in left_out.items())
    source = next((example.source for example in examples if example.source), "examples")
    return f"{source}: {len(examples)} examples, and no {what} to be measured on" + (
        f": {reasons}" if reasons else ""
    )


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
    names = ("done", "done_with_detours", "calls_right", "ended_right", "hallucination")
    found = rates(**{name: [one[name] for one in marks] for name in names})
    rouge = metrics.mean([one["rouge_l"] for one in marks if one["rouge_l"] is not None])
    steps = metrics.mean([one["steps"] for one in marks])
    return (
        found
        | ({"rouge_l": rouge} if rouge else {})
        | rates(**{why: [one["ended"] == why for one in marks] for why in STUCK})
        | ({"steps": steps} if steps else {})
    )
