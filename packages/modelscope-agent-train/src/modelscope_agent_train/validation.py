"""What is wrong with a data set, counted, with places: for people whose rows are dirty.

A row is looked at twice: as text, for tags and empty turns, and as the example it becomes, for
calls that do not fit the tools that the row itself offers. What readers repair, they tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent_finetune import plugins
from agent_finetune.contracts import Settings
from agent_finetune.errors import DataError
from agent_finetune.readers import OpenedSource
from agent_finetune.records import BadRow, Example, Row
from modelscope_agent_train.formats.repair import REPAIRS, load_call, noted
from modelscope_agent_train.formats.turns import glimpse
from modelscope_agent_train.misfits import cut, misfits
from modelscope_agent_train.sources import Data, open_dataset

KINDS: Mapping[str, str] = {
    "unreadable": "rows that cannot be read",
    "unbalanced_tags": "tags without a partner",
    "broken_json": "calls that are not JSON, and cannot be repaired",
    "empty_turn": "turns that say and call nothing",
    "unknown_tool": "calls of a tool that the row does not offer",
    "unknown_argument": "arguments that the tool's schema does not have",
    "missing_argument": "arguments that the schema requires and the call lacks",
    "wrong_value": "arguments of another type, or not among the values listed",
    "duplicate": "rows that are an earlier row again",
}
"""Everything that is looked for; the order of the report."""
TAG = re.compile(r"<\|(?P<end>start|end)of(?P<what>think|exec)\|>")
CALL = re.compile(
    r"<\|startofthink\|>(?P<think>.*?)<\|endofthink\|>"
    r"|^\s*Action Input:(?P<react>.*?)"
    r"(?=^\s*(?:Observation|Thought|Action|Final Answer|Answer):|\Z)",
    re.DOTALL | re.MULTILINE,
)
"""Texts that ought to be JSON."""


@dataclass(kw_only=True, slots=True)
class Finding:
    """One kind of thing that was found."""

    count: int = 0
    rows: int = 0
    """Rows that have it."""
    examples: list[tuple[str, str]] = field(default_factory=list)
    """Place and sentence of the first few."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationReport:
    """What was found in one data set."""

    source: str
    format: str
    digest: str
    rows: int
    readable: int
    """Rows that become examples."""
    calls: int
    problems: Mapping[str, Finding]
    """By the names in `KINDS`; what was not found is not in it."""
    repairs: Mapping[str, Finding]
    """By the name of what the reader mended."""

    def failed(self, *, allow: Iterable[str] = (), strict: bool = False) -> bool:
        """Whether there is a problem that is not allowed; `strict` counts repairs as one."""
        return bool(self.problems.keys() - set(allow) or (strict and self.repairs))

    def json(self) -> dict[str, Any]:
        """The report for a program."""
        return {
            "source": self.source,
            "format": self.format,
            "digest": self.digest,
            "rows": self.rows,
            "readable": self.readable,
            "calls": self.calls,
            "problems": {name: _as_json(found) for name, found in self.problems.items()},
            "repairs": {name: _as_json(found) for name, found in self.repairs.items()},
        }

    def text(self) -> str:
        """The report for a person."""
        lines = [
            f"{self.source}: format {self.format}, {self.rows} rows, {self.readable} can be "
            f"trained on, {self.calls} calls"
        ]
        for name, found in self.problems.items():
            lines += _told(f"{name}: {found.count} in {found.rows} rows, {KINDS[name]}", found)
        for name, found in self.repairs.items():
            lines += _told(f"repaired, {name}: {found.count} in {found.rows} rows", found)
        if not self.problems:
            lines.append("no problem found")
        return "\n".join(lines)


def validate(
    data: Data | OpenedSource,
    format: str = "auto",
    limit_examples: int = 3,
    *,
    settings: Settings | None = None,
    split: str = "train",
) -> ValidationReport:
    """Look at every row, and go on after each that is bad.

    Args:
        data: As for `open_dataset`, or a source that is open.
        format: A format's name, or auto.
        limit_examples: Places named of each kind.
        settings: Token and cache, where a name has to be looked up.
        split: Split of the data.

    Raises:
        DataError: There is no such data, or its format is not known.
    """
    source = data
    if not isinstance(data, OpenedSource):
        source = open_dataset(data, settings=settings or Settings(), split=split)
    reading = plugins.read_examples(source, format)
    book = _Book(limit=limit_examples)
    for row in source.rows:
        _look_at_text(row, book)
    seen: dict[int, str] = {}
    rows = {row.source: row for row in source.rows}
    for item, repairs in _with_repairs(reading.items):
        for name in repairs:
            book.repair(name, item.source, REPAIRS[name])
        if isinstance(item, BadRow):
            _look_at_bad(item, rows.get(item.source), book)
            continue
        book.readable += 1
        _look_at_example(item, seen, book)
    return ValidationReport(
        source=source.name,
        format=reading.format,
        digest=reading.digest or source.digest,
        rows=len(source.rows),
        readable=book.readable,
        calls=book.calls,
        problems={kind: book.problems[kind] for kind in KINDS if kind in book.problems},
        repairs=dict(sorted(book.repairs.items())),
    )


@dataclass(kw_only=True, slots=True)
class _Book:
    """What is found, while it is counted."""

    limit: int
    readable: int = 0
    calls: int = 0
    problems: dict[str, Finding] = field(default_factory=dict)
    repairs: dict[str, Finding] = field(default_factory=dict)
    _rows: set[tuple[str, str]] = field(default_factory=set)
    _broken: set[str] = field(default_factory=set)

    def problem(self, kind: str, place: str, what: str) -> None:
        if kind == "unbalanced_tags":
            self._broken.add(place)
        self._add(self.problems, kind, place, what)

    def repair(self, name: str, place: str, what: str) -> None:
        self._add(self.repairs, name, place, what)

    def told(self, place: str) -> bool:
        """Whether a row has tags without a partner."""
        return place in self._broken

    def _add(self, book: dict[str, Finding], kind: str, place: str, what: str) -> None:
        found = book.setdefault(kind, Finding())
        found.count += 1
        if (kind, place) in self._rows:
            return  # a row is named once
        self._rows.add((kind, place))
        found.rows += 1
        if len(found.examples) < self.limit:
            found.examples.append((place, what))


def _look_at_text(row: Row, book: _Book) -> None:
    """Tags and empty turns of a row as it is written."""
    for name, turn in _turns(row.data):
        value = turn.get("value", turn.get("content"))
        speaker = turn.get("from", turn.get("role"))
        calls = turn.get("tool_calls") or turn.get("function_call")
        if not value and not calls:
            book.problem("empty_turn", row.source, f"{name}: {speaker} says nothing")
        if speaker == "assistant" and isinstance(value, str) and (lonely := _lonely_tag(value)):
            book.problem("unbalanced_tags", row.source, f"{name}: {lonely}")


def _look_at_bad(bad: BadRow, row: Row | None, book: _Book) -> None:
    """Why a row does not read; of tags it was said before, and better."""
    if book.told(bad.source):
        return
    broken = row is not None and any(map(_is_broken, _calls(row.data)))
    book.problem("broken_json" if broken else "unreadable", bad.source, bad.reason)


def _calls(data: Mapping[str, Any]) -> Iterator[str]:
    """The texts of a row that ought to be JSON calls."""
    for _, turn in _turns(data):
        value = turn.get("value", turn.get("content"))
        for match in CALL.finditer(value if isinstance(value, str) else ""):
            content = match[str(match.lastgroup)]
            if match.lastgroup == "think" or content.strip():
                yield content


def _is_broken(text: str) -> bool:
    try:
        load_call(text)
    except DataError:
        return True
    return False


def _with_repairs(
    items: Iterable[Example | BadRow],
) -> Iterator[tuple[Example | BadRow, list[str]]]:
    """Each item, and what its reader mended to make it."""
    each = iter(items)
    while True:
        with noted() as repairs:
            item = next(each, None)
        if item is None:
            return
        yield item, repairs


def _lonely_tag(text: str) -> str | None:
    """The first tag that has no partner, with where it stands."""
    waiting: re.Match[str] | None = None
    for tag in TAG.finditer(text):
        closes = tag["end"] == "end"
        if closes != (waiting is not None) or (waiting and waiting["what"] != tag["what"]):
            lonely = waiting or tag
            return f"{lonely[0]} at character {lonely.start()} has no partner"
        waiting = None if closes else tag
    return f"{waiting[0]} at character {waiting.start()} has no partner" if waiting else None


def _look_at_example(example: Example, seen: dict[int, str], book: _Book) -> None:
    """Calls against the tools offered, and whether the row was there before."""
    key = hash((repr(example.messages), repr(example.tools)))
    if (first := seen.setdefault(key, example.source)) != example.source:
        book.problem("duplicate", example.source, f"the same as {first}")
    schemas = {
        str(tool["function"]["name"]): tool["function"].get("parameters") or {}
        for tool in example.tools
    }
    for message in example.messages:
        for call in message.tool_calls:
            book.calls += 1
            if call.name not in schemas:
                offered = ", ".join(schemas) or "none"
                what = f"calls {call.name!r}; offered are {cut(offered)}"
                book.problem("unknown_tool", example.source, what)
                continue
            for kind, what in misfits(call, schemas[call.name]):
                book.problem(kind, example.source, f"{call.name}: {what}")


def _turns(data: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The turns of a row, whatever the format calls them, each with its place in the row."""
    for key in ("conversations", "conversation", "messages"):
        for index, turn in enumerate(glimpse(data, key)):
            yield f"{key}[{index}]", turn


def _told(title: str, found: Finding) -> list[str]:
    lines = [title, *(f"    {place}: {what}" for place, what in found.examples)]
    more = found.rows - len(found.examples)
    return [*lines, f"    and in {more} more"] if more else lines


def _as_json(found: Finding) -> dict[str, Any]:
    places = [{"source": place, "what": what} for place, what in found.examples]
    return {"count": found.count, "rows": found.rows, "examples": places}
