"""iic/ms_agent (30,000 rows): MSAgent-Bench written as ReAct, into Examples.

The system prompt lists APIs and dictates the text form:

    Answer the following questions as best you can. You have access to the following APIs:
    1. get_w: Call this tool to interact with the getw API. What is the getw API useful for?
    weather. Parameters: [{"name": "city", "description": "c", "required": "True"}]

    Use the following format: ... Begin!

The APIs become the tools offered. They are cut from the prompt together with the form, because the
model's chat template writes tools and calls in its own way; the other words of the prompt stay. An
assistant's text is read as `steps` tells: inputs and observations are Python's repr as a rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.records import Example, Message, Row
from modelscope_agent_train.formats import repair, steps, turns

FORMAT = "ms_agent"
LEGAL = ("system", "user", "assistant", "function", "tool", "observation")
LISTED = re.compile(
    r"You have access to the following (?:APIs|tools?):\s*\n(?P<apis>.*?)"
    r"(?P<form>^\s*Use the following format:.*?(?:^\s*Begin!|\Z))",
    re.DOTALL | re.MULTILINE,
)
API = re.compile(
    r"^[ \t]*(?:\d+\.[ \t]*(?=[^\n:]{1,100}:)|(?=[^\s:]{1,100}:[ \t]*Call this tool))", re.MULTILINE
)
"""Where an API begins in the list."""
INTRODUCED = re.compile(
    r"Call this tool to interact with the .*? API\.\s*(?:What is the .*? API useful for\?\s*)?",
    re.DOTALL,
)
System = Callable[[str, str], tuple[str, Sequence[Mapping[str, Any]]]]
"""The words of a system prompt that stay, and its tools."""


def fits(data: Mapping[str, Any]) -> bool:
    """Whether the system prompt of a row lists APIs and dictates ReAct."""
    found = turns.glimpse(data)
    return any(turn.get("from") == "system" and _dictates(turn.get("value")) for turn in found)


is_ms_agent = turns.mostly(fits)


def read_row(row: Row) -> Example:
    """One conversation; `conversations` is a list, or a string of one in Python or JSON.

    Raises:
        DataError: A turn, an API or a step cannot be read.
    """
    return read_steps(row, without_apis, steps.LABELS)


def read_steps(row: Row, read_system: System, labels: Sequence[str]) -> Example:
    """A conversation whose assistant speaks ReAct; shared with AgentFabric's form."""
    dialogue = turns.Dialogue()
    tools: list[Mapping[str, Any]] = []
    for what, turn in turns.turns(row):
        role, text = turns.role(turn, what, LEGAL), turns.said(turn, what)
        if role == "assistant":
            dialogue.add(*(list(steps.messages(text, what, labels)) or [Message(role=role)]))
            continue
        if role == "system":
            text, listed = read_system(text, what)
            tools += listed
            if not text:
                continue
        if role == "user" and dialogue.waits and text.lstrip().startswith("Observation:"):
            role = "tool"  # as a host that speaks ReAct hands results back
        if role == "tool":
            text = steps.observed(text.strip().removeprefix("Observation:"))
        dialogue.add(Message(role=role, text=text))
    return dialogue.example(row, tools)


def without_apis(text: str, what: str) -> tuple[str, list[Mapping[str, Any]]]:
    """A system prompt without its APIs and the form that it dictates, and the APIs as tools.

    Raises:
        DataError: An API cannot be read.
    """
    match = LISTED.search(text)
    if match is None:
        return text.strip(), []
    rest = (text[: match.start()].strip(), text[match.end() :].strip())
    return "\n\n".join(filter(None, rest)), list(_apis(match["apis"], what))


def _apis(text: str, what: str) -> Iterator[Mapping[str, Any]]:
    starts = [match.end() for match in API.finditer(text)]
    ends = [*(match.start() for match in API.finditer(text)), len(text)][1:]
    if not starts and text.strip():
        raise DataError(f"{what}: no API can be found in the list {text.strip()[:60]!r}")
    for start, end in zip(starts, ends, strict=True):
        name, _, told = text[start:end].partition(":")
        told, marker, parameters = told.rpartition("Parameters:")
        if not marker:
            told, parameters = parameters, ""
        description = INTRODUCED.sub("", told.strip()).strip()
        yield turns.tool(name, description, _parameters(parameters, name, what), what)


def _parameters(text: str, name: str, what: str) -> object:
    """The JSON behind `Parameters:`; "Format the arguments as a JSON object." may follow."""
    end = max(text.rfind("]"), text.rfind("}")) + 1
    if not end:
        return None
    try:
        return repair.load_value(text[:end].strip()).value
    except DataError as error:
        raise DataError(f"{what}: parameters of {name.strip()!r}: {error}") from error


def _dictates(text: object) -> bool:
    return isinstance(text, str) and "Action Input:" in text and LISTED.search(text) is not None
