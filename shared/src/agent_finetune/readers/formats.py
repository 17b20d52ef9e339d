"""The kernel's formats, how they are told apart, and the kernel's answer to the reading hook."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from agent_finetune.contracts import Reading, Source
from agent_finetune.errors import DataError
from agent_finetune.readers import strictjson
from agent_finetune.readers.bfcl import read_bfcl
from agent_finetune.readers.chat import listed, read_messages, read_prompt_completion
from agent_finetune.readers.flat import read_alpaca, read_dolly, read_lima
from agent_finetune.readers.rows import convert
from agent_finetune.readers.sharegpt import read_sharegpt
from agent_finetune.records import Example, Row

BAD_SIDES = frozenset(("rejected", "rejected_response", "non_preferred_output"))
"""Keys under which preference data holds what not to say."""
LOOKED_AT = 20
"""Rows from which the format is found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A way to write a conversation into a row."""

    name: str
    fits: Callable[[Mapping[str, Any]], bool]
    """Whether a row has this format's keys, and values of the right kind in them."""
    read: Callable[[Row], Example]


def _first(row: Mapping[str, Any], key: str) -> object:
    """The first item of a list, or of the list that a string holds as JSON."""
    value = row.get(key)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = strictjson.loads(value)
        except DataError:
            return None
    return value[0] if isinstance(value, (list, tuple)) and value else None


def _has_turns(row: Mapping[str, Any], keys: Iterable[str], speaker: str) -> bool:
    return any(isinstance(t := _first(row, key), Mapping) and speaker in t for key in keys)


def _is_preference(row: Mapping[str, Any]) -> bool:
    """Rows that also hold what not to say; training on them as they are would teach it."""
    judged = "completion" in row or "messages" in row
    return not BAD_SIDES.isdisjoint(row) or (judged and isinstance(row.get("label"), bool))


FORMATS: tuple[Format, ...] = (
    Format(name="bfcl", fits=lambda row: {"question", "function"} <= row.keys(), read=read_bfcl),
    Format(
        name="messages", fits=lambda row: _has_turns(row, ("messages",), "role"), read=read_messages
    ),
    Format(
        name="sharegpt",
        fits=lambda row: _has_turns(row, ("conversations",), "from"),
        read=read_sharegpt,
    ),
    Format(
        name="messages",
        fits=lambda row: _has_turns(row, ("conversations", "conversation"), "role"),
        read=read_messages,
    ),
    Format(
        name="lima", fits=lambda row: isinstance(_first(row, "conversations"), str), read=read_lima
    ),
    Format(
        name="dolly", fits=lambda row: {"instruction", "response"} <= row.keys(), read=read_dolly
    ),
    Format(
        name="alpaca", fits=lambda row: {"instruction", "output"} <= row.keys(), read=read_alpaca
    ),
    Format(
        name="prompt_completion",
        fits=lambda row: {"prompt", "completion"} <= row.keys(),
        read=read_prompt_completion,
    ),
)
"""Most specific first. Of the formats that fit a row, the first in this order has it."""


def names() -> tuple[str, ...]:
    """Names of the kernel's formats."""
    return tuple(dict.fromkeys(f.name for f in FORMATS))


def find_format(source: Source) -> Format:
    """The format that most of the first rows are in.

    Each of the first 20 rows that parse votes for the first format in the order of `FORMATS` that
    fits it; the most votes win, and a tie goes to the more specific. Preference rows vote for
    none.

    Raises:
        DataError: No row fits any format; the keys seen and the known formats are named.
    """
    parsed = list(islice((row for row in source.rows if row.problem is None), LOOKED_AT))
    votes: Counter[int] = Counter()
    for row in parsed:
        fitting = (i for i, f in enumerate(FORMATS) if f.fits(row.data))
        if not _is_preference(row.data) and (index := next(fitting, None)) is not None:
            votes[index] += 1
    if not votes:
        raise DataError(_unknown(source, parsed))
    return FORMATS[max(votes, key=lambda index: (votes[index], -index))]


def read_source(source: Source, format: str) -> Reading:
    """The kernel's answer to `finetune_read_examples`, given when no plugin has one.

    Raises:
        DataError: The name is nobody's, or with auto no format fits.
    """
    if format == "auto":
        found = find_format(source)
    else:
        named = next((f for f in FORMATS if f.name == format), None)
        if named is None:
            raise DataError(
                f"{source.name}: no reader knows format {format!r}; the kernel's formats are "
                f"{', '.join(names())}, and each installed plugin may have its own"
            )
        found = named
    return Reading(format=found.name, items=convert(source.rows, found.read))


def _unknown(source: Source, parsed: list[Row]) -> str:
    if not source.rows:
        return f"{source.name}: holds no rows"
    if not parsed:
        first = source.rows[0]
        return f"{first.source}: {first.problem}"
    if all(_is_preference(row.data) for row in parsed):
        return (
            f"{source.name}: rows hold good and bad answers; that is feedback, which "
            "agent_finetune.feedback.read_feedback_file reads"
        )
    keys = dict.fromkeys(key for row in parsed for key in row.data)
    known = ", ".join(names())
    return (
        f"{source.name}: no known format has the keys {listed(keys) or '(none)'}; "
        f"known formats are {known}"
    )
