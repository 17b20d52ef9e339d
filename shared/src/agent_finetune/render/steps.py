"""Assistant turns as ids, and how they share rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent_finetune.records import Section, Tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One assistant turn: the prompt it answers, and what it says."""

    place: int
    """Index of the turn among the messages."""
    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    sections: tuple[Section, ...]
    trained: tuple[bool, ...]

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt) + len(self.ids)


def runs(steps: Sequence[Step]) -> list[list[Step]]:
    """Group steps into rows: each prompt begins with the prompt and answer before it."""
    found: list[list[Step]] = []
    for step in steps:
        last = found[-1][-1] if found else None
        if last and step.prompt[: last.length] == last.prompt + last.ids:
            found[-1].append(step)
        else:
            found.append([step])
    return found


def join(run: Sequence[Step], source: str) -> Tokens:
    """One row out of steps that continue each other; everything between them is context."""
    ids: tuple[int, ...] = ()
    trained: tuple[bool, ...] = ()
    sections: tuple[Section | None, ...] = ()
    for step in run:
        context = len(step.prompt) - len(ids)
        ids = step.prompt + step.ids
        trained += (False,) * context + step.trained
        sections += (None,) * context + step.sections
    return Tokens(ids=ids, trained=trained, sections=sections, source=source)
