"""What becomes of rows that are longer than the model may see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from agent_finetune.config import OverlongPolicy
from agent_finetune.errors import DataError
from agent_finetune.records import Example, Message, Tokens
from agent_finetune.render.steps import Step, join, runs


@dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    """Rows that fit, and what it cost."""

    rows: tuple[Tokens, ...]
    dropped: int = 0
    """Rows left out because they are too long; with `trim`, turns whose system message, tools,
    last user message and answer are too long by themselves."""
    trimmed: int = 0
    """Rows that lost their oldest turns."""


class Steps(Protocol):
    """Renders the trained assistant turns of an example, each with its own prompt."""

    def steps(self, example: Example) -> list[Step]: ...

    def said_messages(self, messages: Sequence[Message]) -> list[Message]: ...

    def rows(self, example: Example) -> tuple[Tokens, ...]: ...


def fit(renderer: Steps, example: Example, max_length: int, policy: OverlongPolicy) -> FitResult:
    """Render an example into rows of at most `max_length` tokens.

    `drop` leaves over-long rows out and `error` refuses them. `trim` first says a row's later
    turns in rows of their own, and takes from these the oldest turns, as few as will do: whole
    rounds first, then in the last round whole groups of a call and its results. The system
    message, the tools and the last user message stay. A turn recorded with its ids was
    generated behind one exact prompt and is never trimmed.

    Raises:
        RenderError: The template cannot express the example.
        DataError: Nothing to train, or a row is too long and the policy is `error`.
    """
    rows = renderer.rows(example)
    long = [row for row in rows if len(row.ids) > max_length]
    if not long:
        return FitResult(rows=rows)
    if policy == "error":
        raise DataError(
            f"{example.source or 'example'}: a row has {len(long[0].ids)} tokens; max_length is "
            f"{max_length} (overlong = drop or trim goes on without it)"
        )
    if policy == "drop":
        kept = tuple(row for row in rows if len(row.ids) <= max_length)
        return FitResult(rows=kept, dropped=len(long))
    return _trim(renderer, example, max_length)


def _trim(renderer: Steps, example: Example, max_length: int) -> FitResult:
    messages = tuple(renderer.said_messages(example.messages))
    pending = renderer.steps(replace(example, messages=messages))
    rows: list[Tokens] = []
    dropped = trimmed = 0
    cut = False
    while pending:
        run = [step for step in runs(pending)[0] if step.length <= max_length]
        if run:
            rows.append(join(run, example.source))
            trimmed += cut
            pending = pending[len(run) :]
            continue
        shorter = _shorter(renderer, replace(example, messages=messages), pending[0], max_length)
        if shorter is None:
            dropped += 1
            pending = pending[1:]
        else:
            messages, cut = shorter, True
            pending = renderer.steps(replace(example, messages=messages))
    return FitResult(rows=tuple(rows), dropped=dropped, trimmed=trimmed)


def _shorter(
    renderer: Steps, example: Example, late: Step, max_length: int
) -> tuple[Message, ...] | None:
    """The messages without the fewest oldest ones, so that the late turn fits; None: never."""
    turn = example.messages[late.place]
    if turn.generation:
        return None
    for context in _contexts(example.messages[: late.place]):
        said = tuple(
            replace(message, trained=False) if message.role == "assistant" else message
            for message in context
        )
        alone = renderer.steps(replace(example, messages=(*said, turn)))
        if alone[0].length <= max_length:
            return (*said, *example.messages[late.place :])
    return None


def _contexts(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """The same messages with ever fewer of the oldest."""
    roles = [message.role for message in messages]
    first = next((i for i, role in enumerate(roles) if role != "system"), len(roles))
    head = tuple(messages[:first])
    rounds = [
        place
        for place in range(first, len(roles))
        if roles[place] == "user" and (place == first or roles[place - 1] != "user")
    ]
    for place in rounds:
        if place > first:
            yield (*head, *messages[place:])
    groups = [place for place in range(first, len(roles)) if roles[place] == "assistant"]
    last = rounds[-1] if rounds else first
    asked = tuple(message for message in messages[last:] if message.role == "user")
    for place in [*groups, len(roles)]:
        if place > last + len(asked):
            yield (*head, *asked, *messages[place:])
