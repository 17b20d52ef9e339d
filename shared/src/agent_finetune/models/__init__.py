"""From a model's name to weights and tokenizer in memory.

`resolve` is light; `load_base` and `load_tokenizer` import transformers when they are called.
"""

from __future__ import annotations

from typing import Any

from agent_finetune.config import ModelConfig
from agent_finetune.contracts import LoadedModel, ResolvedModel, Settings
from agent_finetune.models.resolving import SHIPPED, resolve

__all__ = ["SHIPPED", "load_base", "load_tokenizer", "resolve"]


def load_base(config: ModelConfig, resolved: ResolvedModel, settings: Settings) -> LoadedModel:
    """Load base weights and tokenizer, without `config.adapter`; see `models.loading.load`.

    Raises:
        ModelError: It is not a model we can read, or this device cannot hold it so.
    """
    from agent_finetune.models.loading import load

    return load(config, resolved, settings)


def load_tokenizer(config: ModelConfig, resolved: ResolvedModel, settings: Settings) -> Any:
    """Load the tokenizer alone, as `inspect` needs it; see `models.loading.load_tokenizer`.

    Raises:
        ModelError: There is no tokenizer that Transformers can read.
    """
    from agent_finetune.models.loading import load_tokenizer as load

    return load(config, resolved, settings)
