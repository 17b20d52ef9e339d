"""history.jsonl: one JSON object per log step and per evaluation, in the order they happened.

A training line has `step`, `epoch`, `loss` (nats per trained token), `learning_rate`,
`grad_norm` (before clipping; null where float16 overflowed and the step was skipped), `tokens`
(seen so far, padding not counted), `tokens_per_second` (since the line before, evaluation and
saving not counted) and `seconds` (since the run began, all its sessions together). An
evaluation line has `step`, `epoch`, `seconds`, `eval_loss`, and the tool metrics where calls are
generated. Step 0 is before training.

With objectives dpo and kto the loss is per row, and lines have what `PREFERENCE` names, evaluation
lines with `eval_` before the name: `chosen` and `rejected`, the mean log-probability of whole
answers (for kto of the good and the bad ones) in nats; `margin`, beta times how much further the
chosen have moved away from the reference than the rejected; `accuracy`, the share of pairs in
which they have (dpo); `kl`, the measured distance to the reference in nats (kto).
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from agent_finetune.artifacts import json_of, needing_room, write_text
from agent_finetune.errors import ConfigError

Line = dict[str, Any]

PREFERENCE = {
    "chosen": "logps/chosen",
    "rejected": "logps/rejected",
    "margin": "rewards/margins",
    "accuracy": "rewards/accuracies",
    "kl": "kl",
}
"""Our names for what TRL's preference trainers measure."""


class History:
    """The lines of one run, on disk as soon as they are added."""

    def __init__(self, path: Path, *, resume_at: int | None = None) -> None:
        """Begin a history, or take one up again.

        Args:
            path: The file; it is made at once.
            resume_at: Step of the checkpoint that the run goes on from; what came after it will
                happen again and is forgotten. None begins anew.
        """
        self.path = path
        self.lines: list[Line] = []
        if resume_at is not None:
            self.lines = [line for line in read(path) if line["step"] <= resume_at]
        write_text(path, "".join(json.dumps(line) + "\n" for line in self.lines))

    def add(self, line: Line) -> None:
        """Append one line and flush it to the disk; a number that is none becomes null.

        Raises:
            DiskError: There is no room for it.
        """
        line = {key: None if _not_finite(value) else value for key, value in line.items()}
        self.lines.append(line)
        with needing_room(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    @property
    def training(self) -> list[Line]:
        """The lines of optimizer steps."""
        return [line for line in self.lines if "loss" in line]

    @property
    def evaluations(self) -> list[Line]:
        """The lines of evaluations."""
        return [line for line in self.lines if "eval_loss" in line]


def _not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def read(path: Path) -> list[Line]:
    """The lines of a history; a last line that was cut off in the writing is left out.

    Raises:
        ConfigError: A line is not one of ours; it is named.
    """
    if not path.exists():
        return []
    lines: list[Line] = []
    for number, text in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        if text:
            line = json_of(text, dict, f"{path}:{number}")
            if not isinstance(line.get("step"), int):
                raise ConfigError(f"{path}:{number}: damaged, no step in it")
            lines.append(line)
    return lines
