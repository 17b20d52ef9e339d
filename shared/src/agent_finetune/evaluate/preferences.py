"""How likely a model finds whole answers: what preferences are measured by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel

from agent_finetune.collate import IGNORED, pad
from agent_finetune.contracts import LoadedModel
from agent_finetune.errors import DataError
from agent_finetune.generate import answering
from agent_finetune.records import Tokens

Answer = tuple[Sequence[int], Sequence[int]]
"""Ids of a prompt, and of an answer behind it; neither is empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogProbability:
    """How likely one answer is behind its prompt."""

    total: float
    """Sum over its tokens, in nats; 0 is certain."""
    tokens: int

    @property
    def mean(self) -> float:
        """Nats per token, with which answers of different lengths are compared."""
        return self.total / self.tokens


def log_probabilities(
    loaded: LoadedModel,
    prompts_and_completions: Sequence[Answer],
    *,
    batch_size: int = 8,
    adapter: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[LogProbability]:
    """Log-probability of every answer, as the model serves: no dropout, no autocast.

    The softmax is taken in float32 and summed in float64. The model is left as it was, which of
    its weights train and which of its modules are in training mode included.

    Args:
        loaded: Model, with or without an adapter.
        prompts_and_completions: What is measured.
        batch_size: Answers of a forward pass; those of like length go together.
        adapter: False switches the adapter off and measures the base.
        on_progress: Called with the number of answers done and of all.

    Returns:
        One for each answer, in the order given.

    Raises:
        DataError: A prompt or an answer is empty.
    """
    rows = [_row(place, *answer) for place, answer in enumerate(prompts_and_completions)]
    order = sorted(range(len(rows)), key=lambda place: -rows[place].length)
    found: dict[int, LogProbability] = {}
    off = nullcontext() if adapter else _without_adapter(loaded.model)
    with answering(loaded.model), off, torch.inference_mode():
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            totals = _totals(loaded, [rows[place] for place in places])
            for place, total in zip(places, totals, strict=True):
                found[place] = LogProbability(total=total, tokens=sum(rows[place].trained))
            if on_progress is not None:
                on_progress(len(found), len(rows))
    return [found[place] for place in range(len(rows))]


def preference_accuracy(
    chosen: Sequence[LogProbability], rejected: Sequence[LogProbability]
) -> float:
    """Share of pairs whose chosen answer is likelier per token than the rejected; NaN for none."""
    right = [good.mean > bad.mean for good, bad in zip(chosen, rejected, strict=True)]
    return sum(right) / len(right) if right else math.nan


def _row(place: int, prompt: Sequence[int], completion: Sequence[int]) -> Tokens:
    if not prompt or not completion:
        raise DataError(
            f"answer {place}: {len(prompt)} prompt tokens and {len(completion)} answer tokens; "
            "both need at least one"
        )
    ids = (*prompt, *completion)
    trained = (False,) * len(prompt) + (True,) * len(completion)
    return Tokens(ids=ids, trained=trained, sections=(None,) * len(ids), source=f"answer {place}")


def _totals(loaded: LoadedModel, rows: Sequence[Tokens]) -> list[float]:
    batch = pad(rows, pad_id=0)
    targets = batch["labels"][:, 1:].to(loaded.device)  # (B, T - 1); what position t must predict
    # The head runs only on the columns in which some row predicts a token of its answer.
    columns = (targets != IGNORED).any(0).nonzero()[:, 0]
    targets = targets[:, columns]
    logits = loaded.model(
        input_ids=batch["input_ids"].to(loaded.device),
        attention_mask=batch["attention_mask"].to(loaded.device),
        logits_to_keep=columns,
        use_cache=False,
    ).logits
    totals = []
    for scores, wanted in zip(logits, targets, strict=True):  # one row at a time is widened
        scored = wanted != IGNORED
        nats = F.cross_entropy(scores[scored].float(), wanted[scored], reduction="none")
        totals.append(-float(nats.double().sum()))
    return totals


@contextmanager
def _without_adapter(model: Any) -> Iterator[None]:
    """Switch an adapter off; PEFT would switch it on again as one that trains."""
    if not isinstance(model, PeftModel):
        yield
        return
    trains = [(weight, weight.requires_grad) for weight in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for weight, flag in trains:
            weight.requires_grad_(flag)
