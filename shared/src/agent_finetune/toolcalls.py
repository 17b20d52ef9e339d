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
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_DECODER = json.JSONDecoder()
_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?```", re.DOTALL)
_LIKE_A_CALL = re.compile(r'\[?\s*\{\s*"(?:name|function|type|id)"\s*:')


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
    thinking, text = split_thinking(text)
    calls: list[ToolCall] = []
    broken: list[str] = []
    outside = ""
    while _OPEN in text:
        before, _, inside = text.partition(_OPEN)
        outside += before
        end = _block_end(inside)
        found = _read_calls(inside[:end].removesuffix(_CLOSE), bare=False)
        calls += found
        broken += () if found else ((_OPEN + inside[:end]).strip(),)
        text = inside[end:]
    words = (outside + text).strip()
    if not calls and not broken and _LIKE_A_CALL.match(whole := _unfenced(words)):
        bare = _read_calls(whole, bare=True)
        if bare or not _is_json(whole):
            return ParsedTurn(
                text="", thinking=thinking, calls=bare, broken=() if bare else (words,)
            )
    return ParsedTurn(text=words, thinking=thinking, calls=tuple(calls), broken=tuple(broken))


def _block_end(inside: str) -> int:
    """Where a block ends: behind its JSON and closing tag, which an argument may contain too."""
    start = len(inside) - len(inside.lstrip())
    try:
        place = _DECODER.raw_decode(inside, start)[1]
    except (ValueError, RecursionError):
        place = 0
    rest = inside[place:].lstrip()
    if place and (not rest or rest.startswith((_OPEN, _CLOSE))):
        end = len(inside) - len(rest)
        return end + len(_CLOSE) if rest.startswith(_CLOSE) else end
    closed = inside.find(_CLOSE)
    ends = [closed + len(_CLOSE) if closed >= 0 else -1, inside.find(_OPEN), len(inside)]
    return min(end for end in ends if end >= 0)


def split_thinking(text: str) -> tuple[str | None, str]:
    """The thinking block that a text begins with, and the rest; None without words in it."""
    thought = _THINK.match(text)
    if thought is None:
        return None, text
    return thought.group(1).strip() or None, text[thought.end() :]


def _unfenced(text: str) -> str:
    fence = _FENCE.fullmatch(text)
    return fence.group(1).strip() if fence else text


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


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
