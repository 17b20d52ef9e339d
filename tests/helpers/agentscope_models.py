"""Chat models of agentscope-finetune on tiny weights or on a script, and how they are asked."""

from __future__ import annotations

import time
from pathlib import Path

from agentscope.message import AssistantMsg, Msg, SystemMsg, UserMsg
from agentscope.model import ChatResponse
from scripted_engine import Answer, ScriptedEngine
from scripted_engine import Cut as Cut

from agent_finetune.contracts import Settings
from agent_finetune.engine.local import LocalEngine
from agentscope_finetune.model import TransformersChatModel

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time.",
        "parameters": {"type": "object", "properties": {}},
    },
}


def chat_model(
    folder: Path | str, *, settings: Settings | None = None, **options
) -> TransformersChatModel:
    """A model in a folder, such as `testing.save_tiny_model` or `save_talkative_model` wrote.

    Keywords of `Parameters` may stand among the options; an answer has 12 tokens at most.
    """
    names = TransformersChatModel.Parameters.model_fields
    chosen = {"max_tokens": 12} | {name: options.pop(name) for name in names if name in options}
    return TransformersChatModel(
        model=str(folder),
        parameters=TransformersChatModel.Parameters(**chosen),
        **{"device": "cpu", "dtype": "float32", "settings": settings or Settings(), **options},
    )


def scripted_model(*answers: Answer, **options) -> TransformersChatModel:
    """A model that says what the test wrote; `model.engine.requests` is what it was asked."""
    return TransformersChatModel(engine=ScriptedEngine(*answers), settings=Settings(), **options)


def user(text: str, name: str = "user") -> Msg:
    return UserMsg(name=name, content=text)


def assistant(*blocks, name: str = "friend") -> Msg:
    return AssistantMsg(name=name, content=list(blocks))


def system(text: str) -> Msg:
    return SystemMsg(name="system", content=text)


async def ask(model: TransformersChatModel, *messages: Msg, **options) -> list[ChatResponse]:
    """All chunks of an answer, the whole one last; without streaming there is only that."""
    said = await model(list(messages) or [user("hello")], **options)
    return [said] if isinstance(said, ChatResponse) else [chunk async for chunk in said]


def freed(engine: LocalEngine, seconds: float = 20.0) -> str | None:
    """Wait for the worker to have nothing to do; how the last answer ended."""
    until = time.monotonic() + seconds
    while engine._hold.worker.call(lambda served: served.busy):
        if time.monotonic() > until:
            raise AssertionError("the worker is still busy")
        time.sleep(0.01)
    recent = engine.recent()
    return recent[-1].result.finish if recent else None
