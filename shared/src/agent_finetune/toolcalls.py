"""Read a turn that a model generated as text: thinking, words, and calls of tools.

Known forms: a `<think>` block; Hermes blocks, `<tool_call>{"name": ..., "arguments": {...}}
</tool_call>`, any number of them; and an answer that is nothing but one JSON object or array of
calls, with `arguments` or `parameters`, in a code fence or bare.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from agent_finetune.records import ToolCall

_THINK = re.compile(r"\s*<think>(.*?)(?:</think>|\Z)", re.DOTALL)
_BLOCK = re.compile(r"<tool_call>(.*?)(?:</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)
_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?```", re.DOTALL)
_LIKE_A_CALL = re.compile(r'\[?\s*\{\s*"(?:name|function|type)"\s*:')


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedTurn:
    """What a model said, taken apart."""

    text: str
    """Words outside of thinking and calls, without blanks around them."""
    thinking: str | None = None
    calls: tuple[ToolCall, ...] = ()
    broken: tuple[str, ...] = ()
    """Calls that do not parse, or were cut off: raw, so that nothing is lost."""


def parse(text: str) -> ParsedTurn:
    """Take a generated turn apart. Never raises: what does not parse is kept in `broken`.

    A thinking block or call that was cut off by the end of the text counts as far as it goes: a
    call whose JSON is whole is a call, any other is broken.

    Args:
        text: The turn, without its stop token.
    """
    thinking = None
    if thought := _THINK.match(text):
        thinking = thought.group(1).strip() or None
        text = text[thought.end() :]
    calls: list[ToolCall] = []
    broken: list[str] = []
    for block in _BLOCK.finditer(text):
        found = _read_calls(block.group(1), bare=False)
        calls += found or ()
        broken += () if found else (block.group(0).strip(),)
    words = _BLOCK.sub("", text).strip()
    if not calls and not broken and (found := _read_calls(_unfenced(words), bare=True)):
        return ParsedTurn(text="", thinking=thinking, calls=found)
    if not calls and not broken and _LIKE_A_CALL.match(_unfenced(words)):
        return ParsedTurn(text="", thinking=thinking, broken=(words,))
    return ParsedTurn(text=words, thinking=thinking, calls=tuple(calls), broken=tuple(broken))


def _unfenced(text: str) -> str:
    fence = _FENCE.fullmatch(text)
    return fence.group(1).strip() if fence else text


def _read_calls(text: str, *, bare: bool) -> tuple[ToolCall, ...]:
    """Calls of a JSON object or array; empty when any part of it is not a call."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    items = value if isinstance(value, list) else [value]
    calls = [_read_call(item, bare=bare) for item in items]
    return tuple(call for call in calls if call) if all(calls) else ()


def _read_call(item: Any, *, bare: bool) -> ToolCall | None:
    """One call. `bare` JSON has to have arguments, or any object with a name would be a call."""
    if not isinstance(item, dict):
        return None
    call_id = item.get("id")
    if isinstance(item.get("function"), dict):
        item = item["function"]
    name = item.get("name")
    key = next((key for key in ("arguments", "parameters") if key in item), None)
    arguments = item[key] if key else None if bare else {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return ToolCall(
        name=name, arguments=arguments, id=call_id if isinstance(call_id, str) else None
    )
