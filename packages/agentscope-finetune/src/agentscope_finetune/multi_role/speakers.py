"""The roles as speakers: a reply taken apart into what each of them said."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, cast

from agentscope.event import (
    AgentEvent,
    EventBase,
    ReplyEndEvent,
    ReplyStartEvent,
    RequireExternalExecutionEvent,
    RequireUserConfirmEvent,
    TextBlockDeltaEvent,
    TextBlockEndEvent,
    TextBlockStartEvent,
    ThinkingBlockDeltaEvent,
    ThinkingBlockEndEvent,
    ThinkingBlockStartEvent,
    ToolResultDataDeltaEvent,
    ToolResultEndEvent,
    ToolResultStartEvent,
    ToolResultTextDeltaEvent,
)
from agentscope.message import (
    AssistantMsg,
    Msg,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    ToolResultBlock,
)

from agent_finetune.roles.prompts import Part
from agentscope_finetune.multi_role.steps import SPEAKER

_RESULTS = (
    ToolResultStartEvent,
    ToolResultTextDeltaEvent,
    ToolResultDataDeltaEvent,
    ToolResultEndEvent,
)
_QUESTIONS = (RequireUserConfirmEvent, RequireExternalExecutionEvent)
"""Answered by the id of the reply that they are of."""


def spoken(context: Sequence[Msg], name: str) -> list[Msg]:
    """A conversation with every role's words as a message from that role.

    Args:
        context: An agent's, `agent.state.context`.
        name: The agent's name; what others said stays as it is.

    Returns:
        The planner's words as text, the caller's calls with their results behind them, and the
        summarizer's answers as text.
    """
    said: list[Msg] = []
    for message in context:
        if message.role != "assistant" or message.name != name:
            said.append(message)
            continue
        own: list[Msg] = []
        for block in message.get_content_blocks():
            speaker, block = _by_whom(block, name)
            if not own or own[-1].name != speaker:
                own.append(AssistantMsg(name=speaker, content=[], created_at=message.created_at))
            own[-1].content.append(block)
        said += own
    return said


def _by_whom(block: Any, name: str) -> tuple[str, Any]:
    if isinstance(block, ThinkingBlock):
        return Part.PLANNER.value, TextBlock(text=block.thinking, id=block.id)
    if isinstance(block, ToolCallBlock | ToolResultBlock):
        return Part.CALLER.value, block
    return (Part.SUMMARIZER.value if isinstance(block, TextBlock) else name), block


async def voices(
    events: AsyncIterator[AgentEvent | Msg],
) -> AsyncGenerator[AgentEvent | Msg, None]:
    """A reply's events with each role's words as a reply from that role, as in a pipeline.

    For consoles and other screens, which show the name that a reply begins with:
    `async for event in voices(agent.reply_stream(message)): renderer.render(event)`.
    """
    speaker, reply, session, count = "", "", "", 0
    async with aclosing(cast("AsyncGenerator[AgentEvent | Msg, None]", events)) as each:
        async for event in each:
            if isinstance(event, ReplyStartEvent):
                session = event.session_id
                continue
            if isinstance(event, Msg | ReplyEndEvent):
                if isinstance(event, ReplyEndEvent) and speaker:
                    event = event.model_copy(update={"reply_id": reply})
                yield event
                continue
            now = _speaker(event)
            if now and now != speaker:
                if speaker:
                    yield ReplyEndEvent(session_id=session, reply_id=reply)
                speaker, count = now, count + 1
                reply = f"{cast('Any', event).reply_id}-{count}"
                yield ReplyStartEvent(session_id=session, reply_id=reply, name=speaker)
            yield _aloud(event, reply) if speaker else event


def _speaker(event: EventBase) -> str:
    """Who is heard; empty where an event is nobody's words."""
    if isinstance(event, _RESULTS):
        return Part.CALLER.value
    return str(event.metadata.get(SPEAKER, ""))


def _aloud(event: Any, reply: str) -> Any:
    """An event of a role's own reply; the planner's thoughts are what it says."""
    if isinstance(event, _QUESTIONS):
        return event
    if isinstance(event, ThinkingBlockStartEvent):
        return TextBlockStartEvent(reply_id=reply, block_id=event.block_id)
    if isinstance(event, ThinkingBlockDeltaEvent):
        return TextBlockDeltaEvent(reply_id=reply, block_id=event.block_id, delta=event.delta)
    if isinstance(event, ThinkingBlockEndEvent):
        return TextBlockEndEvent(reply_id=reply, block_id=event.block_id)
    return event.model_copy(update={"reply_id": reply})
