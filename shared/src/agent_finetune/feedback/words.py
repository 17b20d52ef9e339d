"""When two answers, or two prompts, are the same."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from agent_finetune.readers.chat import shown
from agent_finetune.records import Message


def clean(text: str, ignoring: Sequence[str] = ()) -> str:
    """A text as it is compared: without the ignored words, wherever they stand, and stripped."""
    for word in ignoring:
        text = text.replace(word, "")
    return text.strip()


def says(message: Message) -> bool:
    """Whether there is a word or a call in it."""
    return bool(message.text.strip() or message.tool_calls)


AnswerKey = tuple[str, str, tuple[tuple[str, str], ...]]
"""Role, text and calls of a turn."""


def answer_key(message: Message, ignoring: Sequence[str] = ()) -> AnswerKey:
    """Equal for turns that say the same and make the same calls; ids and thinking do not count."""
    calls = tuple((call.name, _plain(call.arguments)) for call in message.tool_calls)
    return message.role, clean(message.text, ignoring), calls


def prompt_key(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
) -> tuple[Hashable, ...]:
    """Equal for prompts of the same words, calls and tools."""
    return (*map(answer_key, messages), _plain(list(tools)))


def probe(text: str, ignoring: Sequence[str] = ()) -> str:
    """A piece that every text holds which is the same as this one.

    Where an ignored word was taken out, blanks are left around the gap, so that the longest piece
    between wide blanks is whole in the text as it was said.
    """
    cleaned = clean(text, ignoring)
    if not ignoring:
        return cleaned
    return max(re.split(r"\s{2,}|\n", cleaned), key=len)


def quoted(message: Message) -> str:
    """An answer for a message, cut where it is long."""
    calls = ", ".join(call.name for call in message.tool_calls)
    return f"a call of {calls}" if calls and not message.text.strip() else shown(message.text)


def _plain(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=_unfrozen)


def _unfrozen(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else repr(value)
