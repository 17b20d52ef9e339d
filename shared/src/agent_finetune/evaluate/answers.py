"""What a model says to histories, as plain values: from a local model, or from wherever else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent_finetune.contracts import LoadedModel
from agent_finetune.errors import RenderError
from agent_finetune.generate import complete
from agent_finetune.records import Message
from agent_finetune.render import Renderer
from agent_finetune.toolcalls import ParsedTurn

PROMPT_END = 300
"""Characters of the prompt's end that a report shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One turn to be made."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()
    source: str = ""
    """For messages about it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What was said, and what it was taken apart into."""

    said: str
    """As it was generated, markup included."""
    turn: ParsedTurn
    tokens: int | None = None
    cut_off: bool = False
    """It reached the most tokens there may be before it ended."""
    prompt_tokens: int | None = None
    prompt_end: str = ""
    """The prompt's last characters, markup included."""


def answers(
    loaded: LoadedModel,
    asked: Sequence[Asked],
    *,
    batch_size: int = 16,
    max_new_tokens: int = 256,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """Let a model make turns, always taking the likeliest token.

    Args:
        loaded: Model, with or without an adapter, and tokenizer.
        asked: What to answer.
        batch_size: Turns generated at once.
        max_new_tokens: Most tokens of an answer.
        on_progress: Called with the number of answers done and of all.

    Raises:
        RenderError: The chat template cannot express a history; the message names it.
    """
    renderer = Renderer(loaded.tokenizer)
    prompts = [_prompt_ids(renderer, one) for one in asked]
    completions = complete(
        loaded,
        prompts,
        stop_ids=renderer.stop_ids,
        stop_strings=renderer.stop_strings,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        on_progress=on_progress,
    )
    found = []
    for one, prompt, ids in zip(asked, prompts, completions, strict=True):
        said = loaded.tokenizer.decode(list(ids))
        ended = any(id_ in renderer.stop_ids for id_ in ids[-1:])
        ended = ended or any(stop in said for stop in renderer.stop_strings)
        found.append(
            Answer(
                said=said,
                turn=renderer.parse(ids, one.tools),
                tokens=len(ids),
                cut_off=len(ids) >= max_new_tokens and not ended,
                prompt_tokens=len(prompt),
                prompt_end=loaded.tokenizer.decode(list(prompt[-PROMPT_END:]))[-PROMPT_END:],
            )
        )
    return found


def _prompt_ids(renderer: Renderer, asked: Asked) -> tuple[int, ...]:
    try:
        return renderer.prompt_ids(renderer.said_messages(asked.messages), asked.tools)
    except RenderError as error:
        raise RenderError(f"{asked.source or 'example'}: {error}") from error
