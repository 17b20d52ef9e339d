"""What happens beside the steps: history, checkpoints, tool metrics, a bar that says how long."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback

from agent_finetune.train import folder
from agent_finetune.train.history import PREFERENCE, History
from agent_finetune.train.trainer import not_finite

SCALER_STEPS = 20
"""Steps in a row that float16 may skip: its scale begins at 2^16, and is then far below one."""


class HistoryWriter(TrainerCallback):
    """Lines of history.jsonl; on process 0 only."""

    def __init__(self, history: History, measure: Callable[[], Mapping[str, float]]) -> None:
        """Write into a history.

        Args:
            history: Holds the lines of the sessions before this one.
            measure: Generates and scores tool calls; called at each evaluation.
        """
        self.history = history
        self.measure = measure
        last = history.lines[-1] if history.lines else {}
        self._began: float = time.monotonic() - last.get("seconds", 0.0)
        self._step_began = 0.0
        self._working = 0.0
        """Seconds in optimizer steps since the last training line."""
        self._tokens = 0

    @property
    def seconds(self) -> float:
        """Since the run began, all its sessions together, the time between them left out."""
        return time.monotonic() - self._began

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._tokens = state.num_input_tokens_seen

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._step_began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._working += time.monotonic() - self._step_began

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" not in logs:  # an evaluation, or the summary at the end
            return
        tokens = state.num_input_tokens_seen
        self.history.add(
            {
                "step": state.global_step,
                "epoch": round(state.epoch, 4),
                "loss": logs["loss"],
                "learning_rate": logs["learning_rate"],
                "grad_norm": logs["grad_norm"],
                "tokens": tokens,
                "tokens_per_second": round((tokens - self._tokens) / max(self._working, 1e-9), 1),
                "seconds": round(self.seconds, 3),
                **{name: logs[key] for name, key in PREFERENCE.items() if key in logs},
            }
        )
        self._tokens, self._working = tokens, 0.0

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        measured = self.measure()
        self.history.add(
            {
                "step": state.global_step,
                "epoch": round(state.epoch or 0.0, 4),
                "seconds": round(self.seconds, 3),
                "eval_loss": metrics["eval_loss"],
                **{
                    f"eval_{name}": metrics[f"eval_{key}"]
                    for name, key in PREFERENCE.items()
                    if f"eval_{key}" in metrics
                },
                **measured,
            }
        )


class StepCount(TrainerCallback):
    """Optimizer steps that were taken, for whoever tells how a run ended."""

    def __init__(self) -> None:
        self.steps = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps = state.global_step


class CheckpointKeeper(TrainerCallback):
    """Marks a checkpoint as whole once every process has written its part, then drops old ones."""

    def __init__(self, out: Path, keep: int) -> None:
        self.out = out
        self.keep = keep

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        args.distributed_state.wait_for_everyone()
        if state.is_world_process_zero:
            name = f"checkpoint-{state.global_step}"
            folder.mark_whole(self.out / folder.CHECKPOINTS / name)
            folder.prune(self.out, keep=self.keep, best=state.best_model_checkpoint)


class GradientCheck(TrainerCallback):
    """Stops before a step that would fill the weights with NaN.

    The loss is looked at in every forward pass, but a gradient can overflow under a loss that is
    still finite; without this the weights would be lost and could reach a checkpoint. Under
    DeepSpeed there is no gradient to see here; `Housekeeping.training_step` looks at its norm.

    The scaler of float16 meets infinite gradients by design, skips those steps and halves its
    scale; where it skips one after another, no scale helps.
    """

    def __init__(self) -> None:
        self._skipped = 0

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        gradients = [p.grad for p in given["model"].parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if torch.isfinite(norm):
            self._skipped = 0
            return
        self._skipped += 1
        if not args.fp16 or self._skipped > SCALER_STEPS:
            raise not_finite("the gradient", norm.item(), state.global_step + 1)


class ProgressBar(TrainerCallback):
    """A bar with loss, speed and time left; a plain line every tenth where there is no terminal."""

    def __init__(self, history: History, console: Console | None = None) -> None:
        """Draw for a history.

        Args:
            history: Where loss and speed are read from.
            console: Where to draw; stderr unless given.
        """
        self.history = history
        self._console = Console(stderr=True) if console is None else console
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("training", note="")
        self._began = (0, 0.0)
        """Step and time at which this session began."""

    def close(self) -> None:
        """Give the terminal back; also after an error."""
        self._progress.stop()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._began = (state.global_step, time.monotonic())
        self._progress.start()
        self._progress.update(self._task, total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress.update(self._task, completed=state.global_step, description="training")

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress.update(self._task, description="evaluating")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" not in logs:
            return
        line = self.history.training[-1]
        note = f"loss {line['loss']:.3f}  {line['tokens_per_second']:.0f} tokens/s"
        self._progress.update(self._task, note=note)
        tenth = max(1, state.max_steps // 10)
        if not self._console.is_terminal and state.global_step % tenth == 0:
            done = f"step {state.global_step}/{state.max_steps}"
            self._console.print(f"{done}  {note}  {self._left(state)} left", highlight=False)

    def _left(self, state: Any) -> timedelta:
        step, then = self._began
        pace = (time.monotonic() - then) / (state.global_step - step)
        return timedelta(seconds=round(pace * (state.max_steps - state.global_step)))
