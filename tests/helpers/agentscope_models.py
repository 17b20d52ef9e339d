"""Chat models of agentscope-finetune on tiny weights, and how they are asked, for tests."""

from __future__ import annotations

from pathlib import Path

from agentscope.message import AssistantMsg, Msg, SystemMsg, UserMsg

from agent_finetune.contracts import Settings
from agentscope_finetune.model import TransformersChatModel


def chat_model(
    folder: Path, *, settings: Settings | None = None, **options
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


def user(text: str, name: str = "user") -> Msg:
    return UserMsg(name=name, content=text)


def assistant(*blocks, name: str = "friend") -> Msg:
    return AssistantMsg(name=name, content=list(blocks))


def system(text: str) -> Msg:
    return SystemMsg(name="system", content=text)
