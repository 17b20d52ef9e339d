"""What is measured about planner, caller and summarizer, as pure functions.

Source: "Small LLMs Are Weak Tool Learners: A Multi-LLM Agent" (arXiv 2401.07324), and where the
paper leaves something open, the evaluation script of its released code, read and not copied. A
step is one assistant turn after the right history. Let S be all steps and C those whose right plan
is to call (the rest conclude or give up):

    Plan ACC    sum over S of [predicted next = right next] / |S|, next being one of caller,
                conclusion and give up. A plan that cannot be read is wrong.
    Act. EM     sum over C of [predicted tool names = right tool names] / |C|. No call is wrong.
    Hallu.      sum over S of [a predicted tool name is not offered] / |S|; over all steps, not
                over calls alone.
    Arg F1      mean over C of 2PR / (P + R); P = e / predicted keys, R = e / right keys, where a
                right key earns e 1 with a right value and 0.5 with a wrong one. 0 for a wrong name
                or arguments that do not parse; without right keys, 1 if none is predicted, else 0.
    R-L         mean of Rouge-L's F over the steps that conclude; 0 where no answer was given.

Where the definitions of `agent_finetune.metrics` agree they are used: argument F1 with its
half-point (`score_call`), pairing where several calls are right (`score_step`), Rouge-L, intervals.
Ours, and not the paper's: values are compared with BFCL's leniency, an argument may have several
right values, and the text of a missing answer is empty (theirs is the word "none").
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent_finetune import metrics
from agent_finetune.metrics import Measure
from agent_finetune.records import AcceptedCall, ToolCall
from agent_finetune.roles.prompts import Next, Step

COLUMNS: Mapping[str, str] = {
    "plan_accuracy": "Plan ACC",
    "action_exact_match": "Act. EM",
    "hallucination": "Hallu.",
    "argument_f1": "Arg F1",
    "argument_f1_nonempty": "Arg F1 (non-empty)",
    "rouge_l": "R-L",
}
"""The paper's columns, in its order, by metric; its 41% of calls without arguments are easy, so
that Arg F1 stands there a second time without them."""

# A broken call's name can be read where it is JSON so far.
_NAME = re.compile(r'"(?:name|api_name)"\s*:\s*("(?:[^"\\]|\\.)+")')


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMarks:
    """One step held against what was right."""

    wanted: Next
    planned: Next | None
    """None: what was said names no next step."""
    call: metrics.StepScore
    names: bool
    """The tools called are those that should be, each as often, whatever their arguments."""
    hallucinated: bool
    """A tool was called that is not offered."""
    rouge_l: float | None
    """Of the answer; None where none is wanted or known."""


def mark(
    said: Step,
    right: Step,
    *,
    broken: Sequence[str] = (),
    tools: Sequence[Mapping[str, Any]] = (),
    accepted: Sequence[AcceptedCall] | None = None,
) -> StepMarks:
    """Hold a step against the right one.

    Args:
        said: What the agent did.
        right: What it should have done; its plan has a next.
        broken: Calls of the agent that do not parse, raw.
        tools: Tools offered, `{"type": "function", "function": {...}}`.
        accepted: Right calls with alternatives; None takes those of `right` as they are.

    Raises:
        ValueError: The right plan says nothing.
    """
    wanted = right.plan.next
    if wanted is None:
        raise ValueError(f"the right step names nothing that comes next: {right.plan.thought!r}")
    calls = tuple(map(metrics.accepted_call, right.calls)) if accepted is None else accepted
    calls = calls if wanted is Next.CALL else ()
    names = list(_names(said.calls, broken))
    offered = {str(tool["function"]["name"]) for tool in tools}
    known = wanted is Next.CONCLUDE and right.answer
    return StepMarks(
        wanted=wanted,
        planned=said.plan.next,
        call=metrics.score_step(said.calls, calls, broken=len(broken), tools=tools),
        names=bool(calls) and Counter(names) == Counter(call.name for call in calls),
        hallucinated=any(name is not None and name not in offered for name in names),
        rouge_l=metrics.rouge_l(said.answer, right.answer) if known else None,
    )


def summarize(steps: Sequence[StepMarks]) -> dict[str, Measure]:
    """The paper's six figures, then some of ours; one without a thing to measure is left out.

    - `exact_match`: call steps where names and all arguments are right and nothing is broken.
    - `plan_caller`, `plan_conclusion`, `plan_give_up`: plan accuracy where that is the right plan.
    - `unreadable`: steps whose plan cannot be read.
    - `broken`: steps with a call that does not parse.

    Rates have a 95% Wilson interval, for which steps count as independent, though those of one
    conversation are not quite.
    """
    calling = [step for step in steps if step.wanted is Next.CALL]
    found = {
        "plan_accuracy": _share([step.planned is step.wanted for step in steps]),
        "action_exact_match": _share([step.names for step in calling]),
        "hallucination": _share([step.hallucinated for step in steps]),
        "argument_f1": metrics.mean([step.call.argument_f1 for step in calling]),
        "argument_f1_nonempty": metrics.mean(
            [step.call.argument_f1 for step in calling if step.call.wants_arguments]
        ),
        "rouge_l": metrics.mean([s.rouge_l for s in steps if s.rouge_l is not None]),
        "exact_match": _share([step.call.exact for step in calling]),
        **{
            f"plan_{next_.replace(' ', '_')}": _share(
                [step.planned is next_ for step in steps if step.wanted is next_]
            )
            for next_ in Next
        },
        "unreadable": _share([step.planned is None for step in steps]),
        "broken": _share([step.call.broken > 0 for step in steps]),
    }
    return {name: measure for name, measure in found.items() if measure is not None}


def table(reports: Mapping[str, Mapping[str, Measure]], columns: Mapping[str, str]) -> str:
    """Measures in columns; for each report a line of values, of 95% intervals, and of n.

    Args:
        reports: Measures by what they were measured on.
        columns: What stands over a measure, by its name; one that is not there shows as a dash.
    """
    cells = [("", *columns.values())]
    for name, measures in reports.items():
        found = [measures.get(column) for column in columns]
        cells.append((name, *(_percent(m.value) if m else "-" for m in found)))
        cells.append(("  95%", *(_interval(m) for m in found)))
        cells.append(("  n", *(str(m.n) if m else "" for m in found)))
    label, *widths = (max(map(len, column)) for column in zip(*cells, strict=True))
    lines = (
        f"{name:{label}}  " + "  ".join(f"{c:>{w}}" for c, w in zip(rest, widths, strict=True))
        for name, *rest in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def _names(calls: Sequence[ToolCall], broken: Sequence[str]) -> Iterator[str | None]:
    """Names called; None for a broken call whose name cannot be read."""
    yield from (call.name for call in calls)
    for raw in broken:
        found = _NAME.search(raw)
        try:
            yield str(json.loads(found[1])) if found else None
        except ValueError:
            yield None


def _share(hits: Sequence[bool]) -> Measure | None:
    return metrics.rate(sum(hits), len(hits))


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _interval(measure: Measure | None) -> str:
    if measure is None or measure.low is None or measure.high is None:
        return ""
    return f"{100 * measure.low:.1f}-{100 * measure.high:.1f}"
