"""What `agent-finetune roles train` left, as a model and its roles' adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_finetune.config import ModelConfig
from agent_finetune.errors import ConfigError
from agent_finetune.roles.prompts import ROLES, Part
from agent_finetune.roles.recipe import read_manifest
from agentscope_finetune.model import TransformersChatModel
from agentscope_finetune.plans import make_model

if TYPE_CHECKING:
    from agent_finetune.contracts import Settings


def open_roles(
    folder: Path | str, *, settings: Settings | None = None, **held: Any
) -> tuple[TransformersChatModel, Mapping[Part, Path]]:
    """The model that roles were trained on, and the adapter of each; nothing is loaded.

    Args:
        folder: With `roles.json` in it, or the path of that file.
        settings: Token, cache and offline switch; None reads the environment and `.env`.
        **held: How to hold the weights, where it is to be otherwise than in training: any of
            `device`, `dtype`, `quantization` and `trust_remote_code`, as for
            `TransformersChatModel`. The model's own code is not run because a folder says so.

    Raises:
        ConfigError: There is no `roles.json`, or what it holds are no three roles on one model.
    """
    legal = ("device", "dtype", "quantization", "trust_remote_code")
    if unknown := [name for name in held if name not in legal]:
        raise ConfigError(f"{unknown[0]} is not known; legal are {', '.join(legal)}")
    path = Path(folder).expanduser()
    path = path.parent if path.name == "roles.json" else path
    found = read_manifest(path)
    parts = {Part(name): Path(at) for name, at in found["parts"].items()}
    if set(parts) != set(ROLES):
        raise ConfigError(
            f"{path}: has layout {found['layout']!r} with {', '.join(parts)}; an agent of roles "
            f"needs {', '.join(ROLES)}. TransformersChatModel speaks with one adapter"
        )
    if found["method"] == "full":
        raise ConfigError(
            f"{path}: trained with method 'full', so that each role is a model of its own; roles "
            "that share one are trained with method lora"
        )
    trained = {**found["model"], "adapter": None, "device": "auto", "trust_remote_code": False}
    return make_model(ModelConfig(**{**trained, **held}), settings=settings), parts
