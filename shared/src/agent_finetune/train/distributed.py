"""DeepSpeed: its configuration file held against ours, and weights put together from their parts.

The work is DeepSpeed's, through Accelerate and Transformers. What stands here is what they leave
open: contradictions between two sets of settings are an error before anything is loaded, keys that
the file leaves out follow ours, and what is written at the end is whole.

Terms of ZeRO (arXiv 1910.02054): each process holds a part of the optimizer's state (stage 1), of
the gradients too (stage 2), and of the weights too (stage 3).
"""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from agent_finetune.config import RunConfig, TrainConfig
from agent_finetune.errors import ConfigError

_SCHEDULERS = {
    "WarmupLR": "constant_with_warmup",
    "WarmupDecayLR": "linear",
    "WarmupCosineLR": "cosine",
}
"""DeepSpeed's schedules, and ours of the same shape; theirs begin a little differently."""


def check(config: RunConfig) -> None:
    """Refuse what cannot work, before a model is loaded; does nothing without `deepspeed`.

    Raises:
        ConfigError: DeepSpeed is missing, its file cannot be read or contradicts the run.
    """
    train = config.train
    if train.deepspeed is None:
        return
    values = read(train.deepspeed)
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError("deepspeed is not installed; run pip install -e 'shared[deepspeed]'")
    for key, name, ours in (
        ("train_micro_batch_size_per_gpu", "batch_size", train.batch_size),
        ("gradient_accumulation_steps", "gradient_accumulation", train.gradient_accumulation),
        ("gradient_clipping", "max_grad_norm", train.max_grad_norm),
        ("optimizer.params.lr", "learning_rate", train.peak_learning_rate),
        ("optimizer.params.weight_decay", "weight_decay", train.weight_decay),
    ):
        _agree(train.deepspeed, values, key, name, ours)
    _check_walk(train, values)
    if stage(values) < 3:
        return
    for name, found, legal in (
        ("quantization", config.model.quantization, "none"),
        ("dora", config.lora.dora, False),
        ("eval_generate", train.eval_generate, 0),
        ("objective", train.objective, "sft"),
    ):
        if found != legal:
            raise ConfigError(
                f"{name} is {found!r} and {train.deepspeed} asks for ZeRO stage 3, where no "
                f"process holds a whole weight; {name} must be {legal!r}, or the stage 2"
            )


def _check_walk(train: TrainConfig, values: Mapping[str, Any]) -> None:
    """Refuse two optimizers, two schedules, and a best model that cannot be gone back to."""
    if "optimizer" in values and train.optimizer != TrainConfig().optimizer:
        raise ConfigError(
            f"optimizer is {train.optimizer!r} and {train.deepspeed} has an optimizer of its own; "
            "give one of the two"
        )
    kind = _at(values, "scheduler.type")
    if kind is not None and _SCHEDULERS.get(kind) != train.schedule:
        raise ConfigError(
            f"{train.deepspeed}: scheduler.type is {kind!r} and schedule is {train.schedule!r}; "
            "remove the scheduler there, or give a schedule of its shape: "
            + ", ".join(f"{theirs} is {ours}" for theirs, ours in _SCHEDULERS.items())
        )
    if train.save_only_model and train.patience is not None:
        raise ConfigError(
            "patience goes back to the best checkpoint, and with deepspeed and save_only_model "
            "there is none to go back to; leave one of the two out"
        )


def read(path: str) -> dict[str, Any]:
    """A DeepSpeed configuration, as it is written.

    Raises:
        ConfigError: There is no such file, or it is no JSON object.
    """
    try:
        values = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"deepspeed is {path!r}: {error.strerror}; give a JSON file") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error}); deepspeed wants a JSON file") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: {type(values).__name__}; a DeepSpeed file is a JSON object")
    found = _at(values, "zero_optimization.stage")
    if found not in (1, 2, 3):
        # Stage 0 also hides its gradients: in float32 not even their norm is known.
        raise ConfigError(
            f"{path}: zero_optimization.stage is {found!r}; legal are 1, 2 and 3. Stage 0 shares "
            "nothing out: for that leave deepspeed out, and start several processes all the same"
        )
    return values


def stage(values: Mapping[str, Any]) -> int:
    """The ZeRO stage that a configuration asks for, from 1 to 3."""
    return int(values["zero_optimization"]["stage"])


def stage_of(config: TrainConfig) -> int | None:
    """The ZeRO stage of a run; None without DeepSpeed."""
    return None if config.deepspeed is None else stage(read(config.deepspeed))


def engine_config(config: TrainConfig, *, precision: str, device: str) -> dict[str, Any] | None:
    """What DeepSpeed is given: the file, and our settings where it has none; None without a file.

    "auto" is filled in by Transformers. A key that is missing would silently be DeepSpeed's own
    default: no clipping, for one.

    Args:
        config: How to train.
        precision: Number format of matrix products.
        device: Where the model is.

    Raises:
        ConfigError: The file cannot be read, or asks for another number format.
    """
    if config.deepspeed is None:
        return None
    values = read(config.deepspeed)
    for key in (
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
    ):
        values.setdefault(key, "auto")
    for key, name in (("bf16", "bfloat16"), ("fp16", "float16")):
        enabled = values.setdefault(key, {}).setdefault("enabled", "auto")
        if enabled != "auto" and bool(enabled) != (precision == name):
            raise ConfigError(
                f"{config.deepspeed}: {key}.enabled is {enabled!r} and the run computes in "
                f'{precision}; put "auto" there, or give another dtype'
            )
    if device == "cpu":
        _without_builds(values)
    return values


def _without_builds(values: dict[str, Any]) -> None:
    """Keep DeepSpeed from compiling C++ that a CPU run has no use for.

    With its first process group it builds `deepspeed_shm_comm`, for a minute and only where there
    is a compiler; its one caller is inference. And unless told to take torch's Adam it builds its
    own, which is faster for optimizers that are offloaded from a GPU.
    """
    import deepspeed.ops

    # The table is made on first access, by running a compiler for each extension there is;
    # whoever asks for the one below is its only reader.
    vars(deepspeed.ops).setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False
    offloaded = (_at(values, "zero_optimization.offload_optimizer.device") or "none") != "none"
    if _at(values, "optimizer.type") in ("Adam", "AdamW") and not offloaded:
        values["optimizer"].setdefault("params", {}).setdefault("torch_adam", True)


def check_launched(config: TrainConfig, processes: int) -> None:
    """Refuse a process that nobody launched, and a file written for another number of them.

    Args:
        config: How to train; with `deepspeed`.
        processes: How many there are.

    Raises:
        ConfigError: There is no process group, or its size contradicts the file.
    """
    if config.deepspeed is None:
        return
    if not torch.distributed.is_initialized():
        raise ConfigError(
            "deepspeed needs a launcher, with one process too; put torchrun and the number of "
            "processes before the command: torchrun --nproc-per-node 1 --no-python agent-finetune "
            "train ..., or torchrun --nproc-per-node 1 SCRIPT.py ..."
        )
    whole = config.batch_size * config.gradient_accumulation * processes
    name = f"batch_size * gradient_accumulation * {processes} processes"
    _agree(config.deepspeed, read(config.deepspeed), "train_batch_size", name, whole)


@contextmanager
def engine(config: TrainConfig) -> Iterator[None]:
    """Take back at the end what Transformers and Accelerate set for the whole process.

    Without it the next model of this process would be loaded in parts, and the next run would use
    DeepSpeed unasked.
    """
    if config.deepspeed is None:
        yield
        return
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    try:
        with warnings.catch_warnings():
            # DeepSpeed calls torch by names that torch has newer ones for.
            warnings.filterwarnings("ignore", "`torch.distributed.*` is deprecated", FutureWarning)
            yield
    finally:
        unset_hf_deepspeed_config()
        os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)


def gathered(model: Any, *, keep: bool, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The weights that train, put together from all processes; all of them must call this.

    They are the float32 masters, not the copy in a shorter format that the engine computes with.

    Args:
        model: What the engine trains, unwrapped.
        keep: Whether this process wants them; the others get an empty dictionary.
        dtype: Number format of the answer.

    Returns:
        Tensors on the CPU by their names in the model's `state_dict`.
    """
    found: dict[str, Any] = {}
    seen: dict[int, torch.Tensor] = {}  # tied weights have two names
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, torch.nn.Parameter):
            if keep and isinstance(value, torch.Tensor):
                found[name] = value.cpu()
        elif value.requires_grad:
            if id(value) not in seen:
                whole = _master(value)
                seen[id(value)] = whole.to("cpu", dtype) if keep else whole[:0]
            if keep:
                found[name] = seen[id(value)]
    return found


def take_masters(model: Any) -> None:
    """Leave in a model what was trained: its float32 masters. Up to stage 2; all must call this."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = _master(parameter).to(parameter.device).clone()


def _master(parameter: torch.nn.Parameter) -> torch.Tensor:
    from deepspeed.utils import safe_get_full_fp32_param

    whole: torch.Tensor | None = safe_get_full_fp32_param(parameter)
    assert whole is not None  # each weight that trains has one
    return whole.detach()


def _agree(path: str, values: Mapping[str, Any], key: str, name: str, ours: float) -> None:
    theirs = _at(values, key)
    if theirs not in (None, "auto", ours):
        raise ConfigError(
            f'{path}: {key} is {theirs!r} and {name} is {ours!r}; put "auto" there, or make the '
            "two the same"
        )


def _at(values: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, None where there is none."""
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found
