"""ModelScope's side of agent-finetune: its agent data, its training script, and a trainer.

Importing this puts the trainer `agent-sft` and a few other names where ModelScope looks for them;
see `registration`. It imports neither torch nor ModelScope; every other name is imported when it
is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from modelscope_agent_train.registration import register, unregister

if TYPE_CHECKING:
    from modelscope_agent_train.building import build_trainer
    from modelscope_agent_train.native.trainer import AgentTrainer
    from modelscope_agent_train.tuners import LoRAConfig, Swift

__version__ = "0.1.0"

_HOMES = {
    "AgentTrainer": "native.trainer",
    "LoRAConfig": "tuners",
    "Swift": "tuners",
    "build_trainer": "building",
}
"""Public names, and the module that each is in."""

__all__ = [
    "AgentTrainer",
    "LoRAConfig",
    "Swift",
    "build_trainer",
    "register",
    "unregister",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


register()
