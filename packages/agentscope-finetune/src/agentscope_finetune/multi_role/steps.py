"""One step of a reply: the planner speaks, then the caller, the summarizer, or nobody.

Made of AgentScope's own hooks. `Steps.on_reasoning` has the host reason twice where it would once,
and `Casting.on_model_call` has each of the two be said by the role whose turn it is. Everything
else (running tools, asking for permission, waiting for a person, stopping) stays the host's.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from agentscope.event import (
    EventBase,
    ModelCallEndEvent,
    ModelCallStartEvent,
    TextBlockDeltaEvent,
    TextBlockEndEvent,
    TextBlockStartEvent,
)
from agentscope.message import AssistantMsg, Msg, TextBlock, ThinkingBlock, ToolCallBlock, UserMsg
from agentscope.middleware import MiddlewareBase
from agentscope.model import ChatModelBase, ChatResponse, FinishedReason
from agentscope.types import ReplyFinishedReason

from agent_finetune.roles.prompts import Next, Part, Plan, read_plan
from agentscope_finetune.convert import new_call_id
from agentscope_finetune.formatter import TransformersMultiAgentFormatter
from agentscope_finetune.model import TransformersChatModel
from agentscope_finetune.recorder import RecordingChatModel
from agentscope_finetune.role_model import RoleChatModel

if TYPE_CHECKING:
    from agentscope.agent import Agent
    from agentscope.tool import ToolChoice

    from agentscope_finetune.multi_role.adapters import Voices

SPEAKER = "speaker"
"""Key in an event's metadata: the role whose words it is about."""
GAVE_UP = "gave_up"
"""Key in the metadata of a final message, True where the agent gave up."""
GIVES_UP = "I give up."
"""The end of what the user is told then; the roles read it back as a giving up."""


@dataclass
class Stage:
    """Whose turn it is, and what was said; an agent replies to one thing at a time."""

    part: Part = Part.PLANNER
    plan: Plan | None = None
    """What the planner just said."""
    foreign: bool = False
    """Whether a model that plays no roles took the turn, as a fallback does."""


class Casting(MiddlewareBase):
    """The first of an agent's middlewares: recorders behind it see each role's own call."""

    def __init__(self, stage: Stage, voices: Voices, *, force_call: bool) -> None:
        self._stage = stage
        self._voices = voices
        self._force_call = force_call

    async def on_model_call(
        self, agent: Agent, input_kwargs: dict[str, Any], next_handler: Callable[..., Any]
    ) -> ChatResponse | AsyncGenerator[ChatResponse, None]:
        """Let the role speak whose turn it is, and keep what is its to say."""
        stage = self._stage
        model = input_kwargs["current_model"]
        cast_model = self._cast(model)
        if cast_model is None:
            stage.foreign = True
            return cast("ChatResponse", await next_handler(**input_kwargs))
        stage.foreign = False
        messages = input_kwargs["messages"]
        if not isinstance(model.formatter, TransformersMultiAgentFormatter):
            messages = [_heard(message, agent.name) for message in messages]
        answer = await next_handler(
            **{**input_kwargs, "messages": messages, "current_model": cast_model}
        )
        if isinstance(answer, ChatResponse):
            return self._kept(answer)
        return self._all_kept(answer)

    def _cast(self, model: ChatModelBase) -> ChatModelBase | None:
        """The model in its role; None of one that plays none."""
        if isinstance(model, RecordingChatModel):
            inner = self._cast(model.inner)
            return None if inner is None else model.around(inner)
        if not isinstance(model, TransformersChatModel):
            return None
        stage = self._stage
        return RoleChatModel(
            model, stage.part, stage.plan, self._voices, force_call=self._force_call
        )

    async def _all_kept(
        self, chunks: AsyncGenerator[ChatResponse, None]
    ) -> AsyncGenerator[ChatResponse, None]:
        async with aclosing(chunks):
            async for chunk in chunks:
                kept = self._kept(chunk)
                if kept.is_last and not _calls(chunk) and _calls(kept):
                    # What the host adds to the stream has to come as a piece of it, too.
                    yield replace(kept, content=_calls(kept), is_last=False)
                if kept.is_last or kept.content:
                    yield kept

    def _kept(self, response: ChatResponse) -> ChatResponse:
        """Of what was said, what is the role's: a plan, a call, or an answer."""
        stage = self._stage
        texts = [block for block in response.content if isinstance(block, TextBlock)]
        if stage.part is Part.SUMMARIZER:
            return replace(response, content=[*texts])
        if stage.part is Part.CALLER:
            calls = _calls(response)
            done = response.is_last and response.finished_reason != FinishedReason.INTERRUPTED
            if done and not calls:
                calls = [_no_call("".join(block.text for block in texts))]
            return replace(response, content=calls)
        if response.is_last:
            stage.plan = read_plan("".join(block.text for block in texts))
        thoughts = [ThinkingBlock(thinking=block.text, id=block.id) for block in texts]
        return replace(response, content=[*thoughts])


class Steps(MiddlewareBase):
    """The last of an agent's middlewares: to the others, planner and caller reason at once."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def on_reasoning(
        self, agent: Agent, input_kwargs: dict[str, Any], next_handler: Callable[..., Any]
    ) -> AsyncGenerator[Any, None]:
        """Plan, and carry the plan out; a plan that names no next step is taken to conclude."""
        choice: ToolChoice | None = input_kwargs["tool_choice"]
        stage = self._stage
        stage.plan = _forced(choice)
        if stage.plan is None:
            stage.part = Part.PLANNER
            async for item in _said(Part.PLANNER, next_handler(tool_choice=None)):
                if stage.foreign or not isinstance(item, Msg):
                    yield item
                if _interrupted(item):
                    return
            if stage.foreign:
                return
        plan = stage.plan or Plan(thought="", next=None)
        if plan.next is Next.GIVE_UP:
            for item in _giving_up(agent, plan):
                yield item
            return
        calls = plan.next is Next.CALL
        stage.part = Part.CALLER if calls else Part.SUMMARIZER
        stage.plan = plan if calls else replace(plan, next=Next.CONCLUDE)
        async for item in _said(stage.part, next_handler(tool_choice=choice if calls else None)):
            yield item


async def _said(part: Part, items: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    """What the host yields while a role speaks, with the role's name on it."""
    async with aclosing(cast("AsyncGenerator[Any, None]", items)) as each:
        async for item in each:
            yield _marked(item, part)


def _marked(item: Any, part: Part) -> Any:
    if not isinstance(item, EventBase):
        return item
    item.metadata[SPEAKER] = part.value
    if isinstance(item, ModelCallStartEvent):
        item.model_name = f"{item.model_name} ({part})"
    return item


def _forced(choice: ToolChoice | None) -> Plan | None:
    """What the host has decided instead of the planner: no more calls, or one call in any case."""
    mode = "auto" if choice is None else choice.mode
    if mode == "auto":
        return None
    return Plan(thought="", next=Next.CONCLUDE if mode == "none" else Next.CALL)


def _interrupted(item: Any) -> bool:
    return (
        isinstance(item, ModelCallEndEvent) and item.finished_reason == FinishedReason.INTERRUPTED
    )


def _giving_up(agent: Agent, plan: Plan) -> list[Any]:
    """The end of a reply in which the planner gave up: nobody else is asked."""
    reply, block = (
        agent.state.reply_id,
        TextBlock(text="\n".join(filter(None, (plan.thought, GIVES_UP))), id=uuid.uuid4().hex),
    )
    events = [
        TextBlockStartEvent(reply_id=reply, block_id=block.id),
        TextBlockDeltaEvent(reply_id=reply, block_id=block.id, delta=block.text),
        TextBlockEndEvent(reply_id=reply, block_id=block.id),
    ]
    agent.state.append_context(agent.name, [block])
    usage = agent.state.context[-1].usage
    message = AssistantMsg(
        id=reply,
        name=agent.name,
        content=[block.model_copy()],
        usage=usage and usage.model_copy(),
        finished_reason=ReplyFinishedReason.COMPLETED,
        metadata={GAVE_UP: True},
    )
    return [*(_marked(event, Part.PLANNER) for event in events), message]


def _calls(response: ChatResponse) -> list[Any]:
    return [block for block in response.content if isinstance(block, ToolCallBlock)]


def _no_call(words: str) -> ToolCallBlock:
    """A caller's words without a call, so that the host tells the planner what went wrong.

    Its input is no object, and nothing is repaired into a call that was never written.
    """
    note = f"no call of a function was written, but: {words[:200]}"
    return ToolCallBlock(id=new_call_id(), name="unknown", input=json.dumps([note]))


def _heard(message: Msg, name: str) -> Msg:
    """What another agent said is a user's turn that names it; in training nobody else speaks."""
    if message.role != "assistant" or message.name == name:
        return message
    return UserMsg(name=message.name, content=f"{message.name}: {message.get_text_content() or ''}")
