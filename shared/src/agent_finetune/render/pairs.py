"""Preferences and verdicts to ids: the prompt as it was served, and whole answers behind it.

Here no section of an answer is left out: a preference is about all that the model said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent_finetune.errors import DataError, RenderError
from agent_finetune.records import Message, PairTokens, Preference, Verdict, VerdictTokens
from agent_finetune.render.steps import Step

Answer = Callable[[Sequence[Message], Message, Sequence[Mapping[str, Any]]], Step]
"""Prompt, answer and tools to ids; a recorded answer has the prompt that it was recorded with."""


def pair(
    preference: Preference, answer: Answer, decode: Callable[[Sequence[int]], str]
) -> PairTokens:
    """A preference as ids.

    Where an answer was recorded, the pair has the prompt that it was recorded with, because what
    is rendered from the messages may be the same text in other tokens.

    Args:
        preference: Its prompt ends where the answers begin.
        answer: Renders an answer.
        decode: Ids to text, special tokens included.

    Raises:
        RenderError: The template cannot express it.
        DataError: Both answers are the same, or stand behind different prompts.
    """
    where = preference.source or preference.id or "preference"
    chosen = _step(preference, "chosen", preference.chosen, answer)
    rejected = _step(preference, "rejected", preference.rejected, answer)
    prompts = [decode(step.prompt) for step in (chosen, rejected)]
    if prompts[0] != prompts[1]:
        raise DataError(
            f"{where}: chosen stands behind a prompt of {len(prompts[0])} characters that ends "
            f"with {prompts[0][-40:]!r}, rejected behind one of {len(prompts[1])} that ends with "
            f"{prompts[1][-40:]!r}; give the messages and tools that the answer was recorded with"
        )
    if decode(chosen.ids) == decode(rejected.ids):
        raise DataError(f"{where}: chosen and rejected are both {decode(chosen.ids)!r}")
    served = rejected if preference.rejected.generation else chosen
    return PairTokens(prompt=served.prompt, chosen=chosen.ids, rejected=rejected.ids, source=where)


def verdict(judged: Verdict, answer: Answer) -> VerdictTokens:
    """A judged answer as ids.

    Args:
        judged: Its prompt ends where the answer begins.
        answer: Renders an answer.

    Raises:
        RenderError: The template cannot express it.
        DataError: It is no assistant turn, or holds no token.
    """
    step = _step(judged, "completion", judged.completion, answer)
    return VerdictTokens(
        prompt=step.prompt,
        completion=step.ids,
        good=judged.good,
        source=judged.source or judged.id or "verdict",
    )


def _step(record: Preference | Verdict, name: str, turn: Message, answer: Answer) -> Step:
    where = f"{record.source or record.id or type(record).__name__.lower()}: {name}"
    if turn.role != "assistant":
        raise DataError(f"{where} has the role {turn.role!r}; only 'assistant' turns are trained")
    try:
        return answer(record.prompt, turn, record.tools)
    except RenderError as error:
        raise RenderError(f"{where}: {error}") from error
