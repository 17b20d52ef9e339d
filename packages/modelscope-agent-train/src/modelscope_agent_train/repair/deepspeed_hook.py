"""`DeepspeedHook` for ModelScope's own trainer; the work is DeepSpeed's, under torchrun."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from modelscope.trainers.hooks.checkpoint.checkpoint_hook import BestCkptSaverHook, CheckpointHook
from modelscope.trainers.hooks.hook import Hook
from modelscope.trainers.hooks.lr_scheduler_hook import LrSchedulerHook, LrSchedulerProcessor
from modelscope.trainers.hooks.optimizer.base import OptimizerHook, OptimizerProcessor
from modelscope.trainers.hooks.priority import Priority
from modelscope.utils.checkpoint import save_checkpoint
from modelscope.utils.constant import DistributedParallelType
from modelscope.utils.torch_utils import is_master
from torch import distributed
from transformers import TrainingArguments
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

from agent_finetune.errors import ConfigError
from modelscope_agent_train.registration import loaded
from modelscope_agent_train.repair.checkpoints import RepairedCheckpoints, RepairedLoading


class DeepspeedHook(Hook):  # type: ignore[misc]
    """ModelScope's `DeepspeedHook` on today's DeepSpeed, on GPUs and CPUs.

    It needs torchrun (or another launcher) and a configuration whose `auto` values are filled from
    the trainer's. There is no tensor parallelism.
    """

    PRIORITY = Priority.VERY_HIGH

    def __init__(
        self,
        config: str | None = None,
        deepspeed_activation_checkpointing: bool = True,
        save_zero_checkpoint: bool = False,
        with_mpu: bool = False,
        zero_stage: int | None = None,
    ) -> None:
        """Say how to distribute.

        Args:
            config: Path of a DeepSpeed JSON file, from here or from the model's folder.
            deepspeed_activation_checkpointing: Without effect, as in ModelScope.
            save_zero_checkpoint: Save DeepSpeed's own checkpoint, which can be resumed from.
            with_mpu: Without effect; there is no megatron_util.
            zero_stage: Instead of the configuration's.
        """
        if config is None:
            raise ConfigError("DeepspeedHook.config is missing; give a DeepSpeed JSON file")
        self.config = config
        self.save_zero_checkpoint = save_zero_checkpoint
        self.zero_stage = zero_stage
        self.processor = _DeepspeedProcessor(self)

    def register_processor(self, trainer: Any) -> None:
        """Take the place of what saves, loads and steps."""
        kinds = (OptimizerHook, CheckpointHook, BestCkptSaverHook, LrSchedulerHook, RepairedLoading)
        for kind in kinds:
            for hook in trainer.get_hook(kind):
                hook.processor = self.processor

    def after_init(self, trainer: Any) -> None:
        """Join the processes."""
        import deepspeed
        import deepspeed.ops

        if "RANK" not in os.environ:
            raise ConfigError("DeepspeedHook needs a launcher; start the script with torchrun")
        gpu = torch.cuda.is_available()
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if gpu:
            torch.cuda.set_device(local)
        else:
            # Else it is compiled for a minute, with a compiler that need not be there.
            vars(deepspeed.ops).setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend="nccl" if gpu else "gloo", verbose=False)
        trainer.device = torch.device(f"cuda:{local}" if gpu else "cpu")
        trainer.model.to(trainer.device)
        trainer.parallel_groups[DistributedParallelType.DP] = None

    def before_run(self, trainer: Any) -> None:
        """Put the engine around the model."""
        import deepspeed

        config = self._filled(trainer)
        trainer.model, trainer.optimizer, _, scheduler = deepspeed.initialize(
            model=trainer.model,
            optimizer=None if "optimizer" in config else trainer.optimizer,
            config=config,
        )
        if "scheduler" in config:
            trainer.lr_scheduler = scheduler
            self.processor.steps_scheduler = False  # the engine does

    def _filled(self, trainer: Any) -> dict[str, Any]:
        path = Path(self.config)
        path = path if path.is_file() else Path(trainer.model_dir) / path
        if not path.is_file():
            raise ConfigError(f"DeepspeedHook.config is {self.config!r}; there is no such file")
        given = json.loads(path.read_text("utf-8"))
        stage = given.setdefault("zero_optimization", {})
        if self.zero_stage is not None:
            stage["stage"] = self.zero_stage
        self.processor.zero_stage = int(stage.get("stage", 0))
        # DeepSpeed clips to 1 where its file says nothing.
        clipping = given.setdefault("gradient_clipping", "auto")
        arguments = _training_arguments(trainer, 0.0 if clipping == "auto" else float(clipping))
        steps = trainer.iters_per_epoch // arguments.gradient_accumulation_steps
        config = HfTrainerDeepSpeedConfig(given)
        config.trainer_config_process(arguments)
        config.trainer_config_finalize(
            arguments, trainer.model, max(1, math.ceil(trainer.max_epochs * steps))
        )
        config.config.setdefault("zero_allow_untested_optimizer", True)
        result: dict[str, Any] = config.config
        return result


class _DeepspeedProcessor(RepairedCheckpoints, LrSchedulerProcessor, OptimizerProcessor):  # type: ignore[misc]
    """Steps, saves and loads through DeepSpeed's engine."""

    def __init__(self, hook: DeepspeedHook) -> None:
        super().__init__()
        LrSchedulerProcessor.__init__(self)
        self.hook = hook
        self.zero_stage = 0
        self.steps_scheduler = True

    def initialize_optimizer(self, trainer: Any) -> None:
        """Nothing: the engine does."""

    def backward(
        self, trainer: Any, loss_keys: Sequence[str], cumulative_iters: int, grad_clip: Any
    ) -> None:
        """Accumulation and clipping are in the engine's configuration."""
        for key in loss_keys:
            trainer.model.backward(trainer.train_outputs[key])
        trainer.model.step()

    def step(self, trainer: Any) -> None:
        if self.steps_scheduler:
            super().step(trainer)

    def get_current_lr(self, trainer: Any) -> list[float]:
        return [group["lr"] for group in trainer.optimizer.param_groups]

    def should_save_on_rank(self, trainer: Any) -> bool:
        return True

    def save_checkpoints(
        self,
        trainer: Any,
        checkpoint_path_prefix: str,
        output_dir: str,
        meta: dict[str, Any] | None = None,
        save_optimizers: bool = True,
    ) -> None:
        """The engine's checkpoint, and the whole weights in `output_dir`."""
        model = trainer.unwrap_module(trainer.model)
        if is_master():
            state = checkpoint_path_prefix + self.TRAINER_STATE_SUFFIX
            save_checkpoint(model, state, None, None, meta=meta, with_model=False)
        if self.hook.save_zero_checkpoint:
            folder, tag = os.path.split(checkpoint_path_prefix)
            trainer.model.save_checkpoint(folder, tag)
        with _whole_weights(model, self.zero_stage):
            if is_master():
                self.link(model, "", output_dir)
        distributed.barrier()

    def remove_checkpoints(self, trainer: Any, checkpoint_path_prefix: str) -> None:
        if is_master():
            Path(checkpoint_path_prefix + self.TRAINER_STATE_SUFFIX).unlink(missing_ok=True)
            if os.path.isdir(checkpoint_path_prefix):
                shutil.rmtree(checkpoint_path_prefix)

    def load_checkpoints(
        self, checkpoint_path_prefix: str, trainer: Any, load_all_state: bool, strict: bool
    ) -> dict[str, Any]:
        """Put an engine's checkpoint back.

        Raises:
            ConfigError: There is none; `save_zero_checkpoint` was off.
        """
        if not os.path.isdir(checkpoint_path_prefix):
            raise ConfigError(
                f"{checkpoint_path_prefix}: no checkpoint of DeepSpeed; train with "
                "save_zero_checkpoint true to resume"
            )
        folder, tag = os.path.split(checkpoint_path_prefix)
        trainer.model.load_checkpoint(
            folder,
            tag,
            load_module_strict=strict,
            load_optimizer_states=load_all_state,
            load_lr_scheduler_states=load_all_state,
        )
        state = checkpoint_path_prefix + self.TRAINER_STATE_SUFFIX
        return dict(self.load_trainer_state(trainer, state, False))


@contextmanager
def _whole_weights(model: Any, zero_stage: int) -> Iterator[None]:
    """Gather weights that ZeRO-3 has spread over processes."""
    if zero_stage < 3:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        yield


def _training_arguments(trainer: Any, clipping: float) -> TrainingArguments:
    """What Transformers fills `auto` values of a DeepSpeed configuration from.

    Args:
        trainer: Its configuration is looked at.
        clipping: Largest norm of a gradient where that does not say; 0 does not clip.
    """
    train = trainer.cfg.train
    optimizer = train.get("optimizer", {})
    options = optimizer.get("options", {})
    return TrainingArguments(
        output_dir=trainer.work_dir,
        use_cpu=trainer.device.type == "cpu",
        per_device_train_batch_size=train.get("dataloader", {}).get("batch_size_per_gpu", 4),
        gradient_accumulation_steps=options.get("cumulative_iters", 1),
        learning_rate=optimizer.get("lr", 2e-5),
        weight_decay=optimizer.get("weight_decay", 0.0),
        max_grad_norm=(options.get("grad_clip") or {}).get("max_norm", clipping),
        warmup_steps=(options.get("warmup") or {}).get("warmup_steps", 0),
        fp16=bool(train.get("use_fp16", False)),
        bf16=bool(train.get("bf16", False)),
        report_to="none",
    )


loaded(__name__)
