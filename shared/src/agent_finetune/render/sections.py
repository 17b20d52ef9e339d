"""Which part of what a model says is thinking, words, a tool call, or the end.

A turn's own values are looked for in its rendered text; the markup around a value belongs to
the value's section. No generation marker is needed, so this holds for any template.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agent_finetune.errors import RenderError
from agent_finetune.records import Message, Section
from agent_finetune.render.turns import MARK

Resay = Callable[[Message], str]
"""Renders another turn in this one's place, and answers what the model would say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Characters `start` to `end` (exclusive) of a completion are of one section."""

    start: int
    end: int
    section: Section


@dataclass(frozen=True, kw_only=True, slots=True)
class Openings:
    """What a template prints around the words of a turn, and before its first call's name."""

    text: str = ""
    call: str = ""
    closing: str = ""
    """Between the words and the stop."""


_EMPTY_THOUGHT = re.compile(r"\s*(<think>)?\s*</think>")
_CLOSED_THOUGHT = re.compile(r"\s*</think>")
_BLANKS = re.compile(r"\s*")


def without_thought(opening: str) -> str:
    """An opening without the empty block by which a model says that it does not think."""
    found = _EMPTY_THOUGHT.match(opening)
    return opening[found.end() :].lstrip() if found else opening


def spans(turn: Message, said: str, stop: int, openings: Openings, resay: Resay) -> list[Span]:
    """Cut what the model says into sections that cover it without a gap.

    Markup belongs to what it wraps: up to the end of its closing to thinking, all between words
    and calls to the calls, and all else to the words.

    Args:
        turn: The turn, as the template prints it.
        said: Its completion.
        stop: Where its stop begins in `said`.
        openings: What the template prints before a turn's own values.
        resay: Renders a variant of the turn; called only where a value is not unique.

    Raises:
        RenderError: Thinking, words or a tool's name of this turn are not in `said`.
    """
    for call in turn.tool_calls:
        if call.name not in said:
            raise RenderError(f"the call of {call.name!r} is not in what the template prints")
    words = Section.TEXT if turn.tool_calls else Section.FINAL_ANSWER
    rest = Section.TOOL_CALL if turn.tool_calls else words
    thought = _thought_end(turn, said, openings, resay)
    cuts = [(0, Section.THINKING), (thought, rest)]
    if turn.tool_calls and turn.text.strip():
        start, end = _find(turn, "text", said, resay)
        if not any(call.name in said[thought:start] for call in turn.tool_calls):
            start = thought
        cuts += [(start, words), (end, rest)]
    elif turn.text.strip():
        _find(turn, "text", said, resay)  # it must be there
    cuts.append((stop, Section.STOP))
    ends = [place for place, _ in cuts[1:]] + [len(said)]
    pairs = list(zip(cuts, ends, strict=True))
    if any(start > end for (start, _), end in pairs):
        raise RenderError(f"thinking, words and calls overlap in what is printed: {said!r}")
    return [Span(start=a, end=b, section=section) for (a, section), b in pairs if a < b]


def _thought_end(turn: Message, said: str, openings: Openings, resay: Resay) -> int:
    """Where thinking ends, the markup that closes it included; 0 without thinking."""
    if not (turn.thinking and turn.thinking.strip()):
        empty = _EMPTY_THOUGHT.match(said)
        return _words_begin(said, empty.end(), turn.text) if empty else 0
    end = _find(turn, "thinking", said, resay)[1]
    if closing := _CLOSED_THOUGHT.match(said, end):
        return _words_begin(said, closing.end(), turn.text)
    if turn.text.strip():
        opening, value = openings.text, turn.text.strip()
    elif turn.tool_calls:
        opening, value = openings.call, turn.tool_calls[0].name
    else:
        return end
    following = said.find(opening + value, end)
    return following if following >= 0 else end


def _words_begin(said: str, closed: int, text: str) -> int:
    """Where words begin behind a closed thinking block; blanks of their own are theirs."""
    blanks = _BLANKS.match(said, closed)
    end = blanks.end() if blanks else closed
    return next((p for p in range(closed, end) if text and said.startswith(text, p)), end)


def _find(
    turn: Message, field: Literal["thinking", "text"], said: str, resay: Resay
) -> tuple[int, int]:
    """Where the value of a field stands in `said`: start and end."""
    value = (turn.thinking or "") if field == "thinking" else turn.text
    bare = value.strip()
    if said.count(bare) == 1:
        start = said.index(bare)
        return start, start + len(bare)
    # It stands there more than once, or was changed: see where a marked variant differs.
    start = _mark(resay(_with(turn, field, MARK + value.lstrip())), said)
    end = _mark(resay(_with(turn, field, value.rstrip() + MARK)), said)
    if start < 0 or end <= start:
        raise RenderError(
            f"the {field} of an assistant turn is not in what the template prints: {bare[:60]!r}"
        )
    return start, end


def _with(turn: Message, field: Literal["thinking", "text"], value: str) -> Message:
    return replace(turn, thinking=value) if field == "thinking" else replace(turn, text=value)


def _mark(marked: str, said: str) -> int:
    """Where the mark stands, provided that the text before it is the same; else -1."""
    before, mark, _ = marked.partition(MARK)
    return len(before) if mark and said.startswith(before) else -1


def per_token(
    offsets: Sequence[tuple[int, int]], found: Sequence[Span], wanted: Collection[Section]
) -> tuple[list[Section], list[bool]]:
    """Label tokens by the characters they cover.

    A token across a border is trained when any part of it is of a trained section, and carries
    that section's name: half of it cannot be said without the other.

    Args:
        offsets: Start and end character of each token in the completion.
        found: Spans that cover the completion.
        wanted: Sections that are trained.

    Returns:
        A section, and whether it is trained, for each token.
    """
    sections: list[Section] = []
    trained: list[bool] = []
    first = 0
    for start, end in offsets:
        while first < len(found) - 1 and found[first].end <= start:
            first += 1
        touched = [found[first].section]
        following = first + 1
        while following < len(found) and found[following].start < end:
            touched.append(found[following].section)
            following += 1
        kept = [section for section in touched if section in wanted]
        sections.append((kept or touched)[0])
        trained.append(bool(kept))
    return sections, trained
