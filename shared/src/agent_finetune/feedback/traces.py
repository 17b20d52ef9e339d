"""Traces of several turns, cut so that a completion holds only what the model said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from agent_finetune.errors import DataError
from agent_finetune.feedback.words import answer_key, says
from agent_finetune.records import Message

Turns = tuple[Message, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parting:
    """Where two traces part: at two assistant turns behind one prompt."""

    prompt: Turns
    chosen: Message
    rejected: Message
    later: Turns
    """What follows the chosen turn, up to the last assistant turn; empty when there is none."""
    dropped: int
    """Assistant turns that follow the rejected one."""


def part(prompt: Turns, chosen: Turns, rejected: Turns) -> Parting:
    """Find the first assistant turn that differs; everything before it is the prompt.

    Raises:
        DataError: No turn differs, one trace is the beginning of the other, or they differ first
            in a turn that the model did not say.
    """
    pairs = zip_longest(chosen, rejected)
    for i, (better, worse) in enumerate(pairs):
        if better is None or worse is None:
            longer = "rejected" if better is None else "chosen"
            raise DataError(f"{longer} goes on where the other ends, and no turn before differs")
        if answer_key(better) == answer_key(worse):
            continue
        if not better.role == worse.role == "assistant":
            raise DataError(
                f"chosen and rejected differ first at their turn {i}, {better.role!r} and "
                f"{worse.role!r}, which the model did not say"
            )
        return Parting(
            prompt=prompt + chosen[:i],
            chosen=better,
            rejected=worse,
            later=_to_last_answer(chosen[i + 1 :]),
            dropped=sum(turn.role == "assistant" for turn in rejected[i + 1 :]),
        )
    raise DataError("chosen and rejected are the same; there is nothing to prefer")


def steps(prompt: Turns, answer: Turns) -> Iterator[tuple[Turns, Message]]:
    """Every assistant turn of a trace, each with all that stands before it."""
    for i, turn in enumerate(answer):
        if turn.role == "assistant":
            yield prompt + answer[:i], turn


def context(turns: Sequence[Message]) -> Turns:
    """The same turns, none of them trained."""
    return tuple(replace(t, trained=False) if t.role == "assistant" else t for t in turns)


def lead(turns: Turns) -> tuple[Turns, Turns]:
    """The turns before the first assistant turn, and the rest."""
    first = next((i for i, t in enumerate(turns) if t.role == "assistant"), len(turns))
    return turns[:first], turns[first:]


def _to_last_answer(turns: Turns) -> Turns:
    ends = [i for i, turn in enumerate(turns) if turn.role == "assistant" and says(turn)]
    return turns[: ends[-1] + 1] if ends else ()
