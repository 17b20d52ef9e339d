"""JSON that a model wrote, read as calls of tools; nothing here raises for what it says."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from agent_finetune.records import ToolCall

_FENCE = re.compile(r"\s*```\w*[ \t]*\n?(.*?)\n?```\s*", re.DOTALL)
_BETWEEN = re.compile(r"[\s;]*")


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON value")


_STRICT = json.JSONDecoder(parse_constant=_refuse)
_LENIENT = json.JSONDecoder(parse_constant=_refuse, strict=False)


def read_calls(text: str, *, bare: bool = False, lenient: bool = False) -> tuple[ToolCall, ...]:
    """Calls of JSON objects, or arrays of them, with blanks or `;` between; a fence may be around.

    Args:
        text: All of it has to be calls.
        bare: Nothing around the JSON says that it is a call, so that it has to have arguments:
            else any object with a name would be one.
        lenient: Raw line breaks may stand inside of strings, as they do in MSAgent's data.

    Returns:
        The calls; none when any part of the text is not a call.
    """
    values = _values(unfenced(text), _LENIENT if lenient else _STRICT)
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    calls = [_read_call(item, bare=bare) for item in items]
    return tuple(call for call in calls if call) if all(calls) else ()


def read_arguments(name: object, text: str) -> tuple[ToolCall, ...]:
    """The one call of a name that stands outside of its arguments; none where they do not parse."""
    values = _values(unfenced(text), _STRICT)
    call = make_call(name, values[0]) if len(values) == 1 else None
    return (call,) if call else ()


def read_python_calls(text: str) -> tuple[ToolCall, ...]:
    """Calls written as Python, `[name(key='value', other=3), name()]`; JSON's words are known."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        items = tree.elts if isinstance(tree, ast.List) else [tree]
        calls = [_python_call(item) for item in items]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return ()
    return tuple(call for call in calls if call) if all(calls) else ()


def make_call(name: object, arguments: object, call_id: object = None) -> ToolCall | None:
    """A call out of parts of any kind; None where they make none.

    Numbers that JSON has no word for (NaN, and those too great for a float) make none.
    """
    if not isinstance(name, str) or not name or not isinstance(arguments, Mapping):
        return None
    try:
        json.dumps(arguments, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return None
    return ToolCall(
        name=name, arguments=arguments, id=call_id if isinstance(call_id, str) else None
    )


def is_json(text: str) -> bool:
    """Whether a text is JSON values, and nothing else."""
    return bool(_values(text, _STRICT))


def unfenced(text: str) -> str:
    """What is inside of a code fence that is the whole text; any other text as it is."""
    fence = _FENCE.fullmatch(text)
    return fence.group(1) if fence else text


def _values(text: str, decoder: json.JSONDecoder) -> list[Any]:
    """Every JSON value of a text; none when anything else is in it."""
    values: list[Any] = []
    place = _skip(text, 0)
    while place < len(text):
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            return []
        values.append(value)
        place = _skip(text, end)
    return values


def _skip(text: str, place: int) -> int:
    between = _BETWEEN.match(text, place)
    return between.end() if between else place


class _JsonWords(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        known = {"true": True, "false": False, "null": None}
        return ast.Constant(known[node.id]) if node.id in known else node


def _python_call(item: ast.expr) -> ToolCall | None:
    if not isinstance(item, ast.Call) or item.args:
        return None
    arguments = {
        word.arg: ast.literal_eval(_JsonWords().visit(word.value)) for word in item.keywords
    }
    return make_call(ast.unparse(item.func), arguments) if None not in arguments else None


def _read_call(item: Any, *, bare: bool) -> ToolCall | None:
    if not isinstance(item, dict):
        return None
    call_id = item.get("id")
    if isinstance(item.get("function"), dict):
        item = item["function"]
    name = item.get("name") or item.get("api_name")
    key = next((key for key in ("arguments", "parameters") if key in item), None)
    arguments = item[key] if key else None if bare else {}
    if isinstance(arguments, str):
        found = _values(arguments, _STRICT)
        arguments = found[0] if len(found) == 1 else None
    return make_call(name, arguments, call_id)
