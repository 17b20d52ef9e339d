"""What a chat model was asked and what it answered, as the kernel keeps it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from agentscope.message import AssistantMsg, Msg, ToolCallBlock
from agentscope.model import ChatModelBase, ChatResponse, FinishedReason

from agent_finetune.contracts import Engine, Exchange, FinishReason, Request, Result, Usage
from agent_finetune.errors import DataError
from agent_finetune.records import Message
from agentscope_finetune import convert
from agentscope_finetune.formatter import TransformersChatFormatter
from agentscope_finetune.model import TransformersChatModel
from agentscope_finetune.role_model import RoleChatModel
from agentscope_finetune.structured import Structure, schema_of, told

if TYPE_CHECKING:
    from agentscope.formatter import FormatterBase
    from agentscope.model import ChatUsage, StructuredResponse
    from agentscope.tool import ToolChoice

Tools: TypeAlias = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Served:
    """A call of a model of this process: its engine knows the exact ids."""

    engine: Engine
    model: str

    async def exchange(self, response: ChatResponse | StructuredResponse) -> Exchange | None:
        """The exchange; None where the engine has forgotten it or it was cut off by a cancel."""
        if response.finished_reason == FinishedReason.INTERRUPTED:
            return None
        recent = self.engine.recent()
        found = next((e for e in reversed(recent) if e.result.id == response.id), None)
        return found


@dataclass(frozen=True, slots=True)
class Asked:
    """A call of any other model, as it was when it was made.

    The host goes on with the very messages that it hands over, so that they are read at once.
    """

    messages: Sequence[Mapping[str, Any]]
    """Of the formatter."""
    tools: Tools
    tool_choice: str
    schema: Mapping[str, Any] | None
    model: str

    async def exchange(self, response: ChatResponse | StructuredResponse) -> Exchange | None:
        """The exchange; None where the answer was cut off by a cancel or says nothing."""
        if response.finished_reason == FinishedReason.INTERRUPTED:
            return None
        said, broken = await _said(response)
        if not said and not broken:
            return None
        turns = convert.to_messages([*self.messages, *said])
        asked = turns[: len(self.messages)]
        message = turns[-1] if said else Message(role="assistant")
        return Exchange(
            request=Request(
                messages=asked,
                tools=self.tools,
                tool_choice=self.tool_choice,
                schema=self.schema,
            ),
            result=Result(
                id=response.id,
                message=message,
                finish=_finish(response, message),
                revision="",
                usage=_usage(response.usage),
                broken_calls=broken,
            ),
            time=time.time(),
        )


Call: TypeAlias = Served | Asked


async def begun(
    model: ChatModelBase,
    messages: list[Msg],
    tools: list[dict[str, Any]] | None,
    tool_choice: ToolChoice | None,
    formatter: FormatterBase,
) -> Call:
    """A call that is about to be made."""
    if (served := _served(model)) is not None:
        return served
    offered: Tools = tools or []
    if tool_choice is not None and tool_choice.tools:
        offered = [tool for tool in offered if tool["function"]["name"] in tool_choice.tools]
    return Asked(
        messages=await formatter.format(messages),
        tools=[json.loads(json.dumps(tool)) for tool in offered],
        tool_choice="auto" if tool_choice is None else tool_choice.mode,
        schema=None,
        model=model.model,
    )


async def begun_structured(
    model: ChatModelBase, messages: list[Msg], structure: Structure, formatter: FormatterBase
) -> Call:
    """A call for an object. Another provider's is kept as `TransformersChatModel` would ask."""
    if (served := _served(model)) is not None:
        return served
    schema = schema_of(structure)
    return Asked(
        messages=await formatter.format(told(messages, schema)),
        tools=(),
        tool_choice="auto",
        schema=schema,
        model=model.model,
    )


def _served(model: ChatModelBase) -> Served | None:
    if isinstance(model, RoleChatModel):
        model = model.inner
    if not isinstance(model, TransformersChatModel):
        return None
    return Served(model.engine, model.model)


async def _said(
    response: ChatResponse | StructuredResponse,
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The answer as a turn, none where it says nothing; and its calls that do not parse, raw."""
    content = response.content
    if isinstance(content, dict):
        text = json.dumps(content, ensure_ascii=False)
        return [{"role": "assistant", "content": text}], ()
    broken = [b for b in content if isinstance(b, ToolCallBlock) and not _parses(b.input)]
    whole: list[Any] = [block for block in content if block not in broken]
    dicts = await TransformersChatFormatter().format([AssistantMsg(name="said", content=whole)])
    return dicts, tuple(json.dumps({"name": b.name, "arguments": b.input}) for b in broken)


def _parses(raw: str) -> bool:
    try:
        return isinstance(json.loads(raw or "{}"), dict)
    except ValueError:
        return False


def _finish(response: ChatResponse | StructuredResponse, message: Message) -> FinishReason:
    """How it ended; a provider that does not say it is taken to have come to its end."""
    if response.metadata.get("stop_reason") == "length":
        return "length"
    return "tool_calls" if message.tool_calls else "stop"


def _usage(usage: ChatUsage | None) -> Usage:
    if usage is None:
        return Usage(prompt_tokens=0, completion_tokens=0)
    return Usage(
        prompt_tokens=usage.input_tokens,
        completion_tokens=usage.output_tokens,
        cached_tokens=usage.cache_input_tokens or 0,
    )


async def answer_of(correction: str | Message | Msg | None) -> str | Message | None:
    """A correction as the kernel takes it; a message of the host becomes the turn that it is.

    Raises:
        DataError: It is not one turn of an assistant.
    """
    if not isinstance(correction, Msg):
        return correction
    turns = convert.to_messages(await TransformersChatFormatter().format([correction]))
    if len(turns) != 1 or turns[0].role != "assistant":
        raise DataError(
            f"correction has the turns {[turn.role for turn in turns]}; it must be one turn of an "
            "assistant"
        )
    return turns[0]
