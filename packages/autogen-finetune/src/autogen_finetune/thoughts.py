"""What a model thinks beside its calls, in the one field that AutoGen 0.4 has for it."""

from __future__ import annotations

import re

_THOUGHT = re.compile(r"<think>\n(.*?)\n</think>(?:\n\n(.*))?", re.DOTALL)


def join_thought(thinking: str | None, text: str) -> str | None:
    """Words beside calls are a thought to AutoGen; thinking is told from them by its markup."""
    if not thinking:
        return text or None
    marked = f"<think>\n{thinking}\n</think>"
    return f"{marked}\n\n{text}" if text else marked


def split_thought(thought: str | None) -> tuple[str | None, str]:
    """Thinking and words that an answer with calls had, of its thought."""
    found = _THOUGHT.fullmatch(thought or "")
    return (found.group(1), found.group(2) or "") if found else (None, thought or "")
