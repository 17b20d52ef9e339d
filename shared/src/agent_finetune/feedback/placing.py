"""Where an item belongs: in what order its marks are trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.feedback.finding import Finder, Found
from agent_finetune.feedback.shapes import Pair, PromptSource, Reward, Shape, Thumb
from agent_finetune.feedback.traces import Turns
from agent_finetune.records import Message


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """Where an item belongs, and its answers in the model's own words where it said them."""

    prompt: Turns
    tools: tuple[Mapping[str, Any], ...]
    answer: Turns
    """Chosen of a pair, else the answer that is judged or shown."""
    rejected: Turns
    id: str
    where: PromptSource


def place(shape: Shape, finder: Finder, *, alone: bool) -> Placed:
    """Find what an item is about.

    Its own prompt goes before an id, an id before a turn, a turn before the words of its answers.

    Args:
        shape: The item.
        finder: Where answers are looked for.
        alone: Whether it is the only item, which may then be about the last answer.

    Raises:
        DataError: What it is about is not there, or could be in several places.
    """
    chosen = shape.chosen if isinstance(shape, Pair) else shape.answer
    rejected = shape.rejected if isinstance(shape, Pair) else ()
    if shape.about.prompt is not None:
        if chosen is None or rejected is None:
            raise DataError("has a prompt, and not the answer to it that is meant")
        return Placed(
            prompt=shape.about.prompt,
            tools=shape.about.tools,
            answer=chosen,
            rejected=rejected,
            id=shape.about.id,
            where="given",
        )
    found = _find(shape, chosen, rejected, finder, alone)
    worse = (found.answer,) if rejected is None else _said(rejected, found.answer, finder)
    if chosen is None:
        chosen = (found.answer,)
    elif not worse or worse[0] is not found.answer:  # one side at most is what was said
        chosen = _said(chosen, found.answer, finder)
    return Placed(
        prompt=found.prompt,
        tools=found.tools,
        answer=chosen,
        rejected=worse,
        id=shape.about.id or found.id,
        where=found.where,
    )


def _find(
    shape: Shape, chosen: Turns | None, rejected: Turns | None, finder: Finder, alone: bool
) -> Found:
    if shape.about.id:
        return finder.by_id(shape.about.id)
    if shape.about.turn is not None:
        return finder.by_turn(shape.about.turn)
    # A correction was not said, wherever the same words may stand.
    for side in () if rejected is None else (rejected, chosen):
        if side and (found := finder.by_answer(side[0])):
            return found
    judged = isinstance(shape, Thumb | Reward) and chosen is not None
    if alone and not judged:
        return finder.last()
    told = "what it judges was not said" if judged else "which answer it is about is not said"
    raise DataError(f"{told}; give an id, a turn or a prompt")


def _said(turns: Turns, answer: Message, finder: Finder) -> Turns:
    """The same turns, the first as the model said it when it says the same."""
    if turns and finder.same(turns[0], answer):
        return (answer, *turns[1:])
    return turns
