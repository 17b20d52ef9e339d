"""Feedback on a conversation of an agent of AG2 1.x, to the model that answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ag2 import Agent
from ag2.agent import AgentReply
from ag2.context import ConversationContext, Stream
from ag2.events import BaseEvent, ModelResponse
from ag2.history import History
from ag2.stream import MemoryStream
from ag2.tools.final import FunctionToolSchema
from ag2.utils import AGENT_CONTEXT_DEPENDENCY_KEY
from fast_depends.pydantic import PydanticSerializer

from autogen_finetune.ag2.config import HFConfig
from autogen_finetune.ag2.messages import PROVIDER, Dicts, to_dicts, to_tools
from autogen_finetune.learners import Learns, learned

Conversation: TypeAlias = "AgentReply[Any, Any] | History | Stream | Iterable[BaseEvent]"


async def update_model(
    update_agent: Agent[Any] | HFConfig | Learns,
    preference_data: Sequence[Any] | None,
    history: Conversation,
    **kwargs: Any,
) -> dict[str, Any]:
    """Let the model of an agent learn from feedback; its next answer is made with what it learned.

    The event loop stays free. Works with every config that has `update_model(preference_data,
    inference_messages, **kwargs)`, async or not.

    Args:
        update_agent: The agent, or its config.
        preference_data: Feedback; with our config, in every shape of `feedback.read_feedback`. An
            `id` is the `response_id` of a response, a `turn` an index of `inference_messages`.
        history: What the feedback is about: a reply, its history or stream, or a list of events.
        **kwargs: Handed on to the config's method; with ours those of `LiveModel.update`.

    Returns:
        `update_stats`, what the config's method answered; `inference_messages`, the conversation as
        OpenAI's chat dicts; and `preference_data` as given.

    Raises:
        ValueError: There is no config, or no conversation, or it is another agent's.
        NotImplementedError: The config cannot learn.
        ConfigError: A config is given, and several agents speak through it.
        FinetuneError: Nothing can be learned, or training failed; all stands as it was.
    """
    agent = update_agent if isinstance(update_agent, Agent) else _agent_of(history)
    config = update_agent.config if isinstance(update_agent, Agent) else update_agent
    if config is None:
        raise ValueError(f"agent {_name(agent)} has no config; there is no model that could learn")
    if not isinstance(config, Learns):
        raise NotImplementedError(
            f"{type(config).__name__} cannot learn: it has no update_model. Local models of "
            "autogen_finetune.ag2.HFConfig can"
        )
    messages = await _messages(history, agent, config)
    if isinstance(config, HFConfig) and agent is not None:
        kwargs = {"agent": agent, "speaker": agent.name, **kwargs}
        if "tools" not in kwargs:
            kwargs["tools"] = await _tools(agent, history)
    return {
        "update_stats": await learned(config, preference_data, messages, kwargs),
        "inference_messages": messages,
        "preference_data": preference_data,
    }


def _agent_of(history: object) -> Agent[Any] | None:
    """Who replied."""
    if not isinstance(history, AgentReply):
        return None
    agent = history.context.dependencies.get(AGENT_CONTEXT_DEPENDENCY_KEY)
    return agent if isinstance(agent, Agent) else None


def _name(agent: Agent[Any] | None) -> str:
    return "" if agent is None else repr(agent.name)


async def _messages(history: Conversation, agent: Agent[Any] | None, config: Learns) -> Dicts:
    """The conversation as the agent's model is shown it, and which answers are its own.

    Raises:
        ValueError: It is none, nothing was said in it, or another agent replied.
    """
    events = await _events(history)
    if not any(isinstance(event, ModelResponse) for event in events):
        raise ValueError("the history holds no answer that feedback could be about")
    prompt: Iterable[str] = () if agent is None else agent.system_prompt
    if isinstance(history, AgentReply):
        replied = _agent_of(history)
        if replied is not agent:
            raise ValueError(
                f"the reply is of agent {_name(replied)}, and {_name(agent)} is to learn; give "
                "that one, or the reply's history"
            )
        prompt = history.context.prompt
    serializer = _serializer() if agent is None else agent.serializer
    others = _others(config, agent)

    def own(response: ModelResponse) -> bool:
        if not isinstance(config, HFConfig):
            return True
        return response.provider == PROVIDER and response.response_id not in others

    return to_dicts(events, prompt, serializer, own=own)


async def _events(history: Conversation) -> list[BaseEvent]:
    if isinstance(history, AgentReply | Stream):
        history = history.history
    events = await history.get_events() if isinstance(history, History) else history
    found = list(events) if isinstance(events, Iterable) else [events]
    if not all(isinstance(event, BaseEvent) for event in found):
        raise ValueError(
            f"history is of {type(history).__name__}; legal are an AgentReply, a History, a Stream "
            "and events"
        )
    return found


def _others(config: Learns, agent: Agent[Any] | None) -> set[str]:
    """Answers of the same weights that were given to other agents."""
    if not isinstance(config, HFConfig) or agent is None:
        return set()
    live = config.live_of(agent)
    own = {exchange.result.id for exchange in live.log()}
    return {exchange.result.id for exchange in live.engine.recent()} - own


def _serializer() -> PydanticSerializer:
    return PydanticSerializer(
        pydantic_config={"arbitrary_types_allowed": True}, use_fastdepends_errors=False
    )


async def _tools(agent: Agent[Any], history: Conversation) -> Sequence[Mapping[str, Any]]:
    """Functions that the agent offers its model; those of toolkits are asked for."""
    context = ConversationContext(stream=MemoryStream())
    if isinstance(history, AgentReply):
        context = history.context
    listed = [schema for tool in agent.tools for schema in await tool.schemas(context)]
    return to_tools(schema for schema in listed if isinstance(schema, FunctionToolSchema))
