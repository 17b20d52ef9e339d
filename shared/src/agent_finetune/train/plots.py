"""A picture of how the loss went."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from agent_finetune.artifacts import write_bytes
from agent_finetune.train.history import History


def loss_curve(history: History, path: Path, *, unit: str) -> None:
    """Draw training and held-out loss over optimizer steps into a PNG file."""
    # A Figure of its own, not pyplot: no global state, no display, nothing to close.
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, key, lines, style in (
        ("training", "loss", history.training, "-"),
        ("held out", "eval_loss", history.evaluations, "o-"),
    ):
        if lines:
            axes.plot(
                [line["step"] for line in lines], [line[key] for line in lines], style, label=name
            )
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(f"loss ({unit})")
    axes.grid(alpha=0.3)
    if axes.has_data():
        axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_bytes(path, content.getvalue())
