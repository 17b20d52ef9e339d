"""From a model's name to weights and tokenizer in memory.

`resolve` and `context_length` are light; the others import transformers when they are called.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent_finetune import plugins
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import LoadedModel, ResolvedModel, Settings
from agent_finetune.models.adapter_folders import own_tokenizer, read_config, with_base
from agent_finetune.models.context import context_length, loaded_context
from agent_finetune.models.resolving import SHIPPED, resolve

__all__ = [
    "SHIPPED",
    "context_length",
    "load_base",
    "load_tokenizer",
    "loaded_context",
    "open_tokenizer",
    "resolve",
]


def load_base(config: ModelConfig, resolved: ResolvedModel, settings: Settings) -> LoadedModel:
    """Load base weights and tokenizer, without `config.adapter`; see `models.loading.load`.

    Raises:
        ModelError: It is not a model we can read, or this device cannot hold it so.
    """
    from agent_finetune.models.loading import load

    return load(config, resolved, settings)


def load_tokenizer(config: ModelConfig, resolved: ResolvedModel, settings: Settings) -> Any:
    """Load the tokenizer that comes with the base, and no weights.

    Raises:
        ModelError: There is no tokenizer that Transformers can read.
    """
    from agent_finetune.models.loading import load_tokenizer as load

    return load(config, resolved, settings)


def open_tokenizer(config: ModelConfig, settings: Settings) -> Any:
    """The tokenizer that `adapters.open_model` would answer with, and no weights.

    It is the adapter's own when its folder holds one, chat template included.

    Raises:
        ModelError: The model or the adapter cannot be had.
    """
    config = with_base(config)
    if config.adapter is not None:
        folder = Path(config.adapter)
        read_config(folder)
        if (tokenizer := own_tokenizer(folder, config)) is not None:
            return tokenizer
    resolved = plugins.resolve_model(config.model, config.revision, settings)
    return load_tokenizer(config, resolved, settings)
