"""What a translation of a ModelScope configuration is made of: its keys, and what they become."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent_finetune.contracts import Secret

NEVER = 10**9
"""Steps between things that happen only at the end."""
EVERY = 10**6
"""Checkpoints that are kept when all are."""

LOSSES = ("loss", "eval_loss", "ppl", "agent-ppl")
"""Metrics whose best value is that of the lowest loss."""

_ROWS = "rows lie in memory, and the collator of agent-finetune deals them out"
_NO_EFFECT = {
    "train.dataloader.workers_per_gpu": _ROWS,
    "train.dataloader.num_workers": _ROWS,
    "train.dataloader.pin_memory": _ROWS,
    "train.dataloader.persistent_workers": _ROWS,
    "train.dataloader.shuffle": "rows are shuffled by seed in each epoch",
    "train.dataloader.drop_last": "every row is trained in each epoch",
    "train.lr_scheduler.T_max": "the learning rate falls over the whole run",
    "train.lr_scheduler.eta_min": "the learning rate falls to 0",
    "train.lr_scheduler.last_epoch": "a resumed run knows its own step",
    "train.lr_scheduler.options.by_epoch": "the learning rate falls at every step",
    "train.lr_scheduler.options.lr_strategy": "the learning rate falls at every step",
    "train.lr_scheduler.options.warmup.type": "the learning rate rises linearly from 0",
    "train.lr_scheduler.options.warmup.warmup_ratio": "the learning rate rises from 0",
    "train.optimizer.options.loss_keys": "there is one loss",
    "CheckpointHook.upload_strategy": "the result is sent once, when the run is over",
    "evaluation.dataloader": "rows are measured in batches of train.dataloader",
    "evaluation.period.start_idx": "evaluation begins with the run",
}
"""Keys of ModelScope that set nothing here, and why; a key stands for all below it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What a configuration does not say."""

    out: Path
    model_dir: Path | None
    rows: int
    processes: int = 1
    evaluates: bool
    method: str
    seed: int
    max_epochs: float | None = None
    """Of the trainer's arguments; wins over the tree."""
    gradient_checkpointing: bool = False
    tool_examples: int = 0
    """Held-out examples whose calls could be generated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Push:
    """What CheckpointHook says of sending the result to ModelScope's hub."""

    id: str
    token: Secret | None
    """None takes that of the environment."""
    private: bool
    revision: str


@dataclass(kw_only=True)
class Draft:
    """A translation while it is made."""

    run: Run
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    executed: list[Mapping[str, Any]] = field(default_factory=list)
    outputs: dict[str, Path] = field(default_factory=dict)
    push: Push | None = None

    @property
    def accumulation(self) -> int:
        return int(self.values.get("gradient_accumulation", 1))

    @property
    def steps_per_epoch(self) -> int:
        together = int(self.values["batch_size"]) * self.run.processes
        batches = math.ceil(self.run.rows / together)
        return max(1, math.ceil(batches / self.accumulation))

    def steps(self, iterations: int) -> int:
        """Optimizer steps in so many of ModelScope's iterations, which are forward passes."""
        return max(1, math.ceil(iterations / self.accumulation))

    def every(self, strategy: str, interval: int) -> int | None:
        """Steps between events; None is at the end of each epoch."""
        if strategy == "by_step":
            return self.steps(interval)
        return None if interval == 1 else interval * self.steps_per_epoch


class Keys:
    """A tree of keys that knows which of them nobody has asked for."""

    def __init__(self, tree: Mapping[str, Any], name: str) -> None:
        self.tree = dict(tree)
        self.name = name
        self._asked: set[str] = set()

    def take(self, path: str, default: Any = None) -> Any:
        """The value at `a.b.c`, or the default."""
        self._asked.add(path)
        found: Any = self.tree
        for key in path.split("."):
            if not isinstance(found, Mapping) or found.get(key) is None:
                return default
            found = found[key]
        return found

    def left(self) -> Iterator[str]:
        """Full names of keys that hold something and were not asked for."""
        for path in _leaves(self.tree, ""):
            if not any(path == asked or path.startswith(f"{asked}.") for asked in self._asked):
                yield f"{self.name}.{path}"

    def asked(self) -> list[str]:
        """Full names of keys that have a meaning."""
        return [f"{self.name}.{path}" for path in sorted(self._asked)]


def unused(keys: Keys) -> Iterator[str]:
    """A note for each key that sets nothing."""
    for name in keys.left():
        reason = next(
            (why for key, why in _NO_EFFECT.items() if name == key or name.startswith(f"{key}.")),
            None,
        )
        if reason is not None:
            yield f"{name}: no effect, {reason}"
            continue
        near = difflib.get_close_matches(name, keys.asked(), n=1, cutoff=0.8)
        yield f"{name}: not known, no effect" + (f"; did you mean {near[0]}?" if near else "")


def _leaves(tree: Any, prefix: str) -> Iterator[str]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif tree is not None:
        yield prefix
