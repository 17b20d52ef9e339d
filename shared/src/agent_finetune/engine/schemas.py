"""JSON Schemas as hosts send them, made ready for the grammar library."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from agent_finetune.errors import ConfigError

Schema = Mapping[str, Any]

KNOWN_FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)
"""Formats of strings that llguidance holds to; it refuses all others."""

_ANNOTATIONS = ("title", "description", "default", "examples", "deprecated", "$comment")
_LARGEST = 2**53 - 1
"""Of integers without a limit, as a small model adds digits for ever; what any reader holds."""

_OF_NAMES = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "not", "if", "then", "else", "contains")
_CHOICES = ("allOf", "anyOf", "oneOf", "$ref")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_OPEN = ("additionalProperties", "patternProperties", "unevaluatedProperties")


def prepared(schema: Schema) -> dict[str, Any]:
    """A schema whose every value is also a value of the one given, without annotations.

    Formats that the library does not know are left out: JSON Schema has them be annotations.
    Integers get limits, and objects that list their properties get no others, so that a small
    model comes to an end. Where objects are put together out of several schemas they stay open,
    as one part would shut out what another lists.

    Raises:
        ConfigError: No finite value can match: a definition needs itself.
    """
    if not _finite(schema, schema, ()):
        raise ConfigError("the JSON schema needs itself without end; no finite value can match it")
    compose = any(_composed(part) for part in _walk(schema))

    def ready(part: Schema) -> dict[str, Any]:
        made = {key: value for key, value in part.items() if key not in _ANNOTATIONS}
        if made.get("format") not in KNOWN_FORMATS:
            made.pop("format", None)
        if "properties" in made and not compose and not any(key in made for key in _OPEN):
            made["additionalProperties"] = False
        if made.get("type") == "integer" and not any(key in made for key in _NUMBERS):
            made |= {"minimum": -_LARGEST, "maximum": _LARGEST}
        return made

    return _rewritten(schema, ready)


def _composed(part: Schema) -> bool:
    """Whether an object is put together out of several schemas."""
    beside = "properties" in part and any(key in part for key in _CHOICES)
    return beside or len(part.get("allOf", ())) > 1


def _rewritten(schema: Schema, change: Callable[[Schema], dict[str, Any]]) -> dict[str, Any]:
    """A copy in which each schema was changed, the inner ones first."""

    def inner(value: Any) -> Any:
        return _rewritten(value, change) if isinstance(value, Mapping) else value

    made = dict(schema)
    for key in _OF_NAMES:
        if isinstance(made.get(key), Mapping):
            made[key] = {name: inner(part) for name, part in made[key].items()}
    for key in _LISTS:
        if isinstance(made.get(key), list):
            made[key] = [inner(part) for part in made[key]]
    for key in _SINGLE:
        if key in made:
            made[key] = inner(made[key])
    return change(made)


def _walk(schema: Schema) -> Iterator[Schema]:
    """A schema and all within it."""
    found: list[Schema] = []

    def keep(part: Schema) -> dict[str, Any]:
        found.append(part)
        return dict(part)

    _rewritten(schema, keep)
    return iter(found)


def _finite(part: Any, root: Schema, within: tuple[str, ...]) -> bool:
    """Whether a finite value can match, as far as references go; `within` are those followed."""
    if not isinstance(part, Mapping):
        return True
    target = part.get("$ref")
    if isinstance(target, str) and target.startswith("#"):
        found = _resolved(root, target)
        if target in within or not _finite(found, root, (*within, target)):
            return False
    for key in ("anyOf", "oneOf"):
        if part.get(key) and not any(_finite(choice, root, within) for choice in part[key]):
            return False
    needed = list(part.get("allOf", ()))
    properties = part.get("properties", {})
    needed += [properties[name] for name in part.get("required", ()) if name in properties]
    if part.get("minItems", 0) > 0:
        first = part.get("prefixItems", ())[: part["minItems"]]
        needed += [*first, part.get("items")] if part["minItems"] > len(first) else first
    return all(_finite(each, root, within) for each in needed)


def _resolved(root: Schema, target: str) -> Any:
    """What a reference like `#/$defs/Name` points to; None where there is nothing."""
    found: Any = root
    for step in target[1:].strip("/").split("/"):
        step = step.replace("~1", "/").replace("~0", "~")
        if step:
            found = found.get(step) if isinstance(found, Mapping) else None
    return found
