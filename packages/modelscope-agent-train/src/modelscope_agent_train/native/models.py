"""The model of a trainer: a folder or id that is loaded, or a module that is there already."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast, get_args

import torch
from peft import PeftModel

from agent_finetune import adapters
from agent_finetune.config import AdapterConfig, Dtype, ModelConfig
from agent_finetune.contracts import LoadedModel, ResolvedModel, Settings
from agent_finetune.errors import ConfigError
from agent_finetune.models import load_tokenizer
from modelscope_agent_train.tuners import TUNED

_MODEL_DIR = "model_dir"
"""Attribute in which ModelScope's Auto classes leave the folder that they loaded from."""


def load(config: ModelConfig, settings: Settings) -> LoadedModel:
    """Load weights and tokenizer by name; see `adapters.open_model`."""
    return adapters.open_model(config, settings, trainable=True)


def take(
    model: torch.nn.Module, tokenizers: Iterable[Any], settings: Settings, *, seed: int
) -> LoadedModel:
    """A module that somebody else has loaded, as the kernel's own.

    Args:
        model: Causal language model of Transformers, with an adapter of PEFT's or without. One
            that `Swift.prepare_model` has changed in place is taken with its adapter.
        tokenizers: Where its tokenizer may be, the best first; None are passed over. The last
            resort is the folder that the model was loaded from.
        settings: Cache and offline switch.
        seed: Of nothing here; adapters that are on the model are taken as they are.

    Raises:
        ConfigError: There is no tokenizer, or the model is none of Transformers'.
    """
    model = model.__dict__.get(TUNED, model)
    base = adapters.base_model(model)
    config = base.__dict__.get("config")
    if config is None:
        raise ConfigError(
            f"model is a {type(model).__name__}; legal are a folder, an id, and a causal language "
            "model of Transformers"
        )
    name = str(base.__dict__.get(_MODEL_DIR) or config.name_or_path or type(base).__name__)
    place = ResolvedModel(name=name, location=name)
    weight = next(base.parameters())
    device = "cpu" if weight.device.type == "cpu" else f"cuda:{weight.device.index or 0}"
    dtype = str(weight.dtype).removeprefix("torch.")
    if dtype not in get_args(Dtype):
        dtype = "float32"
    asked = ModelConfig(model=name, dtype=cast("Dtype", dtype), device=device)
    return LoadedModel(
        model=model,
        tokenizer=_tokenizer(tokenizers, asked, place, settings),
        resolved=place,
        config=asked,
        device=device,
        dtype=dtype,
        digest=digest(base),
    )


def with_adapter(loaded: LoadedModel, adapter: AdapterConfig | None, *, seed: int) -> LoadedModel:
    """The model with a new adapter on it, where one is asked for.

    Raises:
        ConfigError: One is on it already.
    """
    if adapter is None:
        return loaded
    if isinstance(loaded.model, PeftModel):
        raise ConfigError("efficient_tuners is given, and an adapter is on the model; give one")
    from dataclasses import replace

    return replace(loaded, model=adapters.attach(loaded, adapter, seed=seed))


def digest(base: torch.nn.Module) -> str:
    """`sha256:...` of a module's weights without those of adapters, by name and bytes."""
    whole = hashlib.sha256()
    for name, weight in sorted(base.state_dict().items()):
        if ".lora_" in name or not isinstance(weight, torch.Tensor):
            continue
        whole.update(f"{name.replace('.base_layer', '')} {tuple(weight.shape)}".encode())
        raw = weight.detach().cpu().contiguous().view(-1).view(torch.uint8)
        whole.update(raw.numpy().data)
    return f"sha256:{whole.hexdigest()}"


def _tokenizer(
    found: Iterable[Any], config: ModelConfig, place: ResolvedModel, settings: Settings
) -> Any:
    for tokenizer in found:
        if tokenizer is not None:
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
            return tokenizer
    if not Path(place.location).is_dir():
        raise ConfigError(
            f"model is a {place.name!r} without a tokenizer; give tokenizer=..., or a "
            "data_collator or preprocessor that has one"
        )
    return load_tokenizer(config, place, settings)
