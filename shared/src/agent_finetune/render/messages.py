"""Messages as chat templates read them, in the form that Transformers documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent_finetune.records import Message, ToolCall

Tools = list[dict[Any, Any] | Callable[..., Any]] | None
"""Tools as `apply_chat_template` declares them; here they are always dicts."""


def as_dicts(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Turn messages into the dicts that `apply_chat_template` takes.

    A call without an id gets one (`call00001`, nine characters as Mistral's templates demand),
    and a result without one gets the id of the oldest call that still waits. A result carries
    its tool's name, which some templates print and others look up.
    """
    dicts: list[dict[str, Any]] = []
    waiting: list[tuple[str, str]] = []  # (id, name) of calls without a result
    count = 0
    for message in messages:
        item: dict[str, Any] = {"role": message.role, "content": message.text}
        if message.thinking:
            # Templates disagree about the key: Qwen reads the first, gpt-oss the second.
            item |= {"reasoning_content": message.thinking, "thinking": message.thinking}
        if message.tool_calls:
            item["tool_calls"] = []
            waiting = []
            for call in message.tool_calls:
                count += 1
                call_id = call.id or f"call{count:05d}"
                waiting.append((call_id, call.name))
                item["tool_calls"].append(_call_dict(call, call_id))
        elif message.role == "tool":
            item |= _result_keys(message, waiting)
        elif message.name:
            item["name"] = message.name
        dicts.append(item)
    return dicts


def _call_dict(call: ToolCall, call_id: str) -> dict[str, Any]:
    function = {"name": call.name, "arguments": dict(call.arguments)}
    return {"type": "function", "id": call_id, "function": function}


def _result_keys(message: Message, waiting: list[tuple[str, str]]) -> dict[str, Any]:
    """Id and name of a result; takes the call it answers off `waiting`."""
    matches = [call for call in waiting if call[0] == message.tool_call_id]
    if message.tool_call_id is None:
        matches = waiting[:1]
    if not matches:
        keys = {"tool_call_id": message.tool_call_id, "name": message.name}
        return {key: value for key, value in keys.items() if value is not None}
    waiting.remove(matches[0])
    call_id, name = matches[0]
    return {"tool_call_id": call_id, "name": message.name or name}


def plain_tools(
    tools: Sequence[Mapping[str, Any]],
) -> Tools:
    """Tools as `apply_chat_template` takes them: None, not an empty list, when there are none."""
    return [dict(tool) for tool in tools] or None


def one_call_per_turn(messages: Sequence[Message]) -> list[Message]:
    """Say the calls of a turn one after another, each followed by its own result.

    For templates that can say one call a turn. Results are matched by id, else by order. A turn
    without a result for each call, or that this model generated itself, stays as it is.
    """
    said: list[Message] = []
    index = 0
    while index < len(messages):
        message = messages[index]
        index += 1
        if len(message.tool_calls) < 2 or message.generation:
            said.append(message)
            continue
        results = []
        while index < len(messages) and messages[index].role == "tool":
            results.append(messages[index])
            index += 1
        if len(results) < len(message.tool_calls):
            said += [message, *results]
            continue
        for number, call in enumerate(message.tool_calls):
            turn = replace(message, tool_calls=(call,))
            said.append(turn if number == 0 else replace(turn, text="", thinking=None))
            named = [r for r in results if call.id and r.tool_call_id == call.id]
            said.append(named[0] if named else results[number])
    return said
