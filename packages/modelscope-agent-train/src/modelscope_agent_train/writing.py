"""Examples as rows of MSAgent-Bench, which `formats.msagent` reads back as they were.

A row is `{"id", "conversations": [{"from", "value"}]}`. Its first turn is the system's: the prompt,
and the numbered list of plugins. An assistant value has every step between two user turns: words,
calls in think blocks, results in exec blocks. Parameters of a plugin are MSAgent's list of
`{"name", "description", "required": "True"}` with the types beside; a schema that such a list
cannot hold is written as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

from agent_finetune.errors import DataError
from agent_finetune.records import Example, Message, ToolCall

Form = Literal["msagent", "messages"]
TAGS = ("<|startofthink|>", "<|endofthink|>", "<|startofexec|>", "<|endofexec|>")
_NUMBERED = re.compile(r"^\s*\d+\.\s*\{", re.MULTILINE)
"""What a plugin begins with."""
_PLAIN = frozenset(("type", "properties", "required"))
"""Keys of a schema that a list of parameters can hold."""


def to_msagent(example: Example) -> dict[str, Any]:
    """One row; reading it gives the example's messages and tools again.

    `losses` names what the form has no place for.

    Raises:
        DataError: The form cannot hold the order of turns, or a text has one of its tags.
    """
    try:
        return {"id": example.id, "conversations": list(_turns(example))}
    except DataError as error:
        raise DataError(f"{example.source or 'example'}: {error}") from error


def to_messages(example: Example) -> dict[str, Any]:
    """OpenAI's chat messages with tools, as the kernel's format `messages` has them."""
    row = {"id": example.id, "messages": [_chat(message) for message in example.messages]}
    return {**row, "tools": list(example.tools)} if example.tools else row


def losses(example: Example, to: Form = "msagent") -> tuple[str, ...]:
    """What of an example a row cannot say, each in a few words."""
    turns = example.messages
    found = {
        "other right answers than the first": any(
            len(values) > 1 or answer.optional
            for answer in example.accepted or ()
            for values in answer.arguments.values()
        ),
        "exact tokens of what was generated": any(turn.generation for turn in turns),
    }
    if to == "msagent":
        found |= {
            "thinking beside an answer": any(turn.thinking for turn in turns),
            "turns that are context only": any(not turn.trained for turn in turns),
            "ids of calls": any(call.id for turn in turns for call in turn.tool_calls),
            "blank lines and spaces around a text": any(
                turn.text != turn.text.strip() for turn in turns if turn.role != "user"
            ),
        }
    return tuple(name for name, there in found.items() if there)


def _chat(message: Message) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.thinking:
        said["reasoning_content"] = message.thinking
    if message.tool_calls:
        said["tool_calls"] = [_chat_call(call) for call in message.tool_calls]
    said |= {
        key: value
        for key, value in (("tool_call_id", message.tool_call_id), ("name", message.name))
        if value is not None
    }
    return said if message.trained else {**said, "loss": False}


def _chat_call(call: ToolCall) -> dict[str, Any]:
    arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
    written = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
    return written if call.id is None else {"id": call.id, **written}


def _turns(example: Example) -> Iterator[dict[str, str]]:
    messages = list(example.messages)
    system = messages.pop(0).text if messages[0].role == "system" else ""
    yield {"from": "system", "value": _system(_prompt(system), example.tools)}
    for spoken, group in groupby(messages, key=lambda m: m.role in ("assistant", "tool")):
        if spoken:
            yield {"from": "assistant", "value": _assistant(list(group))}
            continue
        for message in group:
            if message.role != "user":
                raise DataError("a system message after the first turn has no place in a row")
            yield {"from": "user", "value": message.text}


def _system(prompt: str, tools: Sequence[Mapping[str, Any]]) -> str:
    """The prompt, then every plugin behind its number."""
    listed = (
        f"{number}. {json.dumps(_plugin(tool['function']), ensure_ascii=False)}"
        for number, tool in enumerate(tools, start=1)
    )
    return "\n\n".join(filter(None, [prompt, *listed]))


def _plugin(function: Mapping[str, Any]) -> dict[str, Any]:
    schema = function.get("parameters") or {}
    return {
        "name": function["name"],
        "description": function.get("description", ""),
        "parameters": _parameters(schema),
    }


def _parameters(schema: Mapping[str, Any]) -> Any:
    """The parameters as MSAgent's list, or the schema itself where that would lose something."""
    properties = schema.get("properties", {})
    required = set(schema.get("required") or ())
    if (
        schema.keys() - _PLAIN
        or schema.get("type", "object") != "object"
        or not required <= properties.keys()
        or not all(isinstance(p, Mapping) for p in properties.values())
        or any({"name", "required"} & p.keys() for p in properties.values())
    ):
        return dict(schema)
    return [
        {"name": name, **rest, "required": str(name in required)}
        for name, rest in properties.items()
    ]


def _assistant(steps: list[Message]) -> str:
    """Every step between two user turns as one text."""
    blocks: list[str] = []
    waiting: list[ToolCall] = []
    said = False
    for message in _in_order(steps):
        if message.role == "tool":
            if not waiting:
                raise DataError("a tool's result without a call before it has no place in a row")
            waiting.pop(0)
            blocks.append(f"\n\n<|startofexec|>```JSON\n{_clean(message.text)}\n```<|endofexec|>\n")
            said = False
            continue
        if said:
            raise DataError("two turns of the assistant in a row would become one")
        said = True
        waiting = list(message.tool_calls)
        blocks += [_clean(message.text), *map(_think, message.tool_calls)]
    return "".join(blocks).strip()


def _in_order(steps: Iterable[Message]) -> Iterator[Message]:
    """The turns, results in the order of their calls: a row tells them apart by nothing else."""
    order: dict[str | None, int] = {}
    for is_tool, group in groupby(steps, key=lambda message: message.role == "tool"):
        turns = list(group)
        if is_tool:
            turns.sort(key=lambda turn: order.get(turn.tool_call_id, -1))
        else:
            order = {call.id: place for place, call in enumerate(turns[-1].tool_calls) if call.id}
        yield from turns


def _think(call: ToolCall) -> str:
    """A call's block; what would end it is escaped inside its strings, as JSON allows."""
    content = {"api_name": call.name, "parameters": dict(call.arguments)}
    text = json.dumps(content, ensure_ascii=False)
    text = text.replace("<|", "\\u003c|").replace("```", "\\u0060``")
    return f"<|startofthink|>```JSON\n{text}\n```<|endofthink|>"


def _prompt(text: str) -> str:
    if match := _NUMBERED.search(text):
        raise DataError(f"the prompt has {match[0].strip()!r}, which would be read as a plugin")
    return text.strip()


def _clean(text: str) -> str:
    """Words of the model or of a tool, as they stand between tags."""
    if tag := next((tag for tag in TAGS if tag in text), None):
        raise DataError(f"a text has the tag {tag}, which would be read as a step")
    return text.strip()
