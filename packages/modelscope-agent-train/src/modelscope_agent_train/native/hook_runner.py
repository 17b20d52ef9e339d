"""ModelScope's hooks in a run of the kernel: one TrainerCallback that calls them in their order.

An iteration of ModelScope is one forward pass; an optimizer step holds as many of them as gradients
are accumulated over. `before_train_iter` and `after_train_iter` are called around each. The loss
is known when a step is over, so that is when it reaches `log_buffer`, before `after_train_iter`.

Where a step or an epoch ends in an evaluation, hooks of a lower priority than NORMAL are called
after it, as ModelScope does it, so that an early stop sees the metrics of this evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelscope.trainers.hooks.priority import Priority, get_priority
from modelscope.utils.constant import LogKeys, ModeKeys
from transformers import TrainerCallback

from agent_finetune import artifacts

if TYPE_CHECKING:
    from modelscope_agent_train.native.trainer import AgentTrainer

_STATES = "hooks.json"


def priority_of(hook: Any) -> int:
    """Where a hook stands in the order; 0 is first."""
    return int(get_priority(hook.PRIORITY) if hasattr(hook, "PRIORITY") else Priority.NORMAL.value)


class HookRunner(TrainerCallback):
    """Calls the hooks of an `AgentTrainer`, and keeps what that promises them up to date."""

    def __init__(self, trainer: AgentTrainer) -> None:
        self.trainer = trainer
        self._waiting: str | None = None
        """`iter` or `epoch`: what ends once its evaluation is over."""
        self._step_over = False
        """A step has ended and its loss is yet to come."""
        self._evaluating = False
        self._place = 0
        """Of the next iteration in its epoch."""
        self._resumed = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        trainer = self.trainer
        trainer.optimizer, trainer.lr_scheduler = given["optimizer"], given["lr_scheduler"]
        trainer.train_dataloader = given["train_dataloader"]
        trainer.cumulative_iters = args.gradient_accumulation_steps
        trainer._train_iters_per_epoch = len(given["train_dataloader"])
        trainer._dist = args.world_size > 1
        if state.global_step:
            self._resume(state, Path(args.output_dir) / f"checkpoint-{state.global_step}")
        self._call("before_run")
        if args.eval_on_start:
            self._begin_evaluation()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self._resumed:
            self._place = 0
        self._resumed = False
        self.trainer._mode = ModeKeys.TRAIN
        self._call("before_train_epoch")
        self.trainer.log_buffer.output[LogKeys.LR] = self._learning_rate()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._begin_iteration()

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._end("iter", control, evaluates=False)
        self._begin_iteration()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._step_over = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not self._step_over or "loss" not in logs:
            return
        self._step_over = False
        found = {name: logs[name] for name in ("loss", "grad_norm") if name in logs}
        self.trainer.log_buffer.update(found)
        self._end("iter", control, evaluates=control.should_evaluate)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._end("epoch", control, evaluates=control.should_evaluate)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._begin_evaluation()

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any
    ) -> None:
        self._begin_evaluation()
        trainer = self.trainer
        trainer.take_metrics(metrics)
        self._call("after_val")
        self._evaluating = False
        if self._waiting is not None:  # else it is before the first step, or after the last
            for name, value in (trainer.metric_values or {}).items():
                trainer.log_buffer.output[f"evaluation/{name}"] = value
            trainer.log_buffer.ready = True
            self._finish(self._waiting, control)  # in the mode eval, as loggers expect it
        trainer._mode = ModeKeys.TRAIN

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        states = {name: hook.state_dict() for name, hook in self._with_states().items()}
        if not args.should_save or not any(states.values()):
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if checkpoint.is_dir():
            artifacts.write_json(checkpoint / _STATES, states)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._call("after_run")

    def _end(self, what: str, control: Any, *, evaluates: bool) -> None:
        """End an iteration or an epoch: at once, or around the evaluation that comes now."""
        if what == "iter":
            self.trainer.log_buffer.output[LogKeys.LR] = self._learning_rate()
        self._call(f"after_train_{what}", lambda place: place <= Priority.NORMAL.value)
        if evaluates:
            self._waiting = what
            self._begin_evaluation()
        else:
            self._finish(what, control)

    def _finish(self, what: str, control: Any) -> None:
        trainer, self._waiting = self.trainer, None
        self._call(f"after_train_{what}", lambda place: place > Priority.NORMAL.value)
        if what == "iter":
            trainer._iter += 1
        else:
            trainer._epoch += 1
            trainer._inner_iter = 0
        if trainer._stop_training:
            control.should_training_stop = True

    def _begin_iteration(self) -> None:
        self.trainer._mode = ModeKeys.TRAIN
        self.trainer._inner_iter = self._place
        self._place += 1
        self._call("before_train_iter")

    def _begin_evaluation(self) -> None:
        if not self._evaluating:
            self._evaluating = True
            self.trainer._mode = ModeKeys.EVAL
            self._call("before_val")

    def _learning_rate(self) -> float:
        return float(self.trainer.optimizer.param_groups[0]["lr"])

    def _call(self, stage: str, of: Callable[[int], bool] = lambda _: True) -> None:
        for hook in self.trainer.hooks:
            if hasattr(hook, stage) and of(priority_of(hook)):
                getattr(hook, stage)(self.trainer)

    def _with_states(self) -> dict[str, Any]:
        hooks = [hook for hook in self.trainer.hooks if hasattr(hook, "state_dict")]
        return {f"{type(hook).__name__}-{place}": hook for place, hook in enumerate(hooks)}

    def _resume(self, state: Any, checkpoint: Path) -> None:
        """Count on from where a checkpoint stopped, and give hooks what they had kept."""
        trainer = self.trainer
        per_epoch = trainer._train_iters_per_epoch
        steps = -(-per_epoch // trainer.cumulative_iters)
        trainer._epoch, step = divmod(state.global_step, steps)
        self._place = trainer._inner_iter = min(step * trainer.cumulative_iters, per_epoch)
        self._resumed = True
        trainer._iter = trainer._epoch * per_epoch + self._place
        file = checkpoint / _STATES
        states: Mapping[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
        for name, hook in self._with_states().items():
            if states.get(name):
                hook.load_state_dict(states[name])
