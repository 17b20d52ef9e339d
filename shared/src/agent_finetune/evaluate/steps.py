"""The steps of an example: the turns that a model has to make, and what would be right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from agent_finetune import metrics
from agent_finetune.errors import DataError
from agent_finetune.records import AcceptedCall, Example, Message

Steps = Literal["last", "all"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One assistant turn to be made, and what would be right."""

    example: Example
    place: int
    """Number of messages before it."""
    calls: tuple[AcceptedCall, ...]
    text: str | None
    """The right words, where words are wanted and known."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The right history."""
        return self.example.messages[: self.place]


def steps_of(example: Example, which: Steps) -> Iterator[Step]:
    """The last step of an example, or all of them, each after the right history.

    Right is what `Example.accepted` says, else the calls of the assistant turn, else its words.

    Raises:
        DataError: The example says nowhere what is right.
    """
    places = [i for i, m in enumerate(example.messages) if m.role == "assistant" and m.trained]
    end = len(example.messages)
    last = end - 1 if example.messages[-1].role == "assistant" else end
    if example.accepted is None and not places:
        raise DataError(
            f"{example.source or 'example'}: no assistant turn and no accepted calls, so nothing "
            "says what is right"
        )
    if example.accepted is not None:
        places = [place for place in places if place < last] + [last]
    for place in places if which == "all" else places[-1:]:
        if place == last and example.accepted is not None:
            calls = example.accepted
        else:
            calls = tuple(map(metrics.accepted_call, example.messages[place].tool_calls))
        text = example.messages[place].text if place < end and not calls else None
        yield Step(example=example, place=place, calls=calls, text=text)
