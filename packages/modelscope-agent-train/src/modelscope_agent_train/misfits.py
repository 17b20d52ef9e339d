"""How a call's arguments differ from the schema of the tool it names, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent_finetune.metrics import unlisted
from agent_finetune.records import ToolCall

TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "str": (str,),
    "integer": (int,),
    "int": (int,),
    "number": (int, float),
    "float": (int, float),
    "boolean": (bool,),
    "bool": (bool,),
    "array": (list, tuple),
    "list": (list, tuple),
    "object": (Mapping,),
    "dict": (Mapping,),
    "null": (type(None),),
}
"""What the names of JSON Schema, and the Python names in their place, mean. Others say nothing."""


def misfits(call: ToolCall, schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What of a call's arguments its tool's schema does not allow, as kind and sentence.

    Looser than JSON Schema where agent data is: `int` is a type, and a type that nobody knows says
    nothing. Only the first level is looked at.
    """
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return  # the schema does not list its arguments
    for name in unlisted(call.arguments, schema):
        yield "unknown_argument", f"{name!r}; the schema has {cut(', '.join(properties)) or 'none'}"
    for name, value in call.arguments.items():
        if name in properties and (wrong := _wrong(value, properties[name])):
            yield "wrong_value", f"{name} is {cut(repr(value))}; {wrong}"
    for name in schema.get("required") or ():
        if name not in call.arguments:
            yield "missing_argument", f"{name!r} is required"


def _wrong(value: Any, schema: Any) -> str | None:
    """Why a value does not fit its schema, as far as type and enum say it."""
    if not isinstance(schema, Mapping):
        return None
    named = schema.get("type")
    kinds = [named] if isinstance(named, str) else named if isinstance(named, Sequence) else []
    known = [TYPES.get(str(kind).lower()) for kind in kinds]
    if kinds and None not in known and not any(_is_a(value, kind) for kind in known if kind):
        return f"expected {' or '.join(map(str, kinds))}"
    legal = schema.get("enum")
    if isinstance(legal, Sequence) and not isinstance(legal, str) and value not in legal:
        return f"legal are {cut(', '.join(map(repr, legal)))}"
    return None


def _is_a(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):  # to Python it is an int as well
        return bool in kinds
    if isinstance(value, float) and value.is_integer() and int in kinds:
        return True  # JSON Schema has 5.0 be an integer
    return isinstance(value, kinds)


def cut(text: str, most: int = 80) -> str:
    """A text on one line, shortened where it is long."""
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[: most - 3]}..."
