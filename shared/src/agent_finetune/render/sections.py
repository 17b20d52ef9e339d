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


def spans(turn: Message, said: str, stop: int, opening: str, resay: Resay) -> list[Span]:
    """Cut what the model says into sections that cover it without a gap.

    Args:
        turn: The turn, as the template prints it.
        said: Its completion.
        stop: Where its stop begins in `said`.
        opening: What the template prints before the words of a turn that does not think.
        resay: Renders a variant of the turn; called only where a value is not unique.

    Raises:
        RenderError: Thinking, words or a tool's name of this turn are not in `said`.
    """
    words = Section.TEXT if turn.tool_calls else Section.FINAL_ANSWER
    rest = Section.TOOL_CALL if turn.tool_calls else words
    cuts = [(0, rest)]
    thought_end = 0
    if turn.thinking and turn.thinking.strip():
        start, thought_end = _find(turn, "thinking", said, resay)
        thought_end = _with_closing(said, thought_end, opening)
        cuts += [(0 if start < len(said) else start, Section.THINKING), (thought_end, rest)]
    elif closed := re.match(r"[^\S]*(<think>)?\s*</think>\s*", said):
        # An empty block, which the model says to show that it does not think.
        thought_end = closed.end()
        cuts += [(0, Section.THINKING), (thought_end, rest)]
    if turn.text.strip():
        start, end = _find(turn, "text", said, resay)
        if not turn.tool_calls:
            start, end = thought_end, stop
        elif start > thought_end and not _names_between(turn, said[thought_end:start]):
            start = thought_end
        cuts += [(start, words), (end, rest)]
    for call in turn.tool_calls:
        if call.name not in said:
            raise RenderError(f"the call of {call.name!r} is not in what the template prints")
    cuts.append((stop, Section.STOP))
    ends = [place for place, _ in cuts[1:]] + [len(said)]
    found = [
        Span(start=start, end=end, section=section)
        for (start, section), end in zip(cuts, ends, strict=True)
        if start < end
    ]
    if any(start > end for (start, _), end in zip(cuts, ends, strict=True)):
        raise RenderError(
            f"thinking, words and calls overlap in what the template prints: {said!r}"
        )
    return found


def _names_between(turn: Message, text: str) -> bool:
    return any(call.name in text for call in turn.tool_calls)


def _with_closing(said: str, end: int, opening: str) -> int:
    """Add the markup that closes a thinking block, up to what opens the words behind it."""
    closing = re.compile(r"\s*</think>\s*").match(said, end)
    if closing:
        return closing.end()
    return end


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
    if start < 0 or end < start:
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
