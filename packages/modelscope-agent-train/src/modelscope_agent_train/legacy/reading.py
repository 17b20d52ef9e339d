"""Rows of MSAgent-Bench as raw text, by the rules of the 2023 script."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers.chat import as_objects
from agent_finetune.records import Row

EXEC_TAG = re.compile(r"<\|(start|end)ofexec\|>")


class LeftOut(DataError):
    """A row that the 2023 script left out too: there is nothing in it to learn from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What a user said, and all that the assistant did about it, results in exec blocks."""

    user: str
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """A row, untouched: no text of it is stripped, parsed or repaired."""

    system: str
    turns: tuple[Turn, ...]
    source: str = ""
    """`file:line`."""
    id: str = ""


def read(row: Row) -> Conversation:
    """One row: a system message, then users and assistants by turns.

    A turn with an empty answer is left out together with its question, as in 2023.

    Raises:
        LeftOut: No system message comes first, or no turn is left.
        DataError: Roles are out of order, a value is no text, a user has no answer, or an exec
            tag has no partner. The message is the reason alone, without the row's place.
    """
    if "conversations" not in row.data:
        raise DataError(f"no key 'conversations'; keys are {', '.join(map(repr, row.data))}")
    said = as_objects(_literal(row.data["conversations"]), "conversations")
    if not said or said[0].get("from") != "system":
        raise LeftOut("the first message is not 'system'")
    values = [_value(said, place) for place in range(len(said))]
    if len(said) % 2 == 0:
        raise DataError(f"conversations[{len(said) - 1}]: a user without an answer")
    turns = []
    for place in range(1, len(said), 2):
        if values[place + 1]:
            _check_exec(values[place + 1], f"conversations[{place + 1}]")
            turns.append(Turn(user=values[place], answer=values[place + 1]))
    if not turns:
        raise LeftOut("no turn has an answer")
    return Conversation(
        system=values[0], turns=tuple(turns), source=row.source, id=str(row.data.get("id") or "")
    )


def _value(said: Sequence[Mapping[str, Any]], place: int) -> str:
    expected = "system" if place == 0 else ("assistant", "user")[place % 2]
    turn = said[place]
    if turn.get("from") != expected:
        raise DataError(
            f"conversations[{place}]: from is {turn.get('from')!r}; it must be {expected!r}"
        )
    value = turn.get("value")
    if not isinstance(value, str):
        raise DataError(f"conversations[{place}]: value is {value!r}; expected a string")
    return value


def _check_exec(answer: str, what: str) -> None:
    """Refuse exec tags without a partner: what is between would be trained."""
    tags = [match[1] for match in EXEC_TAG.finditer(answer)]
    for place, tag in enumerate(tags):
        if tag != ("start", "end")[place % 2]:
            raise DataError(f"{what}: exec tag {place + 1} is <|{tag}ofexec|>, out of order")
    if len(tags) % 2:
        raise DataError(f"{what}: the last <|startofexec|> is never closed")


def _literal(value: object) -> object:
    """A list as it is; a string is Python (as csv builds of the hub have it) or JSON."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value
