"""The truth that every host produces and every other part reads: frozen, and free of torch.

An `Example` is what an agent lived through: messages, the tools it was offered, and where the
record came from. `Preference` and `Verdict` are its two sisters for learning from feedback.
`Tokens`, `PairTokens` and `VerdictTokens` are the same three as a model sees them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from agent_finetune.errors import DataError

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


class Section(StrEnum):
    """What a token of an assistant turn is for; the unit in which training is switched on."""

    THINKING = "thinking"
    TEXT = "text"
    """Words beside a tool call."""
    TOOL_CALL = "tool_call"
    """Name, arguments and the markup around them."""
    FINAL_ANSWER = "final_answer"
    """Words of a turn that calls no tool."""
    STOP = "stop"
    """The token that ends the turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """One call that an assistant made; `arguments` is the parsed JSON object."""

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """The exact token ids of a turn that this model itself produced.

    Such a turn is trained by these ids and never tokenized again, because a model's own
    tokenization of its text need not be the canonical one.
    """

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    """Generated ids, the stop token included when the model produced it."""
    renderer: str | None = None
    """`Renderer.digest` of the tokenizer and template that the ids are of; another renderer takes
    the turn's text instead. None, not kept, is taken for the renderer's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn. Only an assistant turn has `thinking`, `tool_calls` or `generation`."""

    role: Role
    text: str = ""
    thinking: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    """On a tool turn: the id of the call that this is the result of."""
    name: str | None = None
    """Speaker, or on a tool turn the tool's name."""
    generation: Generation | None = None
    trained: bool = True
    """False keeps an assistant turn as context only, for example another model's words."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise DataError(f"role is {self.role!r}; legal roles are {', '.join(ROLES)}")
        if self.role != "assistant" and (self.thinking or self.tool_calls or self.generation):
            raise DataError(f"a {self.role!r} message has thinking or tool calls; only 'assistant'")


@dataclass(frozen=True, kw_only=True, slots=True)
class AcceptedCall:
    """A right answer with alternatives: any of the listed values is right for an argument.

    Source: the `possible_answer` files of the Berkeley Function Calling Leaderboard, where an
    empty string among the values says that the argument may be left out.
    """

    name: str
    arguments: Mapping[str, tuple[Any, ...]]
    optional: frozenset[str] = frozenset()
    """Arguments that may be left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One conversation to learn from or to be measured on."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """Tools offered, each `{"type": "function", "function": {...}}`, the schema untouched."""
    id: str = ""
    source: str = ""
    """Where it was read, `file:line`, for messages and for run.json."""
    accepted: tuple[AcceptedCall, ...] | None = None
    """Right calls for the turn after the last message; None: the last assistant turn's own."""

    def __post_init__(self) -> None:
        if not self.messages:
            raise DataError(f"{self.source or 'example'}: no messages")

    @property
    def tool_names(self) -> tuple[str, ...]:
        """Names of the tools offered, in order."""
        return tuple(str(tool["function"]["name"]) for tool in self.tools)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """Two answers to one prompt, the first better than the second."""

    prompt: tuple[Message, ...]
    chosen: Message
    rejected: Message
    tools: tuple[Mapping[str, Any], ...] = ()
    id: str = ""
    source: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One answer to one prompt, and whether it was good."""

    prompt: tuple[Message, ...]
    completion: Message
    good: bool
    tools: tuple[Mapping[str, Any], ...] = ()
    id: str = ""
    source: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """A row of token ids as the model serves them, and which of them are trained.

    All three tuples have the row's length T. Labels are not shifted: the model shifts them.
    """

    ids: tuple[int, ...]
    trained: tuple[bool, ...]
    sections: tuple[Section | None, ...]
    """What each token is for; None for everything the model does not say itself."""
    source: str = ""
    """The example's `source`, so that a message about this row can name its file and line."""

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.trained) == len(self.sections):
            raise DataError(
                f"{self.source}: {len(self.ids)} ids, {len(self.trained)} flags and "
                f"{len(self.sections)} sections; the three must be of one length"
            )

    @property
    def length(self) -> int:
        """Tokens of the row."""
        return len(self.ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class PairTokens:
    """A `Preference` as a model sees it: one prompt, and two answers without it.

    An answer is every token that the model has to produce, its stop included.
    """

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("prompt", "chosen", "rejected"):
            if not getattr(self, name):
                raise DataError(f"{self.source or 'pair'}: {name} has no tokens")
        if self.chosen == self.rejected:
            raise DataError(f"{self.source or 'pair'}: chosen and rejected are the same tokens")

    @property
    def length(self) -> int:
        """Tokens of the prompt and the longer answer."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True, kw_only=True, slots=True)
class VerdictTokens:
    """A `Verdict` as a model sees it; the answer is as in `PairTokens`."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    good: bool
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("prompt", "completion"):
            if not getattr(self, name):
                raise DataError(f"{self.source or 'verdict'}: {name} has no tokens")

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """A row that could not be read, with the one line that tells the user why."""

    source: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One undigested row of a data file."""

    source: str
    """`file:line`."""
    data: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None
    """Why the row does not parse; `data` is empty then."""
