"""AgentScope's side of agent-finetune: a local model behind an agent, fine-tuned while it lives.

Importing this registers `TransformersCredential` with AgentScope, which imports no torch; every
other name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agentscope.credential import CredentialFactory

from agentscope_finetune.credential import TransformersCredential

if TYPE_CHECKING:
    from agentscope_finetune.agent import Finetune_DialogAgent, FineTuneAgent, FinetuneDialogAgent
    from agentscope_finetune.example2024 import load_model_configs
    from agentscope_finetune.formatter import (
        TransformersChatFormatter,
        TransformersMultiAgentFormatter,
    )
    from agentscope_finetune.model import TransformersChatModel
    from agentscope_finetune.multi_role import MultiRoleAgent
    from agentscope_finetune.plans import FineTuneResult
    from agentscope_finetune.policy import allow_models
    from agentscope_finetune.recorder import ConversationRecorder, RecordingChatModel
    from agentscope_finetune.service import service_options
    from agentscope_finetune.tuning import FineTuner

__version__ = "0.1.0"

_HOMES = {
    "ConversationRecorder": "recorder",
    "FineTuneAgent": "agent",
    "FineTuneResult": "plans",
    "FineTuner": "tuning",
    "FinetuneDialogAgent": "agent",
    "Finetune_DialogAgent": "agent",
    "MultiRoleAgent": "multi_role",
    "RecordingChatModel": "recorder",
    "TransformersChatFormatter": "formatter",
    "TransformersChatModel": "model",
    "TransformersMultiAgentFormatter": "formatter",
    "allow_models": "policy",
    "load_model_configs": "example2024",
    "service_options": "service",
}
"""Public names, and the module that each is in."""

__all__ = [
    "ConversationRecorder",
    "FineTuneAgent",
    "FineTuneResult",
    "FineTuner",
    "FinetuneDialogAgent",
    "Finetune_DialogAgent",
    "MultiRoleAgent",
    "RecordingChatModel",
    "TransformersChatFormatter",
    "TransformersChatModel",
    "TransformersCredential",
    "TransformersMultiAgentFormatter",
    "allow_models",
    "load_model_configs",
    "service_options",
]

CredentialFactory.register_credential(TransformersCredential)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
