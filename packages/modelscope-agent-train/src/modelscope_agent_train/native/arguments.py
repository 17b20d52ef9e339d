"""Arguments of `EpochBasedTrainer`: those without effect here, and what others hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent_finetune.config import Dtype
from agent_finetune.errors import ConfigError

_NO_EFFECT = {
    "samplers": "rows are shuffled by seed",
    "compile": "the model is not compiled",
    "compile_options": "the model is not compiled",
    "remove_unused_data": "batches hold what the model takes",
    "launcher": "torchrun starts the processes",
    "val_iters_per_epoch": "all of eval_dataset is measured",
    "third_party": "nothing is reported to a hub",
    "arg_parse_fn": "the command line is not read; change the configuration with cfg_modify_fn",
}


def without_effect(others: Mapping[str, Any]) -> list[str]:
    """A note for each argument that is given and does nothing here.

    Raises:
        ConfigError: One is no argument of `EpochBasedTrainer` at all.
    """
    for name in others:
        if name not in _NO_EFFECT:
            raise ConfigError(
                f"{name!r} is no argument of agent-sft; without effect, but legal are "
                f"{', '.join(_NO_EFFECT)}"
            )
    return [f"{name}: no effect, {_NO_EFFECT[name]}" for name, value in others.items() if value]


def tokenizer_of(holder: Any) -> Any:
    """The tokenizer of a collator or preprocessor, or of the first of several that has one."""
    if isinstance(holder, Mapping):
        return next(filter(None, map(tokenizer_of, holder.values())), None)
    return getattr(holder, "tokenizer", None)  # a collator may be any function


def dtype(train: Mapping[str, Any]) -> Dtype:
    """The number format that `train.bf16` and `train.use_fp16` ask for.

    A `bf16` that is false asks for float32; without either key it is the machine's best.
    """
    if train.get("bf16"):
        return "bfloat16"
    if train.get("use_fp16"):
        return "float16"
    return "float32" if train.get("bf16") is False else "auto"
