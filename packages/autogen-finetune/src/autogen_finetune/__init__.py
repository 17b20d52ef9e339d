"""AutoGen's side of agent-finetune: a local model behind its agents, that learns from feedback.

Importing this imports no torch and no AutoGen; every name is imported when it is first used, and
one whose AutoGen is not installed says so then.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from autogen_finetune.ag2 import HFConfig
    from autogen_finetune.agentchat import HFChatCompletionClient
    from autogen_finetune.feedback import correct, learn, thumbs_down, thumbs_up
    from autogen_finetune.hf_client import HFModelClient
    from autogen_finetune.registration import (
        attach,
        disable_auto_registration,
        enable_auto_registration,
        llm_config,
    )
    from autogen_finetune.update_model import UpdateableModelClient, update_model

__version__ = "0.1.0"

_HOMES: dict[str, tuple[str, str | None]] = {
    "HFChatCompletionClient": ("agentchat", "autogen_core"),
    "HFConfig": ("ag2", "ag2"),
    "HFModelClient": ("hf_client", "autogen"),
    "UpdateableModelClient": ("update_model", "autogen"),
    "attach": ("registration", "autogen"),
    "correct": ("feedback", None),
    "disable_auto_registration": ("registration", "autogen"),
    "enable_auto_registration": ("registration", "autogen"),
    "learn": ("feedback", None),
    "llm_config": ("registration", "autogen"),
    "thumbs_down": ("feedback", None),
    "thumbs_up": ("feedback", None),
    "update_model": ("update_model", "autogen"),
}
"""Public names, the module that each is in, and the module of the AutoGen that it is for, if it
is for one alone."""

__all__ = [
    "HFChatCompletionClient",
    "HFConfig",
    "HFModelClient",
    "UpdateableModelClient",
    "attach",
    "correct",
    "disable_auto_registration",
    "enable_auto_registration",
    "learn",
    "llm_config",
    "thumbs_down",
    "thumbs_up",
    "update_model",
]


def _find(name: str) -> Any:
    from autogen_finetune.hosts import require

    module, host = _HOMES[name]
    if host is not None:
        require(host, name)
    return getattr(import_module(f"{__name__}.{module}"), name)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _find(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:

    class _Package(ModuleType):
        """This package, in which `update_model` is the function and never the module of that name.

        Python binds a submodule to its package when it is imported, at whatever time that is.
        """

        @property
        def update_model(self) -> Callable[..., dict[str, Any]]:
            return _find("update_model")

        @update_model.setter
        def update_model(self, value: object) -> None:
            if not isinstance(value, ModuleType):
                raise AttributeError("autogen_finetune.update_model cannot be replaced")

    sys.modules[__name__].__class__ = _Package
