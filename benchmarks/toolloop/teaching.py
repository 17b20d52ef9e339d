"""Training conversations, made by the very agent that is measured.

A scripted model says the right calls and the right answer; AgentScope makes the schemas, executes
the calls and lays the conversation out. So system prompt, tools and result turns are in training
what they are in service.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from agentscope.credential import CredentialBase
from agentscope.message import (
    ContentBlock,
    Msg,
    TextBlock,
    ToolCallBlock,
    ToolResultBlock,
    ToolResultState,
    UserMsg,
)
from agentscope.model import ChatModelBase, ChatResponse
from pydantic import BaseModel

from agent_finetune.records import ToolCall
from agentscope_finetune.formatter import TransformersChatFormatter

from .loop import make_agent, spoken

if TYPE_CHECKING:
    from agentscope.tool import FunctionTool, ToolChoice


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """A conversation as it should go: calls one after the other, then the answer."""

    request: str
    tools: tuple[FunctionTool, ...]
    calls: tuple[ToolCall, ...]
    answer: str


class Teacher(ChatModelBase):
    """Says what a lesson says, and keeps the conversation as it was last asked to continue it."""

    class Parameters(BaseModel):
        """None."""

    type: Literal["scripted_teacher"] = "scripted_teacher"

    def __init__(self, lesson: Lesson) -> None:
        super().__init__(
            credential=CredentialBase(),
            model="teacher",
            parameters=self.Parameters(),
            stream=False,
            max_retries=0,
        )
        self.formatter = TransformersChatFormatter()
        self.turns = _turns(lesson)
        self.messages: list[dict[str, Any]] = []
        self.tools: list[dict[str, Any]] = []

    async def _call_api(
        self,
        model_name: str,
        messages: list[Msg],
        tools: list[dict[str, Any]] | None = None,
        tool_choice: ToolChoice | None = None,
        **kwargs: Any,
    ) -> ChatResponse:
        self.messages = await self.formatter.format(messages)
        self.tools = list(tools or ())
        return ChatResponse(content=[self.turns.pop(0)], is_last=True)


async def conversation(lesson: Lesson) -> dict[str, Any] | None:
    """A row to train on, `messages` and `tools`; None when the host did not execute the calls.

    That is so where a call contradicts its own schema, as some of the leaderboard's do.
    """
    teacher = Teacher(lesson)
    agent = make_agent(teacher, lesson.tools)
    await agent.reply(UserMsg(name="user", content=lesson.request))
    if any(map(_failed, spoken(agent))):
        return None
    answer = {"role": "assistant", "content": lesson.answer}
    return {"messages": [*teacher.messages, answer], "tools": teacher.tools}


def _failed(block: ContentBlock) -> bool:
    return isinstance(block, ToolResultBlock) and block.state != ToolResultState.SUCCESS


def _turns(lesson: Lesson) -> list[ToolCallBlock | TextBlock]:
    """The model's turns; ids as the formatter's own, nine letters and digits."""
    calls: Sequence[ToolCallBlock] = [
        ToolCallBlock(
            id=f"call{number:05d}",
            name=call.name,
            input=json.dumps(call.arguments, ensure_ascii=False),
        )
        for number, call in enumerate(lesson.calls, start=1)
    ]
    return [*calls, TextBlock(text=lesson.answer)]
