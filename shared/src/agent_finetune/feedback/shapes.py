"""What people say about answers, once read: four shapes, each with what it is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agent_finetune.records import BadRow, Example, Message, Preference, Verdict

PromptSource = Literal["given", "log", "disk", "thread"]
PROMPT_SOURCES: tuple[PromptSource, ...] = ("given", "log", "disk", "thread")


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """Which answer is meant, as far as the item says; what it does not say is found later."""

    index: int
    """Place in the list of items, from 0."""
    source: str
    """`feedback[3]` or `file:line`, for messages."""
    id: str = ""
    """Id of the generation; beside a prompt of its own, the item's id."""
    turn: int | None = None
    """Index into the thread; negative ones count from its end."""
    prompt: tuple[Message, ...] | None = None
    """What was asked; None when the item does not say."""
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A better and a worse answer: each one assistant turn, or a trace that begins with one."""

    about: About
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...] | None
    """None: what was said. So is a correction read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumb:
    """An answer was good or bad."""

    about: About
    good: bool
    answer: tuple[Message, ...] | None
    """None: what was said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reward:
    """An answer and its score, the higher the better."""

    about: About
    value: float
    answer: tuple[Message, ...] | None
    """None: what was said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstration:
    """What the model should say; the assistant turns of the prompt are context only."""

    about: About
    answer: tuple[Message, ...]


Shape = Pair | Thumb | Reward | Demonstration


@dataclass(frozen=True, kw_only=True, slots=True)
class Learning:
    """Feedback as it is trained on, and what became of the rest."""

    preferences: tuple[Preference, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    demonstrations: tuple[Example, ...] = ()
    dropped: tuple[BadRow, ...] = ()
    """Items that could not be used, each with its place and why."""
    dropped_turns: int = 0
    """Assistant turns of rejected traces that come after the one where the traces part."""
    prompt_source: Mapping[PromptSource, int] = field(default_factory=dict)
    """Items by where their prompt was found: given with the item, in the engine's log, on disk,
    or put together from the thread."""

    def __len__(self) -> int:
        """Records to learn from."""
        return len(self.preferences) + len(self.verdicts) + len(self.demonstrations)
