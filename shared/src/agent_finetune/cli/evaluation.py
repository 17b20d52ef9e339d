"""`eval`: how well a model calls tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from agent_finetune.cli.options import NO_OUTPUT, RESULT, DataFlags, ModelFlags, OutputFlags, log


def evaluate(
    *,
    model: ModelFlags,
    data: DataFlags,
    out: Annotated[str | None, Parameter(group=RESULT)] = None,
    limit: Annotated[int | None, Parameter(group=RESULT)] = None,
    steps: Annotated[Literal["last", "all"], Parameter(group=RESULT)] = "last",
    batch_size: Annotated[int, Parameter(group=RESULT)] = 16,
    max_new_tokens: Annotated[int, Parameter(group=RESULT)] = 256,
    output: OutputFlags = NO_OUTPUT,
) -> int:
    """Let a model answer every example, and score its tool calls.

    Args:
        out: Folder for the metrics and one JSON line per example.
        limit: Examples at most.
        steps: Score each example's last turn, or all turns of the model's own.
        batch_size: Turns generated at once.
        max_new_tokens: Most tokens of an answer.
    """
    from agent_finetune import adapters, readers
    from agent_finetune import evaluate as evaluation
    from agent_finetune.settings import read_settings

    settings = read_settings()
    read = readers.read_configured(data, settings)
    examples = read.examples[:limit]
    log(f"{data.data}: format {read.format}, {len(examples)} of {len(read.examples)} examples")
    loaded = adapters.open_model(model, settings)
    with evaluation.progress("answers") as on_progress:
        report = evaluation.evaluate(
            loaded,
            examples,
            steps=steps,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            on_progress=on_progress,
        )
    if out is not None:
        report.write(Path(out))
        log(f"one line per example: {out}")
    values = {"metrics": dict(report.metrics), "counts": dict(report.counts)}
    return output.answer(values, report.table())
