"""Weights and numbers that a run has written, read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from transformers.modeling_utils import load_state_dict

from agent_finetune.errors import ConfigError, ModelError
from agent_finetune.train import folder


def check_newest(out: Path, checkpoint: Path) -> None:
    """Refuse to go on from another checkpoint than the newest whole one of a run.

    Raises:
        ConfigError: It is not in this run, or not the newest whole one.
    """
    whole = folder.whole_checkpoints(out)
    if not whole:
        raise ConfigError(f"{out / folder.CHECKPOINTS}: holds no whole checkpoint to go on from")
    newest = whole[-1][1]
    if checkpoint.resolve() not in (newest.resolve(), out.resolve()):
        raise ConfigError(
            f"checkpoint_path is {str(checkpoint)!r}; legal are {str(newest)!r}, the newest whole "
            f"one, and {str(out)!r}"
        )


def load_weights(model: Any, place: Path) -> None:
    """Put the weights of a checkpoint, adapter or model folder into a model.

    Raises:
        ModelError: There are none in safetensors, or they do not fit.
    """
    if isinstance(model, PeftModel):
        if not (place / "adapter_model.safetensors").is_file():
            raise ModelError(f"{place}: no adapter_model.safetensors")
        found: Any = set_peft_model_state_dict(model, load_peft_weights(str(place), device="cpu"))
        wrong = [*found.unexpected_keys, *(k for k in found.missing_keys if ".lora_" in k)]
    else:
        files = sorted(place.glob("*.safetensors"))
        if not files:
            raise ModelError(f"{place}: no weights in safetensors")
        state: dict[str, torch.Tensor] = {}
        for file in files:
            state |= load_state_dict(str(file))
        found = model.load_state_dict(state, strict=False)
        tied = model.all_tied_weights_keys
        wrong = [*found.unexpected_keys, *(k for k in found.missing_keys if k not in tied)]
    if wrong:
        raise ModelError(f"{place}: these weights do not fit the model ({', '.join(wrong[:3])})")


def tool_metrics(out: Path) -> dict[str, float]:
    """The tool metrics of a run's last evaluation; process 0 reads them for all."""
    found: list[dict[str, float]] = [{}]
    history = out / folder.HISTORY
    if history.is_file():
        lines = [json.loads(line) for line in history.read_text("utf-8").splitlines()]
        evaluations = [line for line in lines if "eval_loss" in line]
        known = ("step", "epoch", "seconds", "eval_loss")
        found = [{k: v for k, v in evaluations[-1].items() if k not in known}]
    if torch.distributed.is_initialized():
        broadcast_object_list(found)
    return found[0]
