"""The model of a trainer: a folder or id that is loaded, or a module that is there already."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
from accelerate import PartialState
from peft import PeftModel

from agent_finetune import adapters
from agent_finetune.config import AdapterConfig, Dtype, ModelConfig
from agent_finetune.contracts import LoadedModel, ResolvedModel, Settings
from agent_finetune.errors import ConfigError
from agent_finetune.models import load_tokenizer
from agent_finetune.models.hardware import pick_device
from agent_finetune.train.job import placed
from modelscope_agent_train import hub
from modelscope_agent_train.tuners import TUNED

_MODEL_DIR = "model_dir"
"""Attribute in which ModelScope's Auto classes leave the folder that they loaded from."""


def folder_of(
    model: Any, revision: str | None, settings: Settings, *, local_files_only: bool
) -> Path | None:
    """The folder of a model that is given by name; None where there is none to be had.

    A name that no hub of ModelScope's answers for is left to the kernel, which knows others.
    """
    if not isinstance(model, str):
        return None
    found = hub.resolve(model, revision, settings=settings, local_files_only=local_files_only)
    return Path(found.location) if Path(found.location).is_dir() else None


def load(
    model: str | torch.nn.Module,
    *,
    revision: str | None,
    device: str | None,
    dtype: Dtype,
    trust_remote_code: bool,
    tokenizers: Iterable[Any],
    adapter: AdapterConfig | None,
    settings: Settings,
    seed: int,
) -> LoadedModel:
    """The model that is trained, by name or as it is, with a new adapter where one is asked for.

    Args:
        model: A folder, an id, or a module of Transformers.
        revision: Of an id.
        device: `cpu`, `gpu`, `cuda` or `cuda:N`; None is the first GPU there is, and leaves a
            module that is on a GPU where it is. Under torchrun each process has its own.
        dtype: Of a model that is loaded here.
        trust_remote_code: Run Python code that comes with the model.
        tokenizers: Where the tokenizer of a module may be; see `take`.
        adapter: To put on the model.
        settings: Cache and offline switch.
        seed: Of the adapter's weights.

    Raises:
        ConfigError: An adapter is on the model already, or it is no model for this.
        ModelError: It cannot be loaded, or there is no such device.
    """
    processes = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
    config = ModelConfig(
        model=model if isinstance(model, str) else type(model).__name__,
        revision=revision,
        device="auto" if device in (None, "gpu") else str(device),
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    config = placed(config, processes)
    if isinstance(model, str):
        loaded = adapters.open_model(config, settings, trainable=True)
    else:
        several = processes.num_processes > 1
        _move(model, config.device, even_from_gpu=several or device is not None)
        loaded = take(model, tokenizers, settings)
    if adapter is None:
        return loaded
    if isinstance(loaded.model, PeftModel):
        raise ConfigError("efficient_tuners is given, and an adapter is on the model; give one")
    return replace(loaded, model=adapters.attach(loaded, adapter, seed=seed))


def is_checkpointing(loaded: LoadedModel) -> bool:
    """Whether a part of the model computes its activations again, as `load` or a script set it."""
    base = adapters.base_model(loaded.model)
    return any(module.__dict__.get("gradient_checkpointing") for module in base.modules())


def take(model: torch.nn.Module, tokenizers: Iterable[Any], settings: Settings) -> LoadedModel:
    """A module that somebody else has loaded, as the kernel's own.

    Args:
        model: Causal language model of Transformers, with an adapter of PEFT's or without. One
            that `Swift.prepare_model` has changed in place is taken with its adapter.
        tokenizers: Where its tokenizer may be, the best first; None are passed over. The last
            resort is the folder that the model was loaded from.
        settings: Cache and offline switch.

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


def _move(model: torch.nn.Module, device: str, *, even_from_gpu: bool) -> None:
    """Put a module where it is trained; one that is spread over devices stays."""
    if "hf_device_map" in adapters.base_model(model).__dict__:
        return
    if even_from_gpu or all(weight.device.type == "cpu" for weight in model.parameters()):
        model.to(pick_device(device))


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
