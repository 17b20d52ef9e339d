"""The Berkeley Function Calling Leaderboard: questions, functions, and answers with alternatives.

A row joins a question file's line with the line of the same id in `possible_answer/`, under
`ground_truth`. What counts as right follows the leaderboard's own checker (bfcl-eval 2026.3.23,
`eval_checker/ast_eval/ast_checker.py`), read and not copied:

- Several calls may come in any order; the number of calls must be right.
- For each argument the ground truth lists the right values. An empty string among them says that
  the argument may be left out, unless the schema requires it. Of an argument of type string, the
  empty string itself is right as well.
- A right value of an object argument is an object whose keys each list their right values, an
  empty string again saying that the key may be left out (here only that). The alternatives are
  multiplied out, so that each value of `AcceptedCall.arguments` is one whole right value; the same
  holds for a list of objects. Deeper lists are values, not alternatives.
- null is a right value like any other. An empty list says that no value is right.

Run on what is read here, that checker accepts 2346 of the 2351 calls to learn, and every
alternative of them but one. The other five lines (parallel_multiple_26, live_simple_106-63-0 and
112-68-0, live_multiple_862-181-3 and 964-207-0) contradict their own schemas, and no answer to
them counts as right.

The checker's leniency in comparing (case, spaces and punctuation of strings, 5 for 5.0) is the
evaluator's, not the data's.

Only the categories with one turn of Python functions are read. Those of several turns run code
against a simulated world, and Java and JavaScript answers are literals of those languages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers.chat import as_messages, as_objects, missing_key, shown
from agent_finetune.records import AcceptedCall, Example, Message, Row, ToolCall

TYPES: Mapping[str, str] = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
"""BFCL's type names that JSON Schema lacks; `any` is a string, as BFCL tells models and checks."""
MOST_ALTERNATIVES = 4096
"""Of one argument value; the shipped files need 128."""


def read_bfcl(row: Row) -> Example:
    """Format `bfcl`: the turn to learn takes the first right value of each argument.

    The last message is the assistant's calls. Of an irrelevance row, where no function fits, there
    is nothing to say: `accepted` is empty and the last message is the user's.
    """
    for key in ("question", "function"):
        if key not in row.data:
            raise DataError(missing_key(row, key))
    functions = as_objects(row.data["function"], "function")
    tools = tuple(offer(function) for function in functions)
    schemas = {str(f["name"]): _schema(f.get("parameters"), str(f["name"])) for f in functions}
    answers = [_answer(name, values, schemas) for name, values in _ground_truth(row)]
    messages = _question(row.data["question"])
    if answers:
        calls = tuple(call for _, call in answers)
        messages += (Message(role="assistant", tool_calls=calls),)
    return Example(
        messages=messages,
        tools=tools,
        id=str(row.data.get("id", "")),
        source=row.source,
        accepted=tuple(accepted for accepted, _ in answers),
    )


def offer(function: Mapping[str, Any]) -> Mapping[str, Any]:
    """A BFCL function as an offered tool: type names become JSON Schema's, the rest stays.

    Example:
        >>> offer({"name": "math.pi", "parameters": {"type": "dict", "properties": {}}})
        {'type': 'function', 'function': {'name': 'math.pi', 'parameters': {'type': 'object', \
'properties': {}}}}
    """
    if not isinstance(function.get("name"), str):
        raise DataError(f"function has the name {function.get('name')!r}; expected a string")
    schema = json_schema(_schema(function.get("parameters"), function["name"]))
    return {"type": "function", "function": {**function, "parameters": schema}}


def _schema(value: object, what: str) -> Mapping[str, Any]:
    """A schema or the properties of one; nothing is the empty one."""
    if not value:
        return {}
    if not isinstance(value, Mapping):
        raise DataError(f"the schema of {what} has {shown(value)}; expected an object")
    return value


def json_schema(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A BFCL parameter schema with JSON Schema's type names, at every depth.

    Only schemas are walked: a property called `type`, a default or an enum is left alone.
    """
    mapped = dict(schema)
    if isinstance(kind := schema.get("type"), str):
        mapped["type"] = TYPES.get(kind, kind)
    if isinstance(properties := schema.get("properties"), Mapping):
        mapped["properties"] = {
            name: json_schema(inner) if isinstance(inner, Mapping) else inner
            for name, inner in properties.items()
        }
    for key in ("items", "additionalProperties"):
        if isinstance(inner := schema.get(key), Mapping):
            mapped[key] = json_schema(inner)
    return mapped


def _question(value: object) -> tuple[Message, ...]:
    """The messages of the one turn; a turn may begin with a system prompt or hold a whole chat."""
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], list):
        turns = len(value) if isinstance(value, list) else repr(value)[:60]
        raise DataError(f"question holds {turns} turns; expected one, a list of messages in a list")
    return as_messages(value[0], "question[0]")


def _ground_truth(row: Row) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The expected calls, each a function's name and the right values of its arguments."""
    row_id = str(row.data.get("id", ""))
    if "ground_truth" not in row.data:
        if "irrelevance" in row_id:
            return
        raise DataError(f"no ground truth for id {row_id!r} in possible_answer/")
    for index, call in enumerate(as_objects(row.data["ground_truth"], "ground_truth")):
        if len(call) != 1 or not isinstance(arguments := next(iter(call.values())), Mapping):
            raise DataError(
                f"ground_truth[{index}] is {shown(call)}; expected {{function: arguments}}"
            )
        yield next(iter(call)), arguments


def _answer(
    name: str, listed: Mapping[str, Any], schemas: Mapping[str, Mapping[str, Any]]
) -> tuple[AcceptedCall, ToolCall]:
    """What is right, and the one right call to learn."""
    if name not in schemas:
        raise DataError(f"ground truth calls {name!r}; offered are {', '.join(schemas) or 'none'}")
    properties = _schema(schemas[name].get("properties"), name)
    required = schemas[name].get("required") or ()
    if not isinstance(required, list | tuple):
        raise DataError(f"required of {name} is {shown(required)}; expected a list of names")
    accepted: dict[str, tuple[Any, ...]] = {}
    target: dict[str, Any] = {}
    for argument, values in listed.items():
        if not isinstance(values, list):
            raise DataError(
                f"right values of {name}.{argument} are {shown(values)}; expected a list"
            )
        schema = _schema(properties.get(argument), f"{name}.{argument}")
        accepted[argument] = _right_values(values, schema, f"{name}.{argument}")
        may_leave_out = argument not in required and "" in values
        if accepted[argument] and not (may_leave_out and values[0] == ""):
            target[argument] = next((v for v in accepted[argument] if v != ""), "")
    optional = frozenset(a for a, values in listed.items() if "" in values and a not in required)
    return (
        AcceptedCall(name=name, arguments=accepted, optional=optional),
        ToolCall(name=name, arguments=target),
    )


def _right_values(values: list[Any], schema: Mapping[str, Any], what: str) -> tuple[Any, ...]:
    kind = TYPES.get(str(schema.get("type")), schema.get("type"))
    right = [whole for v in values if v != "" for whole in _multiply_out(v, schema, what)]
    if "" in values and kind == "string":
        right.append("")
    return tuple(right)


def _multiply_out(value: Any, schema: Mapping[str, Any], what: str) -> list[Any]:
    """Every whole value that an answer with alternatives stands for; the first comes first."""
    kind = schema.get("type")
    inner = _schema(schema.get("items"), what).get("type")
    if kind == "dict" and isinstance(value, Mapping):
        return _objects(value, what)
    if kind in ("array", "tuple") and inner == "dict" and isinstance(value, list):
        items = [_objects(v, what) if isinstance(v, Mapping) else [v] for v in value]
        _check_count(prod(map(len, items)), what)
        return [list(choice) for choice in product(*items)]
    return [value]


def _objects(value: Mapping[str, Any], what: str) -> list[Mapping[str, Any]]:
    for key, alternatives in value.items():
        if not isinstance(alternatives, list):
            raise DataError(
                f"right values of {what}.{key} are {shown(alternatives)}; expected a list"
            )
    _check_count(prod(map(len, value.values())), what)
    return [
        {key: choice for key, choice in zip(value, choices, strict=True) if choice != ""}
        for choices in product(*value.values())
    ]


def _check_count(count: int, what: str) -> None:
    if count > MOST_ALTERNATIVES:
        raise DataError(f"{what} has {count} right values; at most {MOST_ALTERNATIVES} are read")
