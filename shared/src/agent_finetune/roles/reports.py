"""What an evaluation of a team found: figures, and what was said, a row for each step or run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent_finetune import metrics
from agent_finetune.metrics import Measure
from agent_finetune.records import AcceptedCall
from agent_finetune.roles.metrics import COLUMNS, table
from agent_finetune.roles.prompts import Step
from agent_finetune.roles.turns import Turn

RUN_COLUMNS: Mapping[str, str] = {
    "done": "Done",
    "done_with_detours": "Done, with detours",
    "calls_right": "Calls right",
    "ended_right": "Ended right",
    "hallucination": "Hallu.",
    "rouge_l": "R-L",
}


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
    left_out: Mapping[str, int] = field(default_factory=dict)
    """What could not be measured, counted by the reason."""

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
    left_out: Mapping[str, int] = field(default_factory=dict)
    """What could not be measured, counted by the reason."""

    def table(self, name: str = "team") -> str:
        """Values, 95% intervals of rates, and n."""
        return table({name: self.measures}, RUN_COLUMNS)

    def write(self, folder: Path) -> None:
        """Write `examples.jsonl`, one row a line, then `metrics.json`; each whole or not at all."""
        _write(folder, self.measures, self.rows, self.examples)


def shown(right: Step, calls: Sequence[AcceptedCall]) -> dict[str, Any]:
    """A right step as JSON, its calls with every right value."""
    listed = [
        {"name": c.name, "arguments": {k: list(v) for k, v in c.arguments.items()}} for c in calls
    ]
    return {"next": right.plan.next, "calls": listed, "answer": right.answer}


def made(turn: Turn) -> dict[str, Any]:
    """A turn as JSON: what was said, and what was made of it."""
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


def rates(**hits: Sequence[bool]) -> dict[str, Measure]:
    """Shares of what is true, by name; none of nothing."""
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
