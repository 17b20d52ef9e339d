"""What ModelScope's trainers promise to hooks."""

from __future__ import annotations

import time
from typing import Any

from modelscope.trainers.base import BaseTrainer
from modelscope.trainers.utils.log_buffer import LogBuffer
from modelscope.utils.constant import ModeKeys

from agent_finetune.contracts import LoadedModel
from modelscope_agent_train.native.data import Data
from modelscope_agent_train.native.hook_runner import priority_of


class HookedTrainer(BaseTrainer):  # type: ignore[misc]
    """Holds hooks, and what they may ask for; `HookRunner` keeps it up to date in a run."""

    loaded: LoadedModel
    eval_data: Data

    def __init__(self, seed: int) -> None:
        """Begin before the first iteration."""
        # Not the base's __init__: that wants a file, and a model need not have one.
        self.args = None
        self.log_buffer, self.visualization_buffer = LogBuffer(), LogBuffer()
        self.timestamp = time.strftime("%Y%m%d_%H%M%S", time.localtime())
        self._seed = seed
        self._hooks: list[Any] = []
        self._mode = ModeKeys.TRAIN
        self._epoch = self._iter = self._inner_iter = 0
        self._train_iters_per_epoch = 0
        self._stop_training = False
        self._dist = False
        self._metric_values: dict[str, float] | None = None
        self.optimizer: Any = None
        self.lr_scheduler: Any = None
        self.train_dataloader: Any = None
        self.cumulative_iters = 1
        self.train_preprocessor = self.eval_preprocessor = None
        self._max_epochs = 0.0

    @property
    def model(self) -> Any:
        """The model that is trained, with its adapter."""
        return self.loaded.model

    @property
    def hooks(self) -> list[Any]:
        """Every hook that is run, in the order in which they are called."""
        return self._hooks

    @property
    def iter(self) -> int:
        """Iterations (forward passes) done before the one under way."""
        return self._iter

    @property
    def inner_iter(self) -> int:
        """Place of the iteration in its epoch."""
        return self._inner_iter

    @property
    def epoch(self) -> int:
        """Epochs done before the one under way."""
        return self._epoch

    @property
    def max_epochs(self) -> float:
        """Epochs of the whole run."""
        return self._max_epochs

    @property
    def iters_per_epoch(self) -> int:
        """Iterations of an epoch; in an evaluation, rows that are measured."""
        if self._mode == ModeKeys.EVAL:
            return len(self.eval_data.rows)
        return self._train_iters_per_epoch

    @property
    def max_iters(self) -> int:
        """Iterations of the whole run."""
        return int(self._max_epochs * self._train_iters_per_epoch)

    @property
    def mode(self) -> str:
        """`train`, or `eval` while rows are measured."""
        return str(self._mode)

    @property
    def metric_values(self) -> dict[str, float] | None:
        """The last evaluation; None before the first."""
        return self._metric_values

    def get_hook(self, cls: type) -> list[Any]:
        """Hooks of exactly this class."""
        return [hook for hook in self._hooks if type(hook) is cls]

    def register_hook(self, hook: Any) -> None:
        """Add a hook, behind those of its priority."""
        self._hooks.append(hook)
        self._hooks.sort(key=priority_of)  # a stable sort

    def unwrap_module(self, model: Any) -> Any:
        """The model itself, out of what DDP or DeepSpeed put around it."""
        return self.unwrap_module(model.module) if hasattr(model, "module") else model

    def _invoke(self, stage: str) -> None:
        for hook in self._hooks:
            if hasattr(hook, stage):
                getattr(hook, stage)(self)
