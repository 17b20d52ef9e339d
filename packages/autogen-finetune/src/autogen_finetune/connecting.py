"""Live agents of all three AutoGens, put on an engine that is open already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Engine
from agent_finetune.engine.local import LocalEngine
from agent_finetune.errors import ConfigError
from autogen_finetune.hosts import require
from autogen_finetune.live import LiveModel

if TYPE_CHECKING:
    from autogen_finetune.ag2 import HFConfig
    from autogen_finetune.agentchat import HFChatCompletionClient
    from autogen_finetune.hf_client import HFModelClient


def connect_classic(agent: Any, engine: Engine) -> HFModelClient:
    """Let a `ConversableAgent` speak through an engine; its tools stay.

    Raises:
        ConfigError: It is no such agent.
        ImportError: Classic AutoGen is not installed.
    """
    require("autogen", "plugin")
    from autogen import ConversableAgent

    from autogen_finetune.hf_client import HFModelClient
    from autogen_finetune.registration import attach, detach, llm_config

    _check(agent, ConversableAgent)
    live = _live(engine)
    offered: Mapping[str, Any] = agent.llm_config or {}
    tools = list(offered.get("tools") or [])
    functions = list(offered.get("functions") or [])
    detach(agent)
    # Versions differ in how an agent makes a client of a config; its constructor is the same.
    donor = ConversableAgent("donor", llm_config=llm_config(live.model.model))
    agent.llm_config, agent.client = donor.llm_config, donor.client
    for tool in tools:
        agent.update_tool_signature(tool, is_remove=False)
    for function in functions:
        agent.update_function_signature(function, is_remove=False)
    attach(agent, live=live)
    (client,) = agent.client._clients
    assert isinstance(client, HFModelClient)
    return client


def connect_agentchat(agent: Any, engine: Engine) -> HFChatCompletionClient:
    """Let an `AssistantAgent` of AutoGen 0.4+ speak through an engine.

    Args:
        agent: None only makes the client.
        engine: An open engine.

    Raises:
        ConfigError: It is no such agent.
        ImportError: AutoGen 0.4+ is not installed.
    """
    require("autogen_core", "plugin")
    from autogen_finetune.agentchat import HFChatCompletionClient

    live = _live(engine)
    client = HFChatCompletionClient(live.model.model, live=live)
    if agent is not None:
        from autogen_agentchat.agents import AssistantAgent

        _check(agent, AssistantAgent)
        agent._model_client = client  # the host has no public name for it
    return client


def connect_ag2(agent: Any, engine: Engine) -> HFConfig:
    """Let an `Agent` of AG2 1.x speak through an engine; None only makes the config.

    Raises:
        ConfigError: It is no such agent.
        ImportError: AG2 1.x is not installed.
    """
    require("ag2", "plugin")
    from autogen_finetune.ag2 import HFConfig

    live = _live(engine)
    config = HFConfig(live.model.model, live=live)
    if agent is not None:
        from ag2 import Agent

        _check(agent, Agent)
        agent.config = config
    return config


HOSTS: Mapping[str, Callable[[Any, Engine], object]] = {
    "autogen": connect_classic,
    "autogen-agentchat": connect_agentchat,
    "ag2": connect_ag2,
}
"""By the names under which `finetune_connect_host` is asked."""


def _live(engine: Engine) -> LiveModel:
    if isinstance(engine, LocalEngine):
        model = engine.config.model
        return LiveModel(model, engine=engine, record_to=engine.config.record_to)
    return LiveModel(ModelConfig(model=engine.info().model), engine=engine)


def _check(agent: object, kind: type) -> None:
    if not isinstance(agent, kind):
        raise ConfigError(
            f"agent is {agent!r}; it must be of {kind.__module__}.{kind.__qualname__}"
        )
