"""What an evaluation found, for people, for programs, and step by step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agent_finetune import evaluate
from agent_finetune.artifacts import write_json, write_text
from agent_finetune.metrics import Measure
from modelscope_agent_train.evaluation.free_runs import FreeRuns
from modelscope_agent_train.legacy_metrics import LegacyNumbers


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Figures after the right history, and where asked for in runs of the model's own."""

    answerer: str
    """Who answered."""
    steps: evaluate.Report
    free: FreeRuns | None = None
    legacy: LegacyNumbers | None = None
    unusable: int = 0
    """Steps left out, because what should be right does not parse."""

    @property
    def metrics(self) -> dict[str, float]:
        """Value by metric; those of runs begin with `free_`, those of 2023 with `legacy_`."""
        found = dict(self.steps.metrics)
        if self.free is not None:
            found |= {f"free_{name}": one.value for name, one in self.free.measures.items()}
        if self.legacy is not None:
            numbers = asdict(self.legacy)
            found |= {
                f"legacy_{name}": value
                for name in ("action_em", "input_em", "rouge")
                if (value := numbers[name]) is not None
            }
        return found

    @property
    def counts(self) -> dict[str, int]:
        """Examples, steps, and what each metric is a mean over."""
        left_out = {"unusable": self.unusable} if self.unusable else {}
        return self.steps.counts | left_out

    @property
    def rows(self) -> tuple[Mapping[str, Any], ...]:
        """A row for each step, as in `steps.jsonl`."""
        return self.steps.rows

    def table(self) -> str:
        """Metric, value, interval and n, in columns; runs and 2023's numbers below."""
        parts = [
            f"{self.answerer}: {self.counts['examples']} examples, {self.counts['steps']} steps",
            self.steps.table(),
        ]
        if self.unusable:
            parts.append(f"{self.unusable} steps left out: the right call does not parse")
        if self.free is not None:
            parts += ["runs on the model's own turns", self.free.table()]
        if self.legacy is not None:
            parts += ["as computed in 2023, its faults included", self.legacy.table()]
        return "\n\n".join(parts)

    def write(self, folder: Path) -> None:
        """Write `steps.jsonl`, `free_runs.jsonl` where there are runs, and `metrics.json`."""
        write_lines(folder / "steps.jsonl", self.steps.rows)
        if self.free is not None:
            write_lines(folder / "free_runs.jsonl", self.free.rows)
        write_json(folder / "metrics.json", self.values())

    def values(self) -> dict[str, Any]:
        """All figures as JSON."""
        found: dict[str, Any] = {
            "answerer": self.answerer,
            "counts": self.counts,
            "metrics": _as_json(self.steps.measures),
        }
        if self.free is not None:
            found["free_run"] = _as_json(self.free.measures)
        if self.legacy is not None:
            found["legacy"] = asdict(self.legacy)
        return found


def write_lines(path: Path, rows: tuple[Mapping[str, Any], ...]) -> None:
    """Write a JSON lines file, whole or not at all."""
    # A model may write half a surrogate pair, which JSON can say and UTF-8 cannot.
    text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    write_text(path, text.encode(errors="backslashreplace").decode())


def _as_json(measures: Mapping[str, Measure]) -> dict[str, Any]:
    return {name: asdict(measure) for name, measure in measures.items()}
