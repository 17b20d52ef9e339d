r"""AgentFabric's form (ms_agent_for_agentfabric, default 30,000 and addition 488 rows).

The system prompt has a section of tools:

    # Tools
    ## You have the following tools:
    weather: weather API. Tells it. Parameters: {"type": "object", ...} Format the ...
    ## When you need to call a tool, ...
    # Instructions

The section, in Chinese as a rule, becomes the tools offered and is cut, with the text form that it
dictates; what stands under the next heading stays. An assistant's text is ReAct whose observations
stand in `<result>` and whose last label is `Answer:`; rows that were converted from ms_agent end
with `Final Answer:`.

The script that converted them wrote a backslash before each parameter's name (`"\city"`, and a tab
for the t of `"\text"`); that is taken back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.records import Example, Row
from modelscope_agent_train.formats import react, repair, steps, turns

FORMAT = "agentfabric"
LABELS = (*steps.LABELS, "Answer")
SECTION = re.compile(
    r"^#[ \t]*(?:工具|Tools)[ \t]*$.*?"
    r"^##[ \t]*(?:你拥有如下工具|You have the following tools)[:\uff1a]"
    r"(?P<tools>.*?)(?P<form>^##[ \t]*(?:当你需要调用工具时|When you need to call a tool).*?)"
    r"(?=^#[ \t]*[^#\s]|\Z)",
    re.DOTALL | re.MULTILINE,
)
TOOL = re.compile(
    r"^[ \t]*(?P<name>[^\s:\uff1a]+)[ \t]*[:\uff1a][ \t]*(?P<human>[^\n。]*?)[ \t]*API[。.]",
    re.MULTILINE,
)
INPUT = re.compile(r"(?:输入参数|Input parameters|Parameters)[ \t]*[:\uff1a]")
BROKEN_KEY = re.compile(r'"\\(\w+)"(?=\s*:)')


def fits(data: Mapping[str, Any]) -> bool:
    """Whether the system prompt of a row has AgentFabric's section of tools."""
    found = turns.glimpse(data)
    return any(
        turn.get("from") == "system" and SECTION.search(str(turn.get("value"))) for turn in found
    )


is_agentfabric = turns.mostly(fits)


def read_row(row: Row) -> Example:
    """One conversation; `conversations` is a list, or a string of one in Python or JSON.

    Raises:
        DataError: A turn, a tool or a step cannot be read.
    """
    return react.read_steps(row, without_tools, LABELS)


def without_tools(text: str, what: str) -> tuple[str, list[Mapping[str, Any]]]:
    """A system prompt without its section of tools, and the tools.

    Raises:
        DataError: A tool cannot be read.
    """
    match = SECTION.search(text)
    if match is None:
        return text.strip(), []
    rest = (text[: match.start()].strip(), text[match.end() :].strip())
    return "\n\n".join(filter(None, rest)), list(_tools(match["tools"], what))


def _tools(text: str, what: str) -> Iterator[Mapping[str, Any]]:
    found = list(TOOL.finditer(text))
    if not found and text.strip():
        raise DataError(f"{what}: no tool can be found in the list {text.strip()[:60]!r}")
    ends = [match.start() for match in found[1:]] + [len(text)]
    for match, end in zip(found, ends, strict=True):
        told = text[match.end() : end]
        marker = INPUT.search(told)
        description = told[: marker.start()] if marker else told
        parameters = _schema(told[marker.end() :] if marker else "", match["name"], what)
        yield turns.tool(match["name"], description, parameters, what)


def _schema(text: str, name: str, what: str) -> object:
    end = max(text.rfind("}"), text.rfind("]")) + 1
    if not end:
        return None
    written = text[:end].strip()
    whole = BROKEN_KEY.sub(r'"\1"', written)
    if whole != written:
        repair.note("key-backslash")
    try:
        return repair.load_value(whole).value
    except DataError as error:
        raise DataError(f"{what}: parameters of {name!r}: {error}") from error
