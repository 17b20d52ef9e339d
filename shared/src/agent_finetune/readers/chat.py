"""OpenAI chat messages, tools and tool calls, as records; what most other formats end in.

Functions here know rows, not files: they raise DataError with the reason alone, and
`rows.convert` puts file and line in front.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers import strictjson
from agent_finetune.records import Example, Message, Role, Row, ToolCall

ROLE_NAMES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
THINKING_KEYS = ("reasoning_content", "reasoning", "thinking")


def from_json(value: object, what: str) -> Any:
    """The value itself, or what a string of JSON holds, as csv and Arrow columns carry it."""
    if not isinstance(value, str):
        return value
    try:
        return strictjson.loads(value)
    except DataError as error:
        raise DataError(f"{what} is a string that does not parse: {error}") from error


def shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or a number of too many digits
        text = f"a {type(value).__name__} too large to be shown"
    return text if len(text) <= 60 else f"{text[:57]}..."


def as_objects(value: object, what: str) -> list[Mapping[str, Any]]:
    """A list of objects, given as such or as a JSON string.

    Raises:
        DataError: It is something else; `what` names it.
    """
    items = from_json(value, what)
    if not isinstance(items, (list, tuple)):
        raise DataError(f"{what} is {shown(items)}; expected a list of objects")
    for index, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise DataError(f"{what}[{index}] is {shown(item)}; expected an object")
    return list(items)


def as_text(value: object, what: str) -> str:
    """A string, None as the empty one, or a list of text parts joined."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{what} is {shown(value)}; expected a string or a list of text parts")
    return "".join(_text_part(part, f"{what}[{index}]") for index, part in enumerate(value))


def _text_part(part: object, what: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise DataError(f"{what} is {shown(part)}; expected a text part")
    if part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
        raise DataError(f"{what} is of type {part.get('type')!r}; only text parts can be read")
    return str(part["text"])


def as_arguments(value: object, what: str) -> Mapping[str, Any]:
    """Arguments of a call: an object, or a string of one; None and "" are no arguments."""
    if value is None or value == "":
        return {}
    arguments = from_json(value, what)
    if not isinstance(arguments, Mapping):
        raise DataError(f"{what} is {shown(arguments)}; expected an object")
    _check_json(arguments, what)
    return arguments


def as_call(item: Mapping[str, Any], what: str) -> ToolCall:
    """One call, `{"id", "type", "function": {"name", "arguments"}}` or `{"name", "arguments"}`."""
    kind = item.get("type")
    if kind not in (None, "function"):
        raise DataError(f"{what} is of type {kind!r}; only 'function' can be read")
    call = item.get("function", item)
    if not isinstance(call, Mapping):
        raise DataError(f"{what}.function is {shown(call)}; expected an object")
    name = _name(call, what)
    call_id = item.get("id")
    if call_id is not None and not isinstance(call_id, str):
        raise DataError(f"{what}.id is {call_id!r}; expected a string")
    arguments = as_arguments(call.get("arguments"), f"{what}: arguments of {name!r}")
    return ToolCall(name=name, arguments=arguments, id=call_id)


def as_tools(value: object) -> tuple[Mapping[str, Any], ...]:
    """Tools offered: a list or a JSON string of one; bare functions are wrapped, nothing else.

    The schema under `parameters` stays as it is, except that a JSON string becomes its object.
    """
    if value is None or value == "":
        return ()
    return tuple(_tool(item, f"tools[{i}]") for i, item in enumerate(as_objects(value, "tools")))


def _tool(item: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    tool = item if "function" in item else {"type": "function", "function": item}
    if tool.get("type", "function") != "function":
        raise DataError(f"{what} is of type {tool['type']!r}; only 'function' can be read")
    function = tool["function"]
    if not isinstance(function, Mapping):
        raise DataError(f"{what}.function is {shown(function)}; expected an object")
    _name(function, what)
    parameters = from_json(function.get("parameters") or None, f"{what}.parameters")
    if not isinstance(parameters, Mapping | None):
        raise DataError(f"{what}.parameters is {shown(parameters)}; expected an object")
    if isinstance(function.get("parameters"), str):
        tool = {**tool, "function": {**function, "parameters": parameters}}
    _check_json(tool, what)
    return {"type": "function", **tool}


def as_message(item: Mapping[str, Any], what: str) -> Message:
    """One OpenAI chat message; the legacy `function` role and `function_call` are read too.

    `weight: 0` (OpenAI's fine-tuning files) and `loss: false` keep a turn as context only.
    """
    role = ROLE_NAMES.get(str(item.get("role")))
    if role is None:
        legal = ", ".join(ROLE_NAMES)
        raise DataError(f"{what}: role is {item.get('role')!r}; legal roles are {legal}")
    thinking = next((item[key] for key in THINKING_KEYS if item.get(key)), None)
    if thinking is not None and not isinstance(thinking, str):
        raise DataError(f"{what}: thinking is {shown(thinking)}; expected a string")
    return Message(
        role=role,
        text=as_text(item.get("content"), f"{what}: content"),
        thinking=thinking,
        tool_calls=_calls(item, what),
        tool_call_id=_optional_text(item, "tool_call_id", what),
        name=_optional_text(item, "name", what),
        trained=item.get("weight") != 0 and item.get("loss") not in (0, False),
    )


def as_messages(value: object, what: str = "messages") -> tuple[Message, ...]:
    """A conversation: a list of messages, or a JSON string of one."""
    items = as_objects(value, what)
    return tuple(as_message(item, f"{what}[{index}]") for index, item in enumerate(items))


def as_turns(value: object, what: str, role: Role) -> tuple[Message, ...]:
    """A text said by `role`, a message, a list of messages, or a JSON string of such a list.

    Raises:
        DataError: It is something else; `what` names it.
    """
    if isinstance(value, str):
        messages = _messages_in(value)
        if messages is None:
            return (Message(role=role, text=value),)
        return as_messages(messages, what)
    return as_messages([value] if isinstance(value, Mapping) else value, what)


def as_example(
    row: Row, messages: Sequence[Message], tools: tuple[Mapping[str, Any], ...] = ()
) -> Example:
    """The example of a row; its id is the row's own.

    Raises:
        DataError: No assistant turn says or calls anything, so there is nothing to learn.
    """
    if not any(m.role == "assistant" and (m.text or m.tool_calls) for m in messages):
        raise DataError("no assistant turn says anything; there is nothing to learn from")
    row_id = row.data.get("id")
    return Example(
        messages=tuple(messages),
        tools=tools,
        id="" if row_id is None else str(row_id),
        source=row.source,
    )


def row_tools(row: Row) -> tuple[Mapping[str, Any], ...]:
    """The tools of a row, under `tools` or the legacy `functions`."""
    return as_tools(row.data.get("tools") or row.data.get("functions"))


def read_messages(row: Row) -> Example:
    """Format `messages`: `messages` (or `conversations`) with role and content, and `tools`."""
    key = next((k for k in ("messages", "conversations", "conversation") if k in row.data), None)
    if key is None:
        raise DataError(missing_key(row, "messages"))
    return as_example(row, as_messages(row.data[key], key), row_tools(row))


def read_prompt_completion(row: Row) -> Example:
    """Format `prompt_completion`: each a string, a message or a list of messages.

    As TRL has it, only the completion is trained: assistant turns of the prompt are context.
    """
    prompt = _turns(row, "prompt", "user")
    completion = _turns(row, "completion", "assistant")
    context = tuple(replace(m, trained=False) if m.role == "assistant" else m for m in prompt)
    if not any(m.role == "assistant" and (m.text or m.tool_calls) for m in completion):
        raise DataError("completion is empty; there is nothing to learn from")
    return as_example(row, context + completion, row_tools(row))


def missing_key(row: Row, key: str) -> str:
    """The reason that names what is missing and what is there."""
    return f"no key {key!r}; keys are {listed(row.data) or 'none'}"


def listed(names: Iterable[object]) -> str:
    """Names for a message, the first twenty of them."""
    every = [shown(name) for name in names]
    return ", ".join(every[:20]) + (f" and {len(every) - 20} more" if every[20:] else "")


def _turns(row: Row, key: str, role: Role) -> tuple[Message, ...]:
    if key not in row.data:
        raise DataError(missing_key(row, key))
    return as_turns(row.data[key], key, role)


def _messages_in(text: str) -> list[Any] | None:
    """The messages that a csv cell holds as JSON, or None where a text is just a text."""
    if not text.lstrip().startswith("["):
        return None
    try:
        value = strictjson.loads(text)
    except DataError:
        return None
    messages = value and all(isinstance(item, Mapping) and "role" in item for item in value)
    return list(value) if messages else None


def _calls(item: Mapping[str, Any], what: str) -> tuple[ToolCall, ...]:
    calls: list[ToolCall] = []
    if item.get("tool_calls"):
        objects = as_objects(item["tool_calls"], f"{what}: tool_calls")
        calls += [as_call(o, f"{what}: tool_calls[{i}]") for i, o in enumerate(objects)]
    if item.get("function_call"):
        legacy = from_json(item["function_call"], f"{what}: function_call")
        if not isinstance(legacy, Mapping):
            raise DataError(f"{what}: function_call is {shown(legacy)}; expected an object")
        calls.append(as_call(legacy, f"{what}: function_call"))
    return tuple(calls)


def _name(function: Mapping[str, Any], what: str) -> str:
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise DataError(f"{what}: name is {shown(name)}; expected the function's name")
    return name


def _optional_text(item: Mapping[str, Any], key: str, what: str) -> str | None:
    value = item.get(key)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{what}: {key} is {shown(value)}; expected a string")
    return value


def _check_json(value: object, what: str) -> None:
    """Refuse what no template can write: bytes, dates and NaN, which parquet can hold."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} cannot be written as JSON: {error}") from error
