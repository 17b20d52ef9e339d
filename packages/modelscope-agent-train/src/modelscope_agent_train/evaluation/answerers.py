"""Whoever answers: a model in this process is one, an endpoint another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent_finetune.contracts import LoadedModel
from agent_finetune.evaluate import Answer, Asked, answers

Progress = Callable[[int, int], None]
"""Called with the number of answers done and of all."""


class Answerer(Protocol):
    """Makes turns. The same history always gets the same turn."""

    @property
    def name(self) -> str:
        """For reports."""
        ...

    def answer(
        self, asked: Sequence[Asked], *, on_progress: Progress | None = None
    ) -> list[Answer]:
        """One turn for each history, in their order."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalAnswerer:
    """A loaded model, greedy, through its chat template as the engine serves it."""

    loaded: LoadedModel
    batch_size: int = 16
    max_new_tokens: int = 512

    @property
    def name(self) -> str:
        config = self.loaded.config
        return f"{config.model} with {config.adapter}" if config.adapter else config.model

    def answer(
        self, asked: Sequence[Asked], *, on_progress: Progress | None = None
    ) -> list[Answer]:
        return answers(
            self.loaded,
            asked,
            batch_size=self.batch_size,
            max_new_tokens=self.max_new_tokens,
            on_progress=on_progress,
        )
