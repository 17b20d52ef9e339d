"""From a model's name to weights and tokenizer in memory.

`resolve` is light; `load_base` imports torch and transformers when it is called.
"""

from __future__ import annotations

from agent_finetune.config import ModelConfig
from agent_finetune.contracts import LoadedModel, ResolvedModel, Settings
from agent_finetune.models.resolving import SHIPPED, resolve

__all__ = ["SHIPPED", "load_base", "resolve"]


def load_base(config: ModelConfig, resolved: ResolvedModel, settings: Settings) -> LoadedModel:
    """Load base weights and tokenizer, without `config.adapter`; see `models.loading.load`.

    Raises:
        ModelError: It is not a model we can read, or this device cannot hold it so.
    """
    from agent_finetune.models.loading import load

    return load(config, resolved, settings)
