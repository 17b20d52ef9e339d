"""Turns in the form of OpenAI's API, to and fro."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent_finetune import toolcalls
from agent_finetune.records import Message, ToolCall
from agent_finetune.render.messages import as_dicts
from agent_finetune.toolcalls import ParsedTurn
from agent_finetune.toolcalls.reading import make_call


def as_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages for a request: arguments are JSON strings, results carry their call's id."""
    said = []
    for item in as_dicts(messages):
        item.pop("thinking", None)
        item.pop("reasoning_content", None)
        for call in item.get("tool_calls", ()):
            arguments = call["function"]["arguments"]
            call["function"]["arguments"] = json.dumps(arguments, ensure_ascii=False)
        if item.get("tool_calls") and not item["content"]:
            item["content"] = None
        said.append(item)
    return said


def turn_of(message: Mapping[str, Any]) -> ParsedTurn:
    """An assistant message taken apart.

    Where it has no `tool_calls`, calls are looked for in its words, in any form that is known.

    Raises:
        KeyError, TypeError, AttributeError: It is no assistant message.
    """
    text = message.get("content") or ""
    called = _called(message)
    turn = toolcalls.parse(text)
    if called:
        read = [(one["function"], _read_call(one)) for one in called]
        turn = ParsedTurn(
            text=text.strip(),
            calls=tuple(call for _, call in read if call is not None),
            broken=tuple(json.dumps(raw, ensure_ascii=False) for raw, call in read if call is None),
        )
    thinking = message.get("reasoning_content") or message.get("reasoning") or turn.thinking
    return replace(turn, thinking=thinking)


def said_in(message: Mapping[str, Any]) -> str:
    """Words and calls of an assistant message as one text, for people."""
    parts = [message.get("content") or ""]
    parts += [json.dumps(call["function"], ensure_ascii=False) for call in _called(message)]
    return "\n".join(filter(None, parts))


def _called(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return message.get("tool_calls") or ()


def _read_call(one: Mapping[str, Any]) -> ToolCall | None:
    """A call; None where its arguments are no JSON object."""
    function = one["function"]
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            return None
    return make_call(function.get("name"), arguments, one.get("id"))
