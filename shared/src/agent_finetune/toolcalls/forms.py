"""What opens and closes the regions of a turn in each form that is known, and reads their calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import regex

from agent_finetune.records import ToolCall
from agent_finetune.toolcalls.reading import read_arguments, read_calls


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A call as it was written."""

    raw: str
    """All of it, markup included."""
    body: str
    """What is between opening and closing."""
    name: str | None
    """What the opening names."""
    closed: bool
    """False: another block or the end of the turn cut it off."""


Read = Callable[[Block], tuple[ToolCall, ...]]
"""Calls of a block; none when any part of it is not a call. Never raises."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """A part of a turn between markup."""

    kind: Literal["thinking", "text", "call", "markup"]
    """`markup` has nothing inside, and is left out."""
    open: regex.Pattern[str] | None
    """None: only the prompt opens it. A group `name` names the tool."""
    close: regex.Pattern[str] | None = None
    """None: it goes on to the end. What a group `next` matches is no part of the region."""
    read: Read | None = None
    first: bool = False
    """It opens only before all words and calls."""
    quoted: bool = False
    """A close inside of a JSON string is a part of the string."""
    whole: bool = False
    """It is a call only if all that follows is; else it is read again as if it were not there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """How a turn is written."""

    regions: tuple[Region, ...]
    """Where two open at one place, the earlier in this order is meant."""
    inside: Region | None = None
    """The region that the prompt has opened."""
    words: bool = True
    """Whether what is outside of all regions is words. If not, what is there counts as a broken
    call where it has anything of `markers`, else as words."""
    markers: tuple[str, ...] = ()
    header: str = ""
    """What the model repeats between regions where outside are no words."""

    def without_calls(self) -> Form:
        """The same for an answer that calls nothing, whatever its words look like."""
        return replace(self, regions=tuple(r for r in self.regions if r.kind != "call"))


def literal(text: str) -> regex.Pattern[str]:
    """A pattern that matches one text."""
    return regex.compile(regex.escape(text))


THINKING = Region(
    kind="thinking", open=regex.compile(r"\s*<think>"), close=literal("</think>"), first=True
)
HERMES = Region(
    kind="call",
    open=literal("<tool_call>"),
    close=regex.compile(r"</tool_call>|(?P<next><tool_call>)"),
    read=lambda block: read_calls(block.body),
    quoted=True,
)
MSAGENT = Region(
    kind="call",
    open=literal("<|startofthink|>"),
    close=regex.compile(r"<\|endofthink\|>|(?P<next><\|startofthink\|>)"),
    read=lambda block: read_calls(block.body, lenient=True),
    quoted=True,
)
PYTHON_TAG = Region(
    kind="call", open=literal("<|python_tag|>"), read=lambda block: read_calls(block.body)
)
REACT = Region(
    kind="call",
    open=regex.compile(r"(?m)^[ \t]*Action:[ \t]*(?P<name>[^\n]*)\n\s*Action Input:"),
    close=regex.compile(r"\n(?P<next>[ \t]*(?:Observation|Thought|Action|Final Answer):)"),
    read=lambda block: read_arguments((block.name or "").strip(" \t\r`*\"'"), block.body),
    quoted=True,
)
BARE_JSON = Region(
    kind="call",
    open=regex.compile(
        r"\s*(?:```(?:json)?[ \t]*\n\s*)?(?:\[\s*)?\{\s*\"(?:name|function|type|id)\"\s*:"
    ),
    read=lambda block: read_calls(block.raw, bare=True),
    first=True,
    whole=True,
)

PLAIN = Form(regions=(THINKING, HERMES, MSAGENT, PYTHON_TAG, REACT, BARE_JSON))
"""Everything that this package reads without knowing the model."""
