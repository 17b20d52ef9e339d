"""Agents of AG2 1.x on a script. A test file that imports this is skipped where there is no AG2."""

from __future__ import annotations

import asyncio
from typing import Any

from autogen_hosts import ag2, host
from scripted_engine import Answer, ScriptedEngine

Agent, tool = ag2().Agent, ag2().tool
events = host("ag2.events")

from agent_finetune.config import ModelConfig  # noqa: E402 - not before AG2 is known to be there
from autogen_finetune.ag2 import HFConfig  # noqa: E402
from autogen_finetune.live import LiveModel  # noqa: E402

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"Sunny in {city}."


def scripted(*answers: Answer, **options: Any) -> HFConfig:
    """A config whose model says what the test wrote."""
    live = LiveModel(ModelConfig(model="script"), engine=ScriptedEngine(*answers))
    return HFConfig("script", live=live, **options)


def agent_of(config: Any, name: str = "helper", **options: Any) -> Any:
    return Agent(name, "Be kind.", config=config, **options)


def ask(agent: Any, *words: Any, **options: Any) -> Any:
    return asyncio.run(agent.ask(*words, **options))


def asked(config: HFConfig) -> list[tuple[str, str]]:
    """Roles and words of the last request."""
    return [(message.role, message.text) for message in config.live.engine.requests[-1].messages]
