"""What a base says of its own accord: the measure of what an update makes it forget.

64 everyday prompts are answered by the base itself, once, and kept by its digest. How likely an
adapted model finds these answers says how far it has moved away from its base where it should
not have: with answers drawn at temperature 1, the rise of the loss estimates the divergence
KL(base || adapted) per token. It needs no data set, and works for any model. 64 other prompts, and
the base's answers to them, are what an update is held to while it trains.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeAlias

from agent_finetune.artifacts import write_json
from agent_finetune.contracts import Generation, Request
from agent_finetune.records import Message

Said: TypeAlias = "tuple[tuple[int, ...], tuple[int, ...]]"
"""Ids of a prompt, and of what was said behind it."""

Purpose = Literal["general", "retention"]

_TOKENS = 48
"""Most tokens of an answer."""


def prompts(purpose: Purpose) -> tuple[str, ...]:
    """64 everyday prompts: to measure with, or others to hold a model to while it learns."""
    text = files(__package__).joinpath(f"{purpose}_prompts.txt").read_text("utf-8")
    return tuple(text.splitlines())


def base_answers(
    purpose: Purpose, revision: str, ask: Callable[[Request], Generation], cache_dir: Path
) -> Sequence[Said]:
    """The base's answers, from the cache or, the first time, asked for.

    Args:
        purpose: Which prompts.
        revision: Digest of the base.
        ask: Begins to generate with the base itself, no adapter.
        cache_dir: Where answers are kept.
    """
    name = hashlib.sha256(f"{revision}\n{_TOKENS}\n{prompts(purpose)}".encode()).hexdigest()[:32]
    path = cache_dir / "general" / f"{name}.json"
    if path.is_file():
        kept = json.loads(path.read_text("utf-8"))
        return [(tuple(prompt), tuple(said)) for prompt, said in kept]
    asked = [
        ask(
            Request(
                messages=[Message(role="user", text=text)],
                max_new_tokens=_TOKENS,
                temperature=1.0,
                seed=number,
            )
        )
        for number, text in enumerate(prompts(purpose))
    ]
    made = [generation.result().message.generation for generation in asked]
    answers = [(each.prompt_ids, each.ids) for each in made if each is not None]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, answers)
    return answers
