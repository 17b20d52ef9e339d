"""Parts of ModelScope's own trainer that work again; see `register(repair_stock=True)`.

`RepairedTrainer` is its `EpochBasedTrainer` and `DeepspeedHook` its hook, with the faults of
ModelScope 1.40 mended. `agent-sft` needs neither: its loop is the kernel's.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from modelscope.trainers.hooks.checkpoint.checkpoint_hook import BestCkptSaverHook, CheckpointHook
from modelscope.trainers.hooks.checkpoint.checkpoint_processor import CheckpointProcessor
from modelscope.trainers.hooks.checkpoint.load_checkpoint_hook import LoadCheckpointHook
from modelscope.trainers.hooks.hook import Hook
from modelscope.trainers.hooks.lr_scheduler_hook import LrSchedulerHook, LrSchedulerProcessor
from modelscope.trainers.hooks.optimizer.base import OptimizerHook, OptimizerProcessor
from modelscope.trainers.hooks.priority import Priority
from modelscope.trainers.trainer import EpochBasedTrainer
from modelscope.trainers.utils.inference import evaluate_batch
from modelscope.utils.checkpoint import save_checkpoint
from modelscope.utils.constant import DistributedParallelType
from modelscope.utils.data_utils import to_device
from modelscope.utils.torch_utils import is_master
from torch import distributed
from transformers import AutoConfig, AutoModelForCausalLM, TrainingArguments
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

from agent_finetune.errors import ConfigError
from modelscope_agent_train.registration import loaded


class RepairedCheckpoints(CheckpointProcessor):  # type: ignore[misc]
    """Checkpoints whose `output` holds the trained weights, and that can be resumed from.

    ModelScope writes `output` before the first step, with `save_pretrained` and a `save_function`
    that does nothing; Transformers 5 does not look at that argument and writes the weights.
    """

    def prepare_output(self, trainer: Any, output_dir: str) -> None:
        super().prepare_output(trainer, output_dir)
        for file in Path(output_dir).glob("*.safetensors*"):
            file.unlink()  # the weights before training

    def link(self, model: Any, src_file: str, output_dir: str) -> None:
        if hasattr(model, "save_pretrained"):
            model.save_pretrained(output_dir)
        else:
            super().link(model, src_file, output_dir)

    @staticmethod
    def load_trainer_state(trainer: Any, train_state_file: str, load_all_state: bool) -> Any:
        with numpy_states():
            return CheckpointProcessor.load_trainer_state(trainer, train_state_file, load_all_state)


class RepairedLoading(LoadCheckpointHook):  # type: ignore[misc]
    """Loads with the processor that it was given; ModelScope's makes itself another one."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.processor: Any = RepairedCheckpoints()

    def before_run(self, trainer: Any) -> None:
        self.logger = trainer.logger
        if self.checkpoint_file is None:
            return
        meta = self.processor.load_checkpoints(
            self.checkpoint_file, trainer, self.load_all_state, self.strict
        )
        if self.load_all_state:
            self._restore_training_state(trainer, meta)
            _begin_next_epoch(trainer)
        self.rng_state = meta.get("rng_state")
        self.need_load_rng_state = self.load_all_state


class RepairedTrainer(EpochBasedTrainer):  # type: ignore[misc]
    """`EpochBasedTrainer` that runs on a CPU too, asks no hub, and loads and saves what it says."""

    def __init__(self, model: Any = None, *arguments: Any, **named: Any) -> None:
        # With this attribute ModelScope asks its hub whether the model is the newest.
        model_dir = model.__dict__.pop("model_dir", None) if hasattr(model, "__dict__") else None
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
        arguments = _training_arguments(trainer)
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
            import shutil

            Path(checkpoint_path_prefix + self.TRAINER_STATE_SUFFIX).unlink(missing_ok=True)
            shutil.rmtree(checkpoint_path_prefix, ignore_errors=True)

    def load_checkpoints(
        self, checkpoint_path_prefix: str, trainer: Any, load_all_state: bool, strict: bool
    ) -> dict[str, Any]:
        """Put an engine's checkpoint back.

        Raises:
            ConfigError: There is none; `save_zero_checkpoint` was off.
        """
        folder, tag = os.path.split(checkpoint_path_prefix)
        found, _ = trainer.model.load_checkpoint(
            folder,
            tag,
            load_module_strict=strict,
            load_optimizer_states=load_all_state,
            load_lr_scheduler_states=load_all_state,
        )
        if found is None:
            raise ConfigError(
                f"{checkpoint_path_prefix}: no checkpoint of DeepSpeed; train with "
                "save_zero_checkpoint true to resume"
            )
        state = checkpoint_path_prefix + self.TRAINER_STATE_SUFFIX
        return dict(self.load_trainer_state(trainer, state, False))


@contextmanager
def numpy_states() -> Iterator[None]:
    """Let `torch.load(weights_only=True)` read the state of NumPy's generator, and nothing more."""
    state = np.random.get_state(legacy=False)["state"]["key"]
    reconstruct, _, _ = state.__reduce__()
    allowed = [reconstruct, np.ndarray, np.dtype, type(state.dtype)]
    with torch.serialization.safe_globals(allowed):
        yield


def _begin_next_epoch(trainer: Any) -> None:
    """Go on behind an epoch whose end is in the checkpoint.

    ModelScope would end it a second time, and step its scheduler again. A checkpoint of an epoch
    counts one iteration too many, which tells it from one of that epoch's last iteration.
    """
    done = (trainer._epoch + 1) * trainer.iters_per_epoch
    if trainer._iter > done:
        trainer._epoch, trainer._inner_iter, trainer._iter = trainer._epoch + 1, 0, done


@contextmanager
def _whole_weights(model: Any, zero_stage: int) -> Iterator[None]:
    """Gather weights that ZeRO-3 has spread over processes."""
    if zero_stage < 3:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        yield


def _training_arguments(trainer: Any) -> TrainingArguments:
    """What Transformers fills `auto` values of a DeepSpeed configuration from."""
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
        max_grad_norm=(options.get("grad_clip") or {}).get("max_norm", 1.0),
        warmup_steps=(options.get("warmup") or {}).get("warmup_steps", 0),
        fp16=bool(train.get("use_fp16", False)),
        bf16=bool(train.get("bf16", False)),
        report_to="none",
    )


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
