"""What an evaluation found: figures, how sure they are, and every single answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agent_finetune.artifacts import write_json, write_text
from agent_finetune.metrics import Measure

LABELS = {
    "name_accuracy": "right tool names",
    "exact_match": "fully right calls",
    "argument_f1": "argument F1",
    "argument_f1_nonempty": "argument F1, where there are any",
    "valid_json": "calls that parse",
    "schema_valid": "calls that meet their tool's schema",
    "hallucinated": "steps with an unknown tool",
    "hallucinated_arguments": "calls with an unknown argument",
    "missing": "missing calls",
    "spurious": "spurious calls",
    "rouge_l": "Rouge-L of the words",
    "cut_off": "answers cut off",
}
"""A metric's name for people; definitions are in `agent_finetune.metrics` and `evaluate`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Figures over all steps, and a row for each."""

    measures: Mapping[str, Measure]
    """By metric; one that had nothing to be measured on is not there."""
    rows: tuple[Mapping[str, Any], ...]
    """JSON-able: id, source, step (messages before it), the prompt's end and number of tokens,
    right calls and words, the answer as generated, its calls and what was broken, and the score."""
    examples: int

    @property
    def metrics(self) -> dict[str, float]:
        """Value by metric."""
        return {name: measure.value for name, measure in self.measures.items()}

    @property
    def counts(self) -> dict[str, int]:
        """Examples, steps, and for each metric the number of things that it is a mean over."""
        totals = {"examples": self.examples, "steps": len(self.rows)}
        return totals | {name: measure.n for name, measure in self.measures.items()}

    def table(self) -> str:
        """Metric, value, 95% Wilson interval of rates, and n, in columns."""
        cells = [("", "", "95% interval", "n")]
        cells += [(LABELS[name], *_cells(measure)) for name, measure in self.measures.items()]
        label, *widths = (max(map(len, column)) for column in zip(*cells, strict=True))
        lines = (
            f"{name:{label}}  "
            + "  ".join(f"{cell:>{width}}" for cell, width in zip(rest, widths, strict=True))
            for name, *rest in cells
        )
        return "\n".join(line.rstrip() for line in lines)

    def write(self, folder: Path) -> None:
        """Write `examples.jsonl`, one row a line, then `metrics.json`; each whole or not at all."""
        # A model may write half a surrogate pair, which JSON can say and UTF-8 cannot.
        lines = (json.dumps(row, ensure_ascii=False) for row in self.rows)
        text = "".join(f"{line}\n" for line in lines)
        write_text(folder / "examples.jsonl", text.encode(errors="backslashreplace").decode())
        measures = {name: asdict(measure) for name, measure in self.measures.items()}
        write_json(folder / "metrics.json", {"counts": self.counts, "metrics": measures})


def _cells(measure: Measure) -> tuple[str, str, str]:
    if measure.hits is None or measure.low is None or measure.high is None:
        return f"{measure.value:.3f}", "", str(measure.n)
    interval = f"{measure.low:.1%} to {measure.high:.1%}"
    return f"{measure.value:.1%}", interval, f"{measure.hits} of {measure.n}"
