"""Messages of AutoGen 0.4 and later as OpenAI's chat dicts, in which every API of AutoGen meets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autogen_core import FunctionCall, Image
from autogen_core.models import (
    AssistantMessage,
    FunctionExecutionResult,
    FunctionExecutionResultMessage,
    LLMMessage,
    SystemMessage,
    UserMessage,
)

from agent_finetune.errors import DataError
from autogen_finetune.thoughts import split_thought

if TYPE_CHECKING:
    from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage

LLM_MESSAGES = (SystemMessage, UserMessage, AssistantMessage, FunctionExecutionResultMessage)

Dicts = list[dict[str, Any]]


def to_dicts(messages: Iterable[LLMMessage], *, speaker: str | None = None) -> Dicts:
    """What a model client gets, as chat dicts.

    Args:
        messages: The conversation.
        speaker: The agent that learns; what others said as assistants, as a handoff brings it, has
            `weight` 0 then. None takes every assistant turn for the model's own.

    Raises:
        DataError: A message holds an image, or is of no known class; its place is named.
    """
    return [
        item
        for index, message in enumerate(messages)
        for item in _dicts(message, f"messages[{index}]", speaker)
    ]


def _dicts(message: object, what: str, speaker: str | None) -> Iterator[dict[str, Any]]:
    if isinstance(message, SystemMessage):
        yield {"role": "system", "content": message.content}
    elif isinstance(message, UserMessage):
        yield {"role": "user", "content": _text(message.content, what), "name": message.source}
    elif isinstance(message, AssistantMessage):
        own = speaker is None or message.source == speaker
        yield {**_assistant(message), **({} if own else {"weight": 0})}
    elif isinstance(message, FunctionExecutionResultMessage):
        for result in message.content:
            yield _result(result)
    else:
        names = ", ".join(kind.__name__ for kind in LLM_MESSAGES)
        raise DataError(f"{what} is of {type(message).__name__}; legal are {names}")


def _text(content: str | list[str | Image], what: str) -> str:
    if isinstance(content, str):
        return content
    if any(isinstance(part, Image) for part in content):
        raise DataError(f"{what} holds an image; the model reads text only")
    return "\n".join(map(str, content))  # as AutoGen joins what is left without images


def _assistant(message: AssistantMessage) -> dict[str, Any]:
    said: dict[str, Any] = {"role": "assistant", "content": "", "name": message.source}
    if isinstance(message.content, str):
        return {**said, "content": message.content, **_thinking(message.thought)}
    thinking, text = split_thought(message.thought)
    calls = [_call(call) for call in message.content]
    return {**said, "content": text, **_thinking(thinking), "tool_calls": calls}


def _thinking(thinking: str | None) -> dict[str, Any]:
    return {"reasoning_content": thinking} if thinking else {}


def _call(call: FunctionCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _result(result: FunctionExecutionResult) -> dict[str, Any]:
    return {
        "role": "tool",
        "tool_call_id": result.call_id,
        "name": result.name,
        "content": result.content,
    }


def heard(messages: Sequence[BaseChatMessage | BaseAgentEvent], speaker: str | None) -> Dicts:
    """What an agent heard and said in a run, as chat dicts: its own model context, nearly.

    Events of others are not heard, and summaries that AutoGen makes of tool calls and handoffs
    are not said by the model that made the calls.

    Args:
        messages: Those of a `TaskResult`.
        speaker: Name of the agent; None is the only one of which the messages name tokens used.

    Raises:
        DataError: Speaker is None, and none or several used tokens; or a message holds an image.
    """
    name = _only_speaker(messages) if speaker is None else speaker
    return to_dicts(_heard(messages, name), speaker=name)


def _only_speaker(messages: Sequence[BaseChatMessage | BaseAgentEvent]) -> str:
    names = list(dict.fromkeys(m.source for m in messages if m.models_usage is not None))
    if len(names) != 1:
        found = ", ".join(map(repr, names)) or "no one"
        raise DataError(
            f"a model answered for {found} in the conversation; give the agent, not its client"
        )
    return names[0]


def _heard(messages: Sequence[BaseChatMessage | BaseAgentEvent], name: str) -> Iterator[LLMMessage]:
    from autogen_agentchat.messages import (
        BaseChatMessage,
        HandoffMessage,
        StructuredMessage,
        ThoughtEvent,
        ToolCallExecutionEvent,
        ToolCallRequestEvent,
    )
    from autogen_agentchat.utils import remove_images

    thought: str | None = None
    for message in messages:
        if message.source != name:
            if isinstance(message, HandoffMessage) and message.target == name:
                yield from message.context
            if isinstance(message, BaseChatMessage):
                yield from remove_images([message.to_model_message()])
        elif isinstance(message, ThoughtEvent):
            thought = message.content
        elif isinstance(message, ToolCallExecutionEvent):
            yield FunctionExecutionResultMessage(content=message.content)
        elif isinstance(message, ToolCallRequestEvent):
            yield AssistantMessage(content=message.content, thought=thought, source=name)
            thought = None
        elif isinstance(message, BaseChatMessage) and message.models_usage is not None:
            text = message.to_model_text()
            if isinstance(message, StructuredMessage):
                text = _written(message.content)
            yield AssistantMessage(content=text, thought=thought, source=name)
            thought = None


def _written(content: Any) -> str:
    """An object as a model that is held to its schema writes it."""
    return json.dumps(content.model_dump(mode="json"), ensure_ascii=False)


def to_tools(tools: Iterable[Any]) -> tuple[Mapping[str, Any], ...]:
    """Tools as OpenAI's dicts: of `Tool` objects, of AutoGen's flat schemas, or such already.

    Raises:
        DataError: One is something else.
    """
    from autogen_core.tools import Tool

    from agent_finetune.readers.chat import as_tools

    return as_tools([dict(t.schema) if isinstance(t, Tool) else t for t in tools])
