"""Feedback on a conversation of agents of AutoGen 0.4 and later, to the model that answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from autogen_core.model_context import ChatCompletionContext
from autogen_core.models import ChatCompletionClient, LLMMessage, SystemMessage

from autogen_finetune.agentchat.messages import LLM_MESSAGES, Dicts, heard, to_dicts, to_tools
from autogen_finetune.learners import Learns, learned
from autogen_finetune.live import LiveModel

if TYPE_CHECKING:
    from autogen_agentchat.agents import AssistantAgent
    from autogen_agentchat.base import TaskResult
    from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage

    Conversation: TypeAlias = (
        TaskResult
        | AssistantAgent
        | ChatCompletionContext
        | Sequence[BaseChatMessage | BaseAgentEvent]
        | Sequence[LLMMessage]
    )


@runtime_checkable
class Local(Protocol):
    """A client of ours, or a wrapper of one."""

    @property
    def live(self) -> LiveModel: ...


async def update_model(
    update_agent: AssistantAgent | ChatCompletionClient,
    preference_data: Sequence[Any] | None,
    conversation: Conversation,
    **kwargs: Any,
) -> dict[str, Any]:
    """Let the model of an agent learn from feedback; its next answer is made with what it learned.

    Works with every client that has `update_model(preference_data, inference_messages, **kwargs)`,
    async or not; one that is not runs in a thread. The event loop stays free.

    Args:
        update_agent: The agent, or the client behind it.
        preference_data: Feedback. With our client it is what `LiveModel.update` takes, in every
            shape of `feedback.read_feedback`, or None for what thumbs have said; a `turn` is an
            index of `inference_messages`.
        conversation: What the feedback is about: a `TaskResult` or its messages, messages as a
            model client gets them, an agent's model context, or the agent itself, whose context
            is meant.
        **kwargs: Handed on to the client's method; with our client those of `LiveModel.update`.

    Returns:
        `update_stats`, what the client's method answered; `inference_messages`, the conversation
        as OpenAI's chat dicts; and `preference_data` as given.

    Raises:
        ValueError: There is no model client, or no conversation.
        NotImplementedError: The client cannot learn.
        FinetuneError: Nothing can be learned, or training failed; all stands as it was.
    """
    from autogen_agentchat.agents import AssistantAgent

    agent = update_agent if isinstance(update_agent, AssistantAgent) else None
    if agent is None and isinstance(conversation, AssistantAgent):
        agent = conversation
    client = _client_of(update_agent)
    if not isinstance(client, Learns):
        raise NotImplementedError(
            f"{type(client).__name__} cannot learn, it has no update_model; in the place of a "
            "ChatCompletionCache, autogen_finetune.agentchat.cache.RevisionedCache can"
        )
    messages = await _dicts(conversation, agent)
    if all(message["role"] == "system" for message in messages):
        raise ValueError("the conversation is empty; there is nothing that feedback could be about")
    if agent is not None and isinstance(client, Local) and isinstance(client.live, LiveModel):
        kwargs = {"speaker": agent.name, "tools": await _tools(agent), **kwargs}
    return {
        "update_stats": await learned(client, preference_data, messages, kwargs),
        "inference_messages": messages,
        "preference_data": preference_data,
    }


def _client_of(agent: object) -> ChatCompletionClient:
    from autogen_agentchat.agents import AssistantAgent

    if isinstance(agent, ChatCompletionClient):
        return agent
    if isinstance(agent, AssistantAgent):
        return agent._model_client  # the host has no public name for it
    raise ValueError(
        f"update_agent is of {type(agent).__name__}, which has no model client that is known; give "
        "an AssistantAgent or the client itself"
    )


async def _dicts(conversation: Conversation, agent: AssistantAgent | None) -> Dicts:
    """The conversation as the agent that learns had it, with its system message.

    Raises:
        ValueError: It is no conversation, or another agent's.
    """
    from autogen_agentchat.agents import AssistantAgent
    from autogen_agentchat.base import TaskResult
    from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage

    speaker = None if agent is None else agent.name
    if isinstance(conversation, AssistantAgent):
        if conversation is not agent:
            raise ValueError(
                f"the conversation is the agent {conversation.name!r}, and {speaker!r} is to "
                "learn; give that one, or what came of the run"
            )
        conversation = conversation.model_context
    given: Any = conversation
    if isinstance(given, ChatCompletionContext):
        given = await given.get_messages()
    elif isinstance(given, TaskResult):
        given = given.messages
    messages = list(given) if isinstance(given, Sequence) else [given]
    if messages and all(isinstance(m, BaseChatMessage | BaseAgentEvent) for m in messages):
        dicts = heard(messages, speaker)
    elif all(isinstance(m, LLM_MESSAGES) for m in messages):
        dicts = to_dicts(messages, speaker=speaker)
    else:
        raise ValueError(
            f"conversation is of {type(conversation).__name__}; legal are a TaskResult, messages "
            "of agents or of model clients, a ChatCompletionContext and an AssistantAgent"
        )
    told: list[SystemMessage] = [] if agent is None else agent._system_messages
    if dicts and dicts[0]["role"] != "system":
        return [*to_dicts(told), *dicts]
    return dicts


async def _tools(agent: AssistantAgent) -> Sequence[Mapping[str, Any]]:
    """What the agent offers its model now."""
    listed = [tool for workbench in agent._workbench for tool in await workbench.list_tools()]
    return to_tools([*listed, *agent._handoff_tools])
