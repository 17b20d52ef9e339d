"""ModelScope's `EpochBasedTrainer`, on a CPU as on a GPU, with checkpoints that hold."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from modelscope.trainers.hooks.checkpoint.checkpoint_hook import BestCkptSaverHook, CheckpointHook
from modelscope.trainers.hooks.checkpoint.checkpoint_processor import CheckpointProcessor
from modelscope.trainers.hooks.checkpoint.load_checkpoint_hook import LoadCheckpointHook
from modelscope.trainers.trainer import EpochBasedTrainer
from modelscope.trainers.utils.inference import evaluate_batch
from modelscope.utils.data_utils import to_device
from torch import distributed
from transformers import AutoConfig, AutoModelForCausalLM

from modelscope_agent_train.registration import loaded
from modelscope_agent_train.repair.checkpoints import (
    RepairedCheckpoints,
    RepairedLoading,
    numpy_states,
)


class RepairedTrainer(EpochBasedTrainer):  # type: ignore[misc]
    """`EpochBasedTrainer` that runs on a CPU too, asks no hub, and loads and saves what it says."""

    def __init__(self, model: Any = None, *arguments: Any, **named: Any) -> None:
        # With this attribute ModelScope asks its hub whether the model is the newest.
        given = isinstance(model, torch.nn.Module)
        model_dir = model.__dict__.pop("model_dir", None) if given else None
        try:
            super().__init__(model, *arguments, **named)
        finally:
            if model_dir is not None:
                model.model_dir = model_dir

    def get_or_download_model_dir(self, model: str, *unused: Any, **named: Any) -> str:
        if os.path.exists(model):
            return model if os.path.isdir(model) else os.path.dirname(model)
        return str(super().get_or_download_model_dir(model, *unused, **named))

    def build_model(self) -> Any:
        """Transformers' own model, where the folder holds one; ModelScope's copies are of 2023."""
        if os.path.isfile(os.path.join(self.model_dir, "config.json")):
            config = AutoConfig.from_pretrained(
                self.model_dir, local_files_only=True, trust_remote_code=self.trust_remote_code
            )
            if any(name.endswith("ForCausalLM") for name in config.architectures or ()):
                return AutoModelForCausalLM.from_pretrained(
                    self.model_dir,
                    local_files_only=True,
                    dtype="auto",
                    trust_remote_code=self.trust_remote_code,
                )
        return super().build_model()

    def register_processors(self) -> None:
        for kind in (CheckpointHook, BestCkptSaverHook):
            for hook in self.get_hook(kind):
                if type(hook.processor) is CheckpointProcessor:
                    hook.set_processor(RepairedCheckpoints())
        super().register_processors()

    def set_checkpoint_file_to_hook(self, checkpoint_path: Any, *how: Any) -> None:
        if checkpoint_path is not None and not self.get_hook(RepairedLoading):
            self.register_hook(RepairedLoading())
            super().register_processors()  # DeepspeedHook's is for this one too
        super().set_checkpoint_file_to_hook(checkpoint_path, *how)

    def evaluate(self, checkpoint_path: Any = None, *others: Any, **named: Any) -> Any:
        self._load_weights(checkpoint_path)
        return super().evaluate(None, *others, **named)

    def predict(
        self, predict_datasets: Any, saving_fn: Any, checkpoint_path: Any = None, **named: Any
    ) -> None:
        self._load_weights(checkpoint_path)
        super().predict(predict_datasets, saving_fn, **named)

    def _load_weights(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            with numpy_states():
                LoadCheckpointHook.load_checkpoint(checkpoint, self, load_all_state=False)

    def to_parallel(self, model: Any) -> Any:
        if self.device.type == "cuda":
            return super().to_parallel(model)
        return torch.nn.parallel.DistributedDataParallel(
            model, find_unused_parameters=True, process_group=self.dp_group
        )

    def train_step(self, model: Any, inputs: Any) -> None:
        """A forward pass; its loss is averaged over processes where it is, not on a GPU."""
        model.train()
        outputs = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
        if not isinstance(outputs, Mapping):
            raise TypeError('"model.forward()" must return a dict')
        self.train_outputs = outputs = dict(outputs)
        logged = outputs.get("log_vars")
        if logged is None:
            logged = {
                name: _mean_over_processes(value)
                for name, value in outputs.items()
                if "loss" in name and value is not None
            }
        self.log_buffer.update(logged)

    def evaluation_loop(self, data_loader: Any, metric_classes: Sequence[Any]) -> Any:
        if not distributed.is_initialized() or self.device.type == "cuda":
            return super().evaluation_loop(data_loader, metric_classes)
        self.invoke_hook("before_val")
        for data in data_loader:
            evaluate_batch(self, to_device(data, self.device), metric_classes, None)
        found = _merged(metric_classes)
        self.invoke_hook("after_val")
        return found


def _mean_over_processes(value: torch.Tensor) -> float:
    value = value.detach().clone()
    if distributed.is_initialized():
        distributed.all_reduce(value)
        value /= distributed.get_world_size()
    return float(value)


def _merged(metrics: Sequence[Any]) -> dict[str, float]:
    """What metrics of all processes say together, the same in each."""
    found: dict[str, float] = {}
    for metric in metrics:
        metric.trainer = None  # ModelScope hangs it there, and it cannot be pickled
        parts: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(parts, metric)
        for other in parts[1:]:
            parts[0].merge(other)
        found |= parts[0].evaluate()
    return found


loaded(__name__)
