"""The answers and prompts of an item: texts, messages or lists of messages, as turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.feedback.traces import Turns, lead
from agent_finetune.feedback.words import answer_key, says
from agent_finetune.readers.chat import as_message, as_turns, shown
from agent_finetune.records import Message, Role


def as_sides(values: Sequence[Any], names: Sequence[str]) -> tuple[Turns, Turns]:
    """Chosen and rejected as turns.

    Raises:
        DataError: One is a text and the other a trace of several answers: the text could stand
            for the first of them or for the last.
    """
    chosen, rejected = (as_answer(v, name) for v, name in zip(values, names, strict=True))
    for value, own, other in ((values[0], chosen, rejected), (values[1], rejected, chosen)):
        answers = sum(turn.role == "assistant" for turn in other)
        if isinstance(value, str) and len(own) == 1 and answers > 1:
            raise DataError(
                f"{shown(value)} could stand for the first or the last of {answers} answers of the "
                "other side; write both sides as lists of messages"
            )
    return chosen, rejected


def with_lead(prompt: Turns | None, *answers: Turns) -> tuple[Turns | None, list[Turns]]:
    """The prompt, made longer by the turns that every answer begins with, and the answers.

    Answers that repeat the prompt, as in TRL's implicit prompts, do not repeat it here.
    """
    if prompt and all(same_turns(answer[: len(prompt)], prompt) for answer in answers):
        answers = tuple(answer[len(prompt) :] for answer in answers)
    leads = [lead(answer)[0] for answer in answers]
    if not all(same_turns(leads[0], other) for other in leads):
        raise DataError("the answers begin with different turns; they answer different prompts")
    if not all(len(answer) > len(leads[0]) for answer in answers):
        raise DataError("an answer holds no assistant turn")
    if prompt is None and leads[0] and leads[0][0].role == "tool":
        raise DataError("begins with a tool's result, and the call before it is not there")
    whole = (prompt or ()) + leads[0] if prompt is not None or leads[0] else None
    return whole, [answer[len(leads[0]) :] for answer in answers]


def same_turns(one: Turns, other: Turns) -> bool:
    """Whether two traces say the same, turn by turn."""
    return [answer_key(turn) for turn in one] == [answer_key(turn) for turn in other]


def as_prompt(value: object, what: str) -> Turns:
    """What was asked: a text of the user, or messages.

    Raises:
        DataError: There is nothing in it.
    """
    turns = as_answer(value, what, "user")
    if not turns or not any(map(says, turns)):
        raise DataError(
            f"{what} is {shown(value)}; expected at least one message that says something"
        )
    return turns


def as_answer(value: object, what: str, role: Role = "assistant") -> Turns:
    """A text, a message or a list of messages; messages may be records already."""
    if isinstance(value, Message):
        return (value,)
    if not isinstance(value, list | tuple):
        return as_turns(value, what, role)
    return tuple(
        turn if isinstance(turn, Message) else _message(turn, f"{what}[{i}]")
        for i, turn in enumerate(value)
    )


def _message(value: object, what: str) -> Message:
    if not isinstance(value, Mapping):
        raise DataError(f"{what} is {shown(value)}; expected a message")
    return as_message(value, what)
