"""From AgentScope's messages to the kernel's, and from the kernel's answers to AgentScope's blocks.

Both ways, what is between the two is the dict that Transformers documents for chat templates, in
the form that templates agree on: content is always a string, arguments are always an object.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Mapping, Sequence
from typing import Any

from agentscope.message import TextBlock, ThinkingBlock, ToolCallBlock
from agentscope.model import ChatUsage
from json_repair import repair_json

from agent_finetune.contracts import Result
from agent_finetune.records import Message, ToolCall

Blocks = list[TextBlock | ThinkingBlock | ToolCallBlock]

_ID = re.compile(r"[a-zA-Z0-9]{9}")
_LETTERS = string.ascii_letters + string.digits
_NAME = re.compile(r'"name"\s*:\s*"([^"]+)"')
_ARGUMENTS = re.compile(r'"(?:arguments|parameters)"\s*:\s*')

_CLOSING = re.compile(r"(?:\s*<[^<>]+>)+\s*$")
"""Markup behind a call."""


def new_call_id() -> str:
    """A fresh id of a call: nine letters and digits, since Mistral's templates refuse others.

    AgentScope takes a call whose id was seen before in a reply as done, so that the model's own
    ids, which repeat, are of no use.
    """
    return "".join(secrets.choice(_LETTERS) for _ in range(9))


def parse_arguments(raw: str) -> dict[str, Any]:
    """Arguments of a call as an object; JSON that is nearly right is repaired, other text is {}."""
    try:
        value = json.loads(raw or "{}")
    except ValueError:
        value = repair_json(raw, return_objects=True)
    return value if isinstance(value, dict) else {}


def to_messages(dicts: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """What a formatter made, as the kernel takes it.

    Ids of calls that are not nine letters and digits, such as another provider's, are numbered
    anew, the same in every prompt of a conversation.
    """
    ids: dict[str, str] = {}
    return tuple(_message(item, ids) for item in dicts)


def _message(item: Mapping[str, Any], ids: dict[str, str]) -> Message:
    role = item["role"]
    if role == "assistant":
        return Message(
            role=role,
            text=item["content"],
            thinking=item.get("reasoning_content"),
            tool_calls=tuple(_call(call, ids) for call in item.get("tool_calls", ())),
        )
    if role == "tool":
        call_id = _short(item["tool_call_id"], ids)
        return Message(role=role, text=item["content"], tool_call_id=call_id, name=item["name"])
    return Message(role=role, text=item["content"])


def _call(call: Mapping[str, Any], ids: dict[str, str]) -> ToolCall:
    function = call["function"]
    return ToolCall(
        name=function["name"], arguments=function["arguments"], id=_short(call["id"], ids)
    )


def _short(call_id: str, ids: dict[str, str]) -> str:
    if _ID.fullmatch(call_id):
        return call_id
    return ids.setdefault(call_id, f"call{len(ids) + 1:05d}")


def call_block(call: ToolCall) -> ToolCallBlock:
    """A whole call, under a fresh id."""
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return ToolCallBlock(id=new_call_id(), name=call.name, input=arguments)


def broken_call_block(raw: str, tools: Sequence[str], *, cut_at: int | None) -> ToolCallBlock:
    """A call that does not parse, so that AgentScope repairs it or tells the model.

    Args:
        raw: What the model said.
        tools: Names of the tools offered.
        cut_at: Tokens of the answer where it was cut off. Half a call could be repaired to
            something that was never meant, so it gets an input that no repair makes arguments of.
    """
    named = _NAME.search(raw)
    name = named.group(1) if named else next((tool for tool in tools if tool in raw), "unknown")
    if cut_at is not None:
        note = f"cut off after {cut_at} tokens, before the call was whole; make it shorter"
        return ToolCallBlock(id=new_call_id(), name=name, input=json.dumps([note]))
    return ToolCallBlock(id=new_call_id(), name=name, input=_broken_arguments(raw))


def _broken_arguments(raw: str) -> str:
    """What of a broken call is meant to be its arguments; all of it where that cannot be told."""
    found = _ARGUMENTS.search(raw)
    if found is None:
        return raw
    said = _CLOSING.sub("", raw[found.end() :])
    while said.endswith("}") and said.count("}") > said.count("{"):
        said = said[:-1].rstrip()
    return said


def usage_of(result: Result, seconds: float) -> ChatUsage:
    """Tokens and time of an answer."""
    return ChatUsage(
        input_tokens=result.usage.prompt_tokens,
        output_tokens=result.usage.completion_tokens,
        time=seconds,
        cache_input_tokens=result.usage.cached_tokens,
    )
