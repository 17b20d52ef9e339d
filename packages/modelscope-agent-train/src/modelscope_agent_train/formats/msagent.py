"""MSAgent-Bench conversations (ModelScope, 2023) and the hackathon's set, into Examples.

An assistant value mixes the model's words with what the tools answered:
`words <|startofthink|>call<|endofthink|> <|startofexec|>result<|endofexec|> words`. A call is a
fenced JSON object `{"api_name", "url", "parameters"}` (later rows say `name`), and several calls
may follow each other. Here every call ends an assistant turn and every exec block is a tool turn,
so results are never trained. The plugins that the system prompt lists become the tools offered,
and the list is cut from the prompt, because the model's chat template writes tools itself. A
plugin is nested (`plugin_schema_for_model`) or flat (`name`, `description`, `parameters`).

What is dropped: the `url` of calls and plugins, the host's address, which is no argument.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers.chat import as_objects, shown
from agent_finetune.records import Example, Message, Row, ToolCall
from modelscope_agent_train.formats import repair, turns

FORMAT = "msagent"
LEGAL = ("system", "user", "assistant")
TAGGED = re.compile(
    r"<\|startofthink\|>(?P<think>.*?)<\|endofthink\|>"
    r"|<\|startofexec\|>(?P<exec>.*?)<\|endofexec\|>",
    re.DOTALL,
)
TAG = re.compile(r"<\|(?:start|end)of(?:think|exec)\|>")
LISTED = re.compile(r"^[ \t]*(?:\d+\.[ \t]*(?=\{)|(?=\{\s*\"(?:plugin_name|name)\"))", re.MULTILINE)
"""What stands before each plugin in the system prompt."""
FENCED = re.compile(r"```\w*[ \t]*\n?.*?\n?[ \t]*```", re.DOTALL)


def fits(data: Mapping[str, Any]) -> bool:
    """Whether an assistant's turn of a row has the tags, or its system prompt nested plugins."""
    return any(
        "<|startofthink|>" in text or "<|startofexec|>" in text
        if turn.get("from") == "assistant"
        else turn.get("from") == "system" and '"plugin_schema_for_model"' in text
        for turn in turns.glimpse(data)
        if isinstance(text := turn.get("value"), str)
    )


def is_msagent(rows: Sequence[Row]) -> bool:
    """Whether any of the first rows is MSAgent-Bench's.

    One is enough: nothing else writes these tags, and read as plain chat, results would be trained.
    """
    return any(map(fits, turns.first(rows)))


def read_row(row: Row) -> Example:
    """One conversation; `conversations` is a list, or a string of one in Python or JSON.

    Raises:
        DataError: A turn, a plugin or a block cannot be read, or tags are not balanced.
    """
    dialogue = turns.Dialogue()
    tools: list[Mapping[str, Any]] = []
    for what, turn in turns.turns(row):
        role, text = turns.role(turn, what, LEGAL), turns.said(turn, what)
        if role == "assistant":
            dialogue.add(*(list(_steps(text, what)) or [Message(role=role)]))
            continue
        if role == "system":
            text, plugins = without_plugins(text, what)
            tools += plugins
            if not text.strip():  # nothing but plugins
                continue
        dialogue.add(Message(role=role, text=text))
    return dialogue.example(row, tools)


def _steps(text: str, what: str) -> Iterator[Message]:
    """The turns that one assistant value holds.

    Calls in a row are one turn; the exec blocks after them answer them in order.
    """
    words: list[str] = []
    calls: list[ToolCall] = []
    waiting = 0
    for kind, content in pieces(text, what):
        if kind == "words":
            words.append(content)
        elif kind == "think":
            before, call = _call(content, what)
            words += before
            calls.append(call)
        else:
            if calls:
                yield Message(role="assistant", text="\n".join(words), tool_calls=tuple(calls))
                waiting, words, calls = len(calls), [], []
            if not waiting:
                raise DataError(f"{what}: an exec block with no call before it")
            waiting -= 1
            yield Message(role="tool", text=repair.unfenced(content))
    if words or calls:
        yield Message(role="assistant", text="\n".join(words), tool_calls=tuple(calls))


def pieces(text: str, what: str) -> Iterator[tuple[str, str]]:
    """`words`, `think` and `exec` pieces of an assistant value, in order; blank words are left out.

    Raises:
        DataError: A tag has no partner, or stands inside of a block.
    """
    end = 0
    for match in [*TAGGED.finditer(text), None]:
        words = text[end : match.start() if match else None].strip()
        inside = match[str(match.lastgroup)] if match else ""
        if tag := TAG.search(words) or TAG.search(inside):
            raise DataError(f"{what}: the tag {tag[0]} has no partner")
        if words:
            yield "words", words
        if match:
            end = match.end()
            yield str(match.lastgroup), inside


def _call(content: str, what: str) -> tuple[list[str], ToolCall]:
    """Words of a think block that stand before its call, and the call."""
    fence = FENCED.search(content)
    written = fence[0] if fence else content[max(content.find("{"), 0) :]
    before = content[: fence.start() if fence else max(content.find("{"), 0)].strip()
    try:
        call = repair.load_call(written).value
    except DataError as error:
        raise DataError(f"{what}: a think block holds no call: {error}") from error
    name = call.get("api_name") or call.get("name")
    if not isinstance(name, str):
        raise DataError(f"{what}: a call names no api; keys are {', '.join(map(repr, call))}")
    arguments = _arguments(call.get("parameters"), f"{what}: parameters of {name!r}")
    return [before] if before else [], ToolCall(name=name, arguments=arguments)


def _arguments(value: object, what: str) -> Mapping[str, Any]:
    """An object, or a string of one, as the first rows of 2023 have it; nothing is no arguments."""
    if value is None or value in ("", []):
        return {}
    if isinstance(value, str):
        try:
            value = repair.load_call(value).value
        except DataError as error:
            raise DataError(f"{what}: {error}") from error
    if not isinstance(value, Mapping):
        raise DataError(f"{what} is {shown(value)}; expected an object")
    return value


def without_plugins(text: str, what: str) -> tuple[str, list[Mapping[str, Any]]]:
    """The system prompt without its list of plugins, and the plugins as tools.

    Raises:
        DataError: A plugin cannot be read.
    """
    tools: list[Mapping[str, Any]] = []
    start = end = None
    while match := LISTED.search(text, end or 0):
        plugin, end = _plugin(text, match, what)
        start = match.start() if start is None else start
        tools += _tools(plugin, what)
    if start is None:
        return text, []
    return f"{text[:start].rstrip()}\n\n{text[end:].lstrip()}".strip(), tools


def _plugin(text: str, match: re.Match[str], what: str) -> tuple[Mapping[str, Any], int]:
    """The plugin that begins at a match, and where it ends.

    One that is no JSON ends where the next begins, or a paragraph does, and is repaired.
    """
    decoder = json.JSONDecoder(strict=False)
    try:
        _, end = decoder.raw_decode(text, match.end())
    except (ValueError, RecursionError):
        following = LISTED.search(text, match.end() + 1)
        limit = following.start() if following else len(text)
        paragraph = text.find("\n\n", match.end(), limit)
        end = limit if paragraph < 0 else paragraph
    try:
        return repair.load_call(text[match.end() : end]).value, end
    except DataError as error:
        number = match[0].strip() or shown(text[match.end() : end])
        raise DataError(f"{what}: plugin {number} does not parse: {error}") from error


def _tools(plugin: Mapping[str, Any], what: str) -> Iterator[Mapping[str, Any]]:
    schema = plugin.get("plugin_schema_for_model", plugin)
    if not isinstance(schema, Mapping):
        raise DataError(f"{what}: plugin_schema_for_model is {shown(schema)}; expected an object")
    for api in as_objects(schema.get("paths") or [schema], f"{what}: paths"):
        name = api.get("name") or schema.get("name")
        if not isinstance(name, str):
            raise DataError(f"{what}: a plugin has no name; keys are {', '.join(map(repr, api))}")
        description = api.get("description") or schema.get("description")
        yield turns.tool(name, description, api.get("parameters"), what)
