"""The figures of `multi_llm` for a person: a line for each arm, and the paper's beside it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from agent_finetune.roles.metrics import COLUMNS

PAPER: Mapping[str, tuple[float, ...]] = {
    "single": (84.61, 56.54, 2.26, 50.09, 47.99),
    "multi-task": (86.55, 56.89, 2.77, 49.50, 32.58),
    "one stage": (88.42, 53.40, 2.52, 45.79, 46.39),
    "two stages": (89.72, 60.47, 0.45, 53.60, 46.26),
}
"""arXiv 2401.07324, table 1, 7B, out of domain, in percent: the columns but the non-empty F1."""
HEADS = {"argument_f1_nonempty": "non-empty", "hallucination": "Hallu."}
"""Shorter than those of a single report."""


def whole(found: Mapping[str, Any]) -> str:
    """All tables of a benchmark's JSON."""
    seeds = found["seeds"]
    arms = [arm for arm in PAPER if any(arm in seed for seed in seeds.values())]
    columns = [HEADS.get(name, head) for name, head in COLUMNS.items()]
    rows = [["", *columns, "done", "tokens", "minutes", "seeds"]]
    spread = "" if len(seeds) == 1 else ", mean and standard deviation over the seeds"
    held_out = found["settings"]["trajectories"]["held_out"]
    for arm in arms:
        runs = [seed[arm] for seed in seeds.values() if arm in seed]
        cells = [_percent([_value(run["steps"], column) for run in runs]) for column in COLUMNS]
        cells.append(_percent([_value(run["runs"], "done") for run in runs]))
        cells.append(f"{statistics.mean(run['tokens'] for run in runs):.0f}")
        cells.append(f"{statistics.mean(map(_minutes, runs)):.1f}")
        cells.append(str(len(runs)))
        rows.append([arm, *cells])
    paper = [["", *columns]]
    for arm, (plan, names, unknown, f1, rouge) in PAPER.items():
        cells = [*(f"{v:.1f}%" for v in (plan, names, unknown, f1)), "-", f"{rouge:.1f}%"]
        paper.append([arm, *cells])
    lines = [
        f"{held_out} held-out trajectories, step by step behind the right history, and what was",
        f"done end to end{spread}",
        *_aligned(rows),
        "",
        "The paper, 7B, out of domain",
        *_aligned(paper),
    ]
    return "\n".join([*lines, "", *_cost(found["cost"])])


def _cost(cost: Mapping[str, Any]) -> list[str]:
    """What three roles cost, where they were trained."""
    if not cost:
        return []
    one, three = (cost[f"{name}_bytes"] / 1e6 for name in ("one_adapter", "three_adapters"))
    again = ", ".join(
        f"{part} {read['cached_tokens']} of {read['prompt_tokens']}"
        for part, read in cost["second_turn"].items()
    )
    return [
        f"tensors with one adapter {one:.1f} MB, with three {three:.1f} MB: "
        f"{cost['memory_ratio']:.3f} times as much",
        f"{cost['switches']} switches of role moved {cost['moved_bytes']} bytes; a token takes "
        f"{cost['one_role_ms']:.0f} ms in one role, {cost['switching_ms']:.0f} ms in turns",
        f"tokens of the second turn's prompt that were computed before: {again}",
    ]


def line(arm: str, run: Mapping[str, Any]) -> str:
    """One arm of one seed, in a line."""
    named = (f"{head} {_percent([_value(run['steps'], c)])}" for c, head in COLUMNS.items())
    done = _percent([_value(run["runs"], "done")])
    return f"{arm}: {', '.join(named)}, done end to end {done}; {_minutes(run):.1f} minutes"


def _value(measures: Mapping[str, Any], name: str) -> float | None:
    return measures[name]["value"] if name in measures else None


def _minutes(run: Mapping[str, Any]) -> float:
    return float(run["training_seconds"] + run["measuring_seconds"]) / 60


def _percent(values: Sequence[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.mean(known):.1f}%"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.1f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells in columns, the first to the left."""
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [
        f"{label:{first}}" + "".join(f"  {c:>{w}}" for c, w in zip(cells, widths, strict=True))
        for label, *cells in rows
    ]
