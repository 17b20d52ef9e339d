r"""xlam-function-calling-60k (Salesforce), into Examples.

    {"query": "Where can I find live giveaways?",
     "answers": "[{\"name\": \"giveaways\", \"arguments\": {\"type\": \"beta\"}}]",
     "tools": "[{\"name\": \"giveaways\", \"description\": \"d\", \"parameters\": {\"type\":
       {\"description\": \"d\", \"type\": \"str, optional\", \"default\": \"game\"}}}]"}

One question and the calls that answer it, made in one turn. Parameters are an object of names, and
their types are Python's; they become JSON Schema. A parameter is required unless it is optional or
has a default. What JSON Schema cannot say of a type stays readable in the description.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers.chat import as_call, missing_key, shown
from agent_finetune.records import Example, Message, Row
from modelscope_agent_train.formats import turns

FORMAT = "xlam"
TYPES: Mapping[str, str] = {
    "str": "string",
    "string": "string",
    "int": "integer",
    "integer": "integer",
    "float": "number",
    "number": "number",
    "bool": "boolean",
    "boolean": "boolean",
    "list": "array",
    "array": "array",
    "tuple": "array",
    "set": "array",
    "dict": "object",
    "object": "object",
}
OPTIONAL = re.compile(r",?\s*optional\.?\s*$|^optional\[(?P<inside>.*)\]$", re.IGNORECASE)
GENERIC = re.compile(r"(?P<of>\w+)\[(?P<items>.*)\]", re.DOTALL)


def fits(data: Mapping[str, Any]) -> bool:
    """Whether a row has a query, and lists of calls and of tools."""
    if not {"query", "answers", "tools"} <= data.keys() or not isinstance(data["query"], str):
        return False
    return all(bool(turns.glimpse(data, key)) for key in ("answers", "tools")) and all(
        "name" in call and "arguments" in call for call in turns.glimpse(data, "answers")
    )


is_xlam = turns.mostly(fits)


def read_row(row: Row) -> Example:
    """One question, and the calls that answer it.

    Raises:
        DataError: A key is missing, a call or a tool cannot be read, or nothing is called.
    """
    for key in ("query", "answers", "tools"):
        if key not in row.data:
            raise DataError(missing_key(row, key))
    query = row.data["query"]
    if not isinstance(query, str) or not query.strip():
        raise DataError(f"query is {shown(query)}; expected a question")
    answers = turns.objects(row.data["answers"], "answers")
    calls = tuple(as_call(call, f"answers[{index}]") for index, call in enumerate(answers))
    if not calls:
        raise DataError("answers is empty; there is nothing to learn from")
    dialogue = turns.Dialogue()
    dialogue.add(
        Message(role="user", text=query.strip()), Message(role="assistant", tool_calls=calls)
    )
    tools = turns.objects(row.data["tools"], "tools")
    return dialogue.example(row, [_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)])


def _tool(item: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    function = item.get("function", item)
    if not isinstance(function, Mapping):
        raise DataError(f"{what}.function is {shown(function)}; expected an object")
    parameters = function.get("parameters")
    if isinstance(parameters, Mapping) and not isinstance(parameters.get("properties"), Mapping):
        parameters = _schema(parameters, f"{what}.parameters")
    return turns.tool(function.get("name"), function.get("description"), parameters, what)


def _schema(parameters: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    properties = {}
    required = []
    for name, told in parameters.items():
        if not isinstance(told, Mapping):
            raise DataError(f"{what}.{name} is {shown(told)}; expected an object")
        written = str(told.get("type") or "").strip()
        optional = OPTIONAL.search(written)
        plain = OPTIONAL.sub(lambda match: match["inside"] or "", written)
        properties[name] = {**told, **_typed(plain, told)}
        if not properties[name].get("type"):
            properties[name].pop("type", None)
        if optional is None and "default" not in told:
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}


def _typed(written: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """`type` and `items` of a Python type; where there are none, the type among the words."""
    schema = _json_type(written)
    if schema is not None or not written:
        return schema or {"type": None}
    description = str(told.get("description") or "")
    return {"type": None, "description": f"{description} (type: {written})".strip()}


def _json_type(written: str) -> dict[str, Any] | None:
    match = GENERIC.fullmatch(written)
    name = TYPES.get((match["of"] if match else written).lower())
    if name is None:
        return None
    if match is None or name != "array":
        return {"type": name}
    items = _json_type(match["items"].strip())
    return {"type": name, "items": items} if items else {"type": name}
