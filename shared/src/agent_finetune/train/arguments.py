"""From our settings to TRL's: the one place where their names are known."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.training_args import OptimizerNames
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.kto_config import KTOConfig
from trl.trainer.sft_config import SFTConfig

from agent_finetune.config import ModelConfig, TrainConfig
from agent_finetune.contracts import LoadedModel
from agent_finetune.errors import ConfigError
from agent_finetune.train import distributed, pairs
from agent_finetune.train.folder import CHECKPOINTS


def trainer_config(
    config: TrainConfig,
    loaded: LoadedModel,
    out: Path,
    *,
    rows: Sequence[Any],
    packed: bool,
    evaluates: bool,
    resumes: bool,
) -> Any:
    """The arguments of TRL's trainer: `SFTConfig`, `DPOConfig` or `KTOConfig`.

    Args:
        config: How to train.
        loaded: The model, for its device and number format.
        out: The run's folder.
        rows: What is trained on.
        packed: Whether batches are packed.
        evaluates: Whether there are held-out rows.
        resumes: Whether the run goes on from a checkpoint; then it was evaluated at its start.

    Raises:
        ConfigError: The device is not one that this process may train on.
    """
    precision = compute_dtype(config, loaded)
    evaluation = _every(config.eval_steps) if evaluates else ("no", None)
    # The best model can only be kept where it is saved, so patience saves at each evaluation.
    saving = evaluation if config.patience is not None else _every(config.save_steps)
    kind, own = _of_objective(config, rows)
    _check_optimizer(config.optimizer)
    arguments = kind(
        **own,
        output_dir=str(out / CHECKPOINTS),
        use_cpu=loaded.device == "cpu",
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.peak_learning_rate,
        lr_scheduler_type=config.schedule,
        optim=config.optimizer,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        data_seed=config.seed,
        gradient_checkpointing=config.gradient_checkpointing,
        # Stage 3 with an adapter knows the older of torch's two ways only; TRL says why.
        gradient_checkpointing_kwargs={"use_reentrant": distributed.stage_of(config) == 3},
        logging_steps=config.log_steps,
        logging_nan_inf_filter=False,  # it hides a NaN behind the mean of the other steps
        eval_strategy=evaluation[0],
        eval_steps=evaluation[1],
        eval_on_start=evaluates and not resumes,
        prediction_loss_only=True,
        save_strategy=saving[0],
        save_steps=saving[1] or 500,
        save_only_model=config.save_only_model,
        deepspeed=distributed.engine_config(config, precision=precision, device=loaded.device),
        load_best_model_at_end=config.patience is not None,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        # Counts what the rows hold: a packed batch has no padding, a padded one an attention mask.
        include_num_input_tokens_seen="all" if packed else "non_padding",
        average_tokens_across_devices=True,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=loaded.device != "cpu",
        remove_unused_columns=False,  # our collator needs the row's index
        max_length=None,  # nothing is cut in silence
        disable_tqdm=True,
        report_to="none",
    )
    take_device(arguments, loaded.device)
    distributed.check_launched(config, arguments.world_size)
    steps = total_steps(config, len(rows), arguments.world_size)
    # Rounded down: Transformers rounds a share up, and a short run's first step moves nothing.
    arguments.warmup_steps = int(config.warmup * steps)
    arguments.logging_steps = min(config.log_steps, steps)  # a short run says its loss, too
    return arguments


def _of_objective(config: TrainConfig, rows: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
    """TRL's class of arguments, and what only that one has."""
    if config.objective == "sft":
        return SFTConfig, {"dataset_kwargs": {"skip_prepare_dataset": True}, "packing": False}
    # Without an adapter to leave out, TRL would load a second model for the reference; with one
    # we measure the reference ourselves, because TRL would read every weight to name a cache.
    own = {"beta": config.beta, "precompute_ref_log_probs": config.method == "full"}
    if config.objective == "dpo":
        weights = {"sigmoid": 1.0, "sft": config.sft_weight}
        kinds = [kind for kind, weight in weights.items() if weight]
        return DPOConfig, own | {"loss_type": kinds, "loss_weights": [weights[k] for k in kinds]}
    good, bad = pairs.weights(rows)
    return KTOConfig, own | {"desirable_weight": good, "undesirable_weight": bad}


def compute_dtype(config: TrainConfig, loaded: LoadedModel) -> str:
    """The number format of matrix products in training, `float32` for no autocast.

    The weights that train are float32 masters, and autocast rounds them for each product: in
    bfloat16 the small steps of an optimizer are lost. The exception is full training of weights
    that the user asked for in bfloat16: those are trained as they are, at half the memory.
    DeepSpeed has masters of its own, in parts, and computes with what it makes of them.
    """
    if config.deepspeed is not None:
        return loaded.dtype
    if config.method == "full" and keeps_format(loaded.config):
        return "float32"
    return loaded.dtype


def _check_optimizer(name: str) -> None:
    legal = [str(each.value) for each in OptimizerNames]
    if name not in legal:
        near = difflib.get_close_matches(name, legal, n=3) or legal
        raise ConfigError(
            f"optimizer is {name!r}, which Transformers does not know; near are {', '.join(near)}"
        )


def keeps_format(config: ModelConfig) -> bool:
    """Whether full training leaves the weights in the format that the user named."""
    return config.dtype == "bfloat16"


def torch_dtype(name: str) -> torch.dtype:
    """The number format of a name."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def total_steps(config: TrainConfig, rows: int, processes: int) -> int:
    """Optimizer steps of the whole run, as Transformers counts them."""
    if config.max_steps is not None:
        return config.max_steps
    batches = math.ceil(rows / (config.batch_size * processes))
    per_epoch = max(1, math.ceil(batches / config.gradient_accumulation))
    return math.ceil(config.epochs * per_epoch)


def _every(steps: int | None) -> tuple[str, int | None]:
    return ("epoch", None) if steps is None else ("steps", steps)


def take_device(arguments: Any, device: str) -> None:
    """Make Transformers train on the one device that the model is on.

    With several GPUs in sight and no launcher it would split batches over all of them
    (`nn.DataParallel`), and it always takes the first.

    Raises:
        ConfigError: The model is on another device than Transformers will train on.
    """
    if device == "cpu":
        return
    if torch.device(device) != arguments.device:
        raise ConfigError(
            f"device is {device!r}, and training takes {arguments.device}, the first GPU in "
            "sight; choose another with CUDA_VISIBLE_DEVICES"
        )
    arguments._n_gpu = 1  # the only way there is to say it
