"""How a model's forward pass is run for rows that are each somewhere else in their answer.

`FlatRunner` runs them all in one pass and is taken wherever it is seen to give what the model
gives; `SoloRunner` runs one after another and works for the rest.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from agent_finetune.attention import only_attends, trying, windows_arrive
from agent_finetune.engine import flat
from agent_finetune.engine.memory import Memory
from agent_finetune.engine.solo import SoloMemory
from agent_finetune.errors import ModelError


class Bank(Protocol):
    """Adapters that speak for the tokens they are told (`engine.lora`)."""

    def using(
        self, segments: Sequence[tuple[str | None, int]]
    ) -> AbstractContextManager[object]: ...


@dataclass(frozen=True, slots=True)
class Span:
    """A row's part in a pass."""

    memory: Any
    """What `Runner.memory` made."""
    ids: Sequence[int]
    """New tokens, at least one."""
    adapter: str | None = None
    """Key in the bank."""


class Runner(Protocol):
    """Runs new tokens of rows, and lets each row's memory grow by them."""

    in_pieces: bool
    """Whether a row's tokens may come in several passes, and its memory be gone on with."""

    def memory(self) -> Any:
        """An empty memory for a new row."""
        ...

    def forward(self, spans: Sequence[Span], bank: Bank) -> torch.Tensor:
        """Logits behind each row's last token, (rows, vocabulary)."""
        ...


class FlatRunner:
    """All rows in one pass, see `engine.flat`; the model's attention must be switched to it."""

    in_pieces = True

    def __init__(self, model: Any) -> None:
        self._model = model

    def memory(self) -> Memory:
        return Memory()

    def forward(self, spans: Sequence[Span], bank: Bank) -> torch.Tensor:
        device = self._model.device
        ids: list[int] = []
        places: list[int] = []
        ends: list[int] = []
        for span in spans:
            held = len(span.memory.ids)
            ids += span.ids
            places += range(held, held + len(span.ids))
            ends.append(len(ids) - 1)
        with bank.using([(span.adapter, len(span.ids)) for span in spans]):
            logits: torch.Tensor = self._model(
                input_ids=torch.tensor([ids], device=device),
                position_ids=torch.tensor([places], device=device),
                use_cache=False,
                logits_to_keep=torch.tensor(ends, device=device),
                rows=flat.Pass([(span.memory, len(span.ids)) for span in spans]),
            ).logits
        for span in spans:
            span.memory.commit(span.ids)
        return logits[0]


class SoloRunner:
    """One row after another, through the model's own cache."""

    def __init__(self, model: Any) -> None:
        self._model = model
        takes = inspect.signature(model.forward).parameters
        self._places = "position_ids" in takes
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        layers = DynamicCache(config=model.config).layers
        self._can_cut = all(type(layer) is DynamicLayer for layer in layers)
        self.in_pieces = _goes_on(self)

    def memory(self) -> SoloMemory:
        return SoloMemory(self._model.config, can_cut=self._can_cut)

    def forward(self, spans: Sequence[Span], bank: Bank) -> torch.Tensor:
        return torch.cat([self._one(span, bank) for span in spans])

    def _one(self, span: Span, bank: Bank) -> torch.Tensor:
        device = self._model.device
        held = len(span.memory.ids)
        places = torch.arange(held, held + len(span.ids), device=device)[None]
        with bank.using([(span.adapter, len(span.ids))]):
            output = self._model(
                input_ids=torch.tensor([list(span.ids)], device=device),
                past_key_values=span.memory.cache,
                use_cache=True,
                **({"position_ids": places} if self._places else {}),
                **self._last_only,
            )
        span.memory.commit(span.ids)
        logits: torch.Tensor = output.logits[:, -1]
        return logits


class NoBank:
    """The base alone."""

    def using(self, segments: Sequence[tuple[str | None, int]]) -> AbstractContextManager[None]:
        return nullcontext()


# Ids from the low middle of the vocabulary, where no special token has a role in the model.
_FIRST = (11, 12, 13, 14, 15)
_SECOND = (21, 22, 23, 24, 25, 26, 27, 28)


def pick(model: Any) -> Runner:
    """The runner for a model; found out by trying, and the model is left switched to it.

    Args:
        model: `transformers.PreTrainedModel` in evaluation mode.
    """
    if only_attends(model) and not _stretches(model) and _flat_is_right(model):
        flat.register()
        model.set_attn_implementation(flat.FLAT)
        return FlatRunner(model)
    return SoloRunner(model)


def _flat_is_right(model: Any) -> bool:
    """Whether a flat pass gives what the model gives, sliding windows included."""
    with torch.inference_mode():
        alone = _alone(model)
        try:
            with trying(model, flat.flat_attention) as windows:
                return _same_in_pieces(FlatRunner(model), alone) and windows_arrive(model, windows)
        except (TypeError, ValueError, AttributeError, ModelError):
            # The model does not take the arguments, or uses a feature that flat_attention has not.
            return False


def _stretches(model: Any) -> bool:
    """Whether the positions of a row hang on the longest row of its pass."""
    described = model.config.get_text_config().to_dict().get("rope_parameters") or {}
    kinds = [described, *(value for value in described.values() if isinstance(value, dict))]
    return any(kind.get("rope_type") in ("dynamic", "longrope") for kind in kinds)


def _alone(model: Any) -> list[torch.Tensor]:
    """Last logits of two rows as the model itself gives them."""
    rows = (_FIRST, _SECOND)
    passes = [model(input_ids=torch.tensor([row], device=model.device)) for row in rows]
    return [output.logits[0, -1].float() for output in passes]


def _same_in_pieces(runner: Runner, alone: Sequence[torch.Tensor]) -> bool:
    """Whether two rows, in one pass and in pieces, come out as each does alone."""
    one, other = runner.memory(), runner.memory()
    runner.forward([Span(one, _FIRST[:-1]), Span(other, _SECOND[:3])], NoBank())
    logits = runner.forward([Span(one, _FIRST[-1:]), Span(other, _SECOND[3:])], NoBank())
    return all(_alike(made, right) for made, right in zip(logits, alone, strict=True))


def _goes_on(runner: SoloRunner) -> bool:
    """Whether a row may be read in pieces: some layers with a state begin anew at every piece."""
    with torch.inference_mode():
        whole = runner.forward([Span(runner.memory(), _SECOND)], NoBank())[0]
        memory = runner.memory()
        runner.forward([Span(memory, _SECOND[:3])], NoBank())
        pieces = runner.forward([Span(memory, _SECOND[3:])], NoBank())[0]
    return _alike(pieces, whole)


def _alike(made: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether logits differ by no more than rounding in a short number format."""
    return bool(F.cosine_similarity(made.float(), right.float(), dim=0) >= 0.999)
