"""Agents of classic AutoGen on a tiny model or on a script, and models that learned something."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from autogen_hosts import classic
from scripted_engine import Answer, ScriptedEngine

from agent_finetune.config import ModelConfig
from agent_finetune.versions import Versions
from autogen_finetune.live import LiveModel
from autogen_finetune.registration import llm_config

SCRIPT = llm_config("script")
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def scripted(*answers: Answer) -> LiveModel:
    """A live model that says what the test wrote; `live.engine.requests` is what it was asked."""
    return LiveModel(ModelConfig(model="script"), engine=ScriptedEngine(*answers))


def tiny(folder: Path, **options: Any) -> dict[str, Any]:
    """An llm_config for a model that a test wrote; answers have 8 tokens."""
    return llm_config(folder, **{"device": "cpu", "dtype": "float32", "max_tokens": 8, **options})


def assistant(name: str, config: dict[str, Any], **options: Any) -> Any:
    return classic().AssistantAgent(name, llm_config=config, system_message="Be kind.", **options)


def user(name: str = "user", **options: Any) -> Any:
    return classic().UserProxyAgent(
        name,
        **{
            "human_input_mode": "NEVER",
            "code_execution_config": False,
            "max_consecutive_auto_reply": 3,
            "default_auto_reply": "",
            **options,
        },
    )


def called(city: str, raw: str | None = None) -> str:
    """What a model says to call TOOL."""
    arguments = f'{{"city": "{city}"}}' if raw is None else raw
    return f'<tool_call>\n{{"name": "get_weather", "arguments": {arguments}}}\n</tool_call>'


def shown(request: Any) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in request.messages]


def learned(store: Path, name: str, adapter: Path) -> None:
    """Leave in a store what an accepted update leaves there."""
    versions = Versions(store, name)
    with versions.begin() as staging:
        shutil.copytree(adapter, staging / "adapter")
        versions.use(versions.commit(staging, {}))
