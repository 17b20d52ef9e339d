"""ShareGPT conversations: `from` and `value`, with the tool turns that fine-tuning files added."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers.chat import (
    as_call,
    as_example,
    as_objects,
    from_json,
    missing_key,
    row_tools,
    shown,
)
from agent_finetune.records import Example, Message, Role, Row, ToolCall

SPEAKERS: Mapping[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
CALLS = ("function_call", "tool_call")


def read_sharegpt(row: Row) -> Example:
    """Format `sharegpt`: `conversations` of `from` and `value`, `tools`, and `system`.

    The value of a `function_call` turn is a call `{"name", "arguments"}` or a list of them, as an
    object or as JSON. Consecutive turns of the assistant are one turn, as a chat template needs
    it: words and the call beside them, or calls made in parallel. A tool turn takes the name of
    the call it answers, first come first served. `loss: false` keeps a turn as context only.
    """
    if "conversations" not in row.data:
        raise DataError(missing_key(row, "conversations"))
    messages: list[Message] = []
    if system := row.data.get("system"):
        messages.append(Message(role="system", text=_text(system, "system")))
    waiting: list[ToolCall] = []
    for index, turn in enumerate(as_objects(row.data["conversations"], "conversations")):
        message = _message(turn, f"conversations[{index}]")
        if message.role == "tool" and waiting:
            message = Message(role="tool", text=message.text, name=waiting.pop(0).name)
        elif message.role == "assistant":
            waiting = [*waiting, *message.tool_calls]
            if messages and messages[-1].role == "assistant":
                message = _joined(messages.pop(), message)
        else:
            waiting = []
        messages.append(message)
    return as_example(row, messages, row_tools(row))


def _message(turn: Mapping[str, Any], what: str) -> Message:
    speaker = turn.get("from")
    role = SPEAKERS.get(str(speaker))
    if role is None:
        raise DataError(f"{what}: from is {speaker!r}; legal are {', '.join(SPEAKERS)}")
    trained = turn.get("loss") not in (0, False)
    if speaker in CALLS:
        return Message(role=role, tool_calls=_calls(turn.get("value"), what), trained=trained)
    return Message(role=role, text=_text(turn.get("value"), f"{what}: value"), trained=trained)


def _calls(value: object, what: str) -> tuple[ToolCall, ...]:
    calls = from_json(value, f"{what}: value")
    objects = as_objects(calls if isinstance(calls, list) else [calls], f"{what}: value")
    return tuple(as_call(call, f"{what}: value") for call in objects)


def _joined(first: Message, second: Message) -> Message:
    return Message(
        role="assistant",
        text="\n".join(text for text in (first.text, second.text) if text),
        tool_calls=first.tool_calls + second.tool_calls,
        trained=first.trained and second.trained,
    )


def _text(value: object, what: str) -> str:
    """A string as it is; a tool result that is an object or a list, as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, (Mapping, list)):
        return json.dumps(value, ensure_ascii=False)
    raise DataError(f"{what} is {shown(value)}; expected a string")
