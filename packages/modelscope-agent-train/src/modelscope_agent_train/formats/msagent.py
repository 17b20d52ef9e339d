"""MSAgent-Bench conversations (ModelScope, 2023) into Examples.

An assistant value mixes the model's words with what the tools answered:
`words <|startofthink|>call<|endofthink|> <|startofexec|>result<|endofexec|> words`. A call is a
fenced JSON object `{"api_name", "url", "parameters"}` (later rows say `name`), and several calls
may follow each other. Here every call ends an assistant turn and every exec block is a tool turn,
so results are never trained. The plugins that the system prompt lists become the tools offered,
and the list is cut from the prompt, because the model's chat template writes tools itself.

What is dropped: the `url` of calls and plugins, the host's address, which is no argument.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers.chat import as_arguments, as_example, as_objects
from agent_finetune.records import Example, Message, Role, Row, ToolCall

FORMAT = "msagent"
SPEAKERS: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
TAGGED = re.compile(
    r"<\|startofthink\|>(?P<think>.*?)<\|endofthink\|>"
    r"|<\|startofexec\|>(?P<exec>.*?)<\|endofexec\|>",
    re.DOTALL,
)
TAG = re.compile(r"<\|(?:start|end)of(?:think|exec)\|>")
FENCE = re.compile(r"\s*```\w*\n?(?P<inside>.*?)\n?```\s*", re.DOTALL)
NUMBERED = re.compile(r"^\s*\d+\.\s*(?=\{)", re.MULTILINE)
"""What stands before each plugin in the system prompt."""


def is_msagent(rows: Sequence[Row]) -> bool:
    """Whether the tags of MSAgent-Bench are in any of the first rows."""
    first = islice((row.data for row in rows if row.problem is None), 20)
    return any("<|startofthink|>" in str(data.get("conversations")) for data in first)


def read_row(row: Row) -> Example:
    """One conversation; `conversations` is a list, or a string of one in Python or JSON."""
    if "conversations" not in row.data:
        raise DataError(f"no key 'conversations'; keys are {', '.join(map(repr, row.data))}")
    messages: list[Message] = []
    tools: list[Mapping[str, Any]] = []
    turns = as_objects(_literal(row.data["conversations"]), "conversations")
    for index, turn in enumerate(turns):
        what = f"conversations[{index}]"
        role, text = SPEAKERS.get(str(turn.get("from"))), turn.get("value")
        if role is None:
            raise DataError(f"{what}: from is {turn.get('from')!r}; legal: {', '.join(SPEAKERS)}")
        if not isinstance(text, str):
            raise DataError(f"{what}: value is {text!r}; expected a string")
        if role == "assistant":
            messages += _steps(text, what)
            continue
        if role == "system":
            text, tools = _without_plugins(text, what)
        messages.append(Message(role=role, text=text))
    return as_example(row, messages, tuple(tools))


def _steps(text: str, what: str) -> Iterator[Message]:
    """The turns that one assistant value holds.

    Calls in a row are one turn; the exec blocks after them answer them in order.
    """
    words: list[str] = []
    calls: list[ToolCall] = []
    waiting: list[ToolCall] = []
    for kind, content in _pieces(text, what):
        if kind == "words":
            words.append(content)
        elif kind == "think":
            calls.append(_call(content, what))
        else:
            if calls:
                yield Message(role="assistant", text="\n".join(words), tool_calls=tuple(calls))
                waiting, words, calls = calls, [], []
            if not waiting:
                raise DataError(f"{what}: an exec block with no call before it")
            yield Message(role="tool", text=_inside_fence(content), name=waiting.pop(0).name)
    if words or calls:
        yield Message(role="assistant", text="\n".join(words), tool_calls=tuple(calls))


def _pieces(text: str, what: str) -> Iterator[tuple[str, str]]:
    """`words`, `think` and `exec` pieces in order; blank words are left out."""
    end = 0
    for match in [*TAGGED.finditer(text), None]:
        words = text[end : match.start() if match else None].strip()
        if tag := TAG.search(words):
            raise DataError(f"{what}: the tag {tag[0]} has no partner")
        if words:
            yield "words", words
        if match:
            end = match.end()
            yield str(match.lastgroup), match[str(match.lastgroup)]


def _call(content: str, what: str) -> ToolCall:
    """The call of a think block. Raw line breaks inside its strings occur, and are kept."""
    start, end = content.find("{"), content.rfind("}")
    try:
        call = json.loads(content[start : end + 1], strict=False)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what}: a think block holds no JSON call: {error}") from error
    name = call.get("api_name") or call.get("name")
    if not isinstance(name, str):
        raise DataError(f"{what}: a call names no api; keys are {', '.join(map(repr, call))}")
    arguments = as_arguments(call.get("parameters"), f"{what}: parameters of {name!r}")
    return ToolCall(name=name, arguments=arguments)


def _inside_fence(text: str) -> str:
    match = FENCE.fullmatch(text)
    return match["inside"] if match else text.strip()


def _without_plugins(text: str, what: str) -> tuple[str, list[Mapping[str, Any]]]:
    """The system prompt without its numbered list of plugins, and the plugins as tools."""
    decoder = json.JSONDecoder(strict=False)
    tools: list[Mapping[str, Any]] = []
    start = end = None
    while match := NUMBERED.search(text, end or 0):
        try:
            plugin, end = decoder.raw_decode(text, match.end())
        except (ValueError, RecursionError) as error:
            raise DataError(f"{what}: plugin {match[0].strip()} does not parse: {error}") from error
        start = match.start() if start is None else start
        tools += [tool for tool in _tools(plugin, what) if tool not in tools]
    if start is None:
        return text, []
    return f"{text[:start].rstrip()}\n\n{text[end:].lstrip()}".strip(), tools


def _tools(plugin: Mapping[str, Any], what: str) -> Iterator[Mapping[str, Any]]:
    schema = plugin.get("plugin_schema_for_model", plugin)
    if not isinstance(schema, Mapping):
        raise DataError(f"{what}: plugin_schema_for_model is {schema!r}; expected an object")
    for api in as_objects(schema.get("paths") or [schema], f"{what}: paths"):
        name = api.get("name") or schema.get("name")
        if not isinstance(name, str):
            raise DataError(f"{what}: a plugin has no name; keys are {', '.join(map(repr, api))}")
        description = str(api.get("description") or schema.get("description") or "")
        parameters = _json_schema(api.get("parameters") or [], f"{what}: parameters of {name!r}")
        function = {"name": name, "description": description, "parameters": parameters}
        yield {"type": "function", "function": function}


def _json_schema(parameters: object, what: str) -> Mapping[str, Any]:
    """A list of named parameters as an object schema; types stay unsaid where the row has none."""
    if isinstance(parameters, Mapping):
        return parameters
    properties = {}
    required = []
    for parameter in as_objects(parameters, what):
        name = str(parameter.get("name"))
        properties[name] = {k: v for k, v in parameter.items() if k not in ("name", "required")}
        if str(parameter.get("required")).lower() == "true":
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}


def _literal(value: object) -> object:
    """A list as it is; a string is Python (as csv builds of the hub have it) or JSON."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value
