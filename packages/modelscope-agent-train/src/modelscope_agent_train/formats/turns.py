"""What rows of turns have in common, whatever their text looks like.

Functions here know rows, not files: they raise DataError with the reason alone, and
`readers.convert` puts file and line in front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers.chat import as_example, as_objects, missing_key, shown
from agent_finetune.records import Example, Message, Role, Row, ToolCall
from modelscope_agent_train.formats import repair

LOOKED_AT = 20
"""Rows from which a format is found, as the kernel does."""
SPEAKERS: Mapping[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function": "tool",
    "tool": "tool",
    "observation": "tool",
}
Fits = Callable[[Mapping[str, Any]], bool]


def first(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    """The first rows that parse."""
    return list(islice((row.data for row in rows if row.problem is None), LOOKED_AT))


def mostly(fits: Fits) -> Callable[[Sequence[Row]], bool]:
    """Whether more than half of the first rows fit."""

    def matches(rows: Sequence[Row]) -> bool:
        looked_at = first(rows)
        return sum(map(fits, looked_at)) * 2 > len(looked_at)

    return matches


def glimpse(data: Mapping[str, Any], key: str = "conversations") -> list[Mapping[str, Any]]:
    """The turns of a row, for telling formats apart; none where it has none that can be read."""
    try:
        return objects(data.get(key), key)
    except DataError:
        return []


def objects(value: object, what: str) -> list[Mapping[str, Any]]:
    """A list of objects; a string is JSON, or Python as csv builds of the hub have it.

    Raises:
        DataError: It is something else; `what` names it.
    """
    if isinstance(value, str):
        try:
            value = repair.load_value(value).value
        except DataError as error:
            raise DataError(f"{what} is a string that does not parse: {error}") from error
    return as_objects(value, what)


def turns(row: Row, key: str = "conversations") -> list[tuple[str, Mapping[str, Any]]]:
    """The turns of a row, each with the name of its place."""
    if key not in row.data:
        raise DataError(missing_key(row, key))
    found = objects(row.data[key], key)
    return [(f"{key}[{index}]", turn) for index, turn in enumerate(found)]


def role(turn: Mapping[str, Any], what: str, legal: Sequence[str], key: str = "from") -> Role:
    """Who speaks.

    Raises:
        DataError: Somebody who does not in this format.
    """
    speaker = turn.get(key)
    if speaker not in legal:
        raise DataError(f"{what}: {key} is {shown(speaker)}; legal: {', '.join(legal)}")
    return SPEAKERS[str(speaker)]


def said(turn: Mapping[str, Any], what: str, key: str = "value") -> str:
    """What a turn says.

    Raises:
        DataError: It is no string.
    """
    text = turn.get(key)
    if not isinstance(text, str):
        raise DataError(f"{what}: {key} is {shown(text)}; expected a string")
    return text


class Dialogue:
    """The messages of a row as they come, results given the names of the calls they answer."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._waiting: list[ToolCall] = []

    @property
    def waits(self) -> bool:
        """Whether a call has no result yet."""
        return bool(self._waiting)

    def add(self, *messages: Message) -> None:
        """Take messages in, in order; an assistant's that say nothing go with their question.

        Training on an empty answer would teach to say nothing, and the 2023 script left such
        rounds out as well.
        """
        for message in messages:
            if message.role == "assistant" and not (message.text or message.tool_calls):
                self._leave_out()
                continue
            if message.role == "tool":
                call = self._waiting.pop(0) if self._waiting else None
                message = replace(message, name=message.name or (call.name if call else None))
            else:
                self._waiting = list(message.tool_calls)
            self.messages.append(message)

    def example(
        self, row: Row, tools: Iterable[Mapping[str, Any]] = (), *, last_only: bool = False
    ) -> Example:
        """The example that the messages make.

        Args:
            row: Whose they are.
            tools: Tools offered; the same one twice is offered once.
            last_only: Only the last assistant turn is trained.

        Raises:
            DataError: Nothing in it is trained.
        """
        messages = self.messages
        if last_only:
            if not messages or messages[-1].role != "assistant":
                raise DataError("the last turn is not the assistant's; it is what is trained here")
            messages = [*map(_context, messages[:-1]), messages[-1]]
        offered: list[Mapping[str, Any]] = []
        offered += (tool for tool in tools if tool not in offered)
        example = as_example(row, messages, tuple(offered))
        if not any(m.role == "assistant" and m.trained for m in messages):
            raise DataError("no assistant turn is trained (loss is false on all of them)")
        return example

    def _leave_out(self) -> None:
        if self.messages and self.messages[-1].role == "user":
            self.messages.pop()
        repair.note("empty-turn")


def _context(message: Message) -> Message:
    return replace(message, trained=False) if message.role == "assistant" else message


def tool(name: object, description: object, parameters: object, what: str) -> Mapping[str, Any]:
    """A tool as it is offered.

    Raises:
        DataError: It has no name, or parameters that are no schema.
    """
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{what}: a tool has the name {shown(name)}; expected a string")
    function = {
        "name": name.strip(),
        "description": str(description or "").strip(),
        "parameters": json_schema(parameters, f"{what}: parameters of {name!r}"),
    }
    return {"type": "function", "function": function}


def json_schema(parameters: object, what: str) -> Mapping[str, Any]:
    """A list of named parameters as an object schema; types stay unsaid where a row has none.

    `required` of a parameter is a truth value or the word for it. A schema stays as it is.
    """
    if parameters is None or parameters == "":
        parameters = []
    if isinstance(parameters, Mapping):
        return parameters if parameters else {"type": "object", "properties": {}}
    properties = {}
    required = []
    for index, parameter in enumerate(as_objects(parameters, what)):
        name = parameter.get("name")
        if not isinstance(name, str):
            raise DataError(f"{what}[{index}]: name is {shown(name)}; expected a string")
        properties[name] = {k: v for k, v in parameter.items() if k not in ("name", "required")}
        if str(parameter.get("required")).lower() == "true":
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}
