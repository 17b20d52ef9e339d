"""The loss on the right answers, fed to the model word by word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from agent_finetune.collate import IGNORED, pad
from agent_finetune.contracts import LoadedModel
from agent_finetune.generate import answering
from agent_finetune.metrics import perplexity
from agent_finetune.records import Tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """How likely the right tokens were."""

    loss: float
    """Mean negative log likelihood per trained token, in nats."""
    perplexity: float
    """exp(loss): among how many equally likely tokens the model was in doubt."""
    tokens: int
    """Trained tokens."""


def evaluate_loss(
    loaded: LoadedModel,
    rows: Sequence[Tokens],
    *,
    batch_size: int = 8,
    on_progress: Callable[[int, int], None] | None = None,
) -> Loss:
    """Loss and perplexity of the trained tokens, every token weighing the same.

    Args:
        loaded: Model, with or without an adapter, and tokenizer.
        rows: Rows of `Renderer.rows`.
        batch_size: Rows of a forward pass; rows of like length go together.
        on_progress: Called with the number of rows done and of all.

    Raises:
        DataError: There are no rows, or one has no trained token.
    """
    order = sorted(rows, key=lambda row: -len(row.ids))
    nats: list[float] = []
    tokens: list[int] = []
    with answering(loaded.model), torch.inference_mode():
        for start in range(0, len(order), batch_size):
            found = _nats(loaded, order[start : start + batch_size])
            nats.append(float(found.sum()))
            tokens.append(len(found))
            if on_progress is not None:
                on_progress(min(start + batch_size, len(order)), len(order))
    doubt = perplexity(nats, tokens)
    return Loss(loss=sum(nats) / sum(tokens), perplexity=doubt, tokens=sum(tokens))


def _nats(loaded: LoadedModel, rows: Sequence[Tokens]) -> torch.Tensor:
    """Negative log likelihood of each trained token of some rows, float64 (n,)."""
    batch = pad(rows, pad_id=0)
    labels = batch["labels"][:, 1:].to(loaded.device)  # position t predicts the token at t + 1
    scored = labels != IGNORED
    logits = loaded.model(
        input_ids=batch["input_ids"].to(loaded.device),
        attention_mask=batch["attention_mask"].to(loaded.device),
        use_cache=False,
    ).logits[:, :-1]
    # Only the scored positions are widened: all of them would be vocabulary x tokens floats.
    return F.cross_entropy(logits[scored].float(), labels[scored], reduction="none").double()
