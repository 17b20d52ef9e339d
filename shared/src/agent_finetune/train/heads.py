"""The output head where answers are scored, and nowhere else.

TRL's preference trainers ask a model for log-probabilities with its own fused head, which on a
GPU scores the tokens of the answers, tile by tile. On a CPU it scores every position: with an
agent's prompts that is most of the work of a small model. `AnswerHead` stands in for the model
there, and runs the model's own head through the public argument `logits_to_keep`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from agent_finetune.collate import IGNORED


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What TRL's losses read of a forward pass, float32 of shape (B, T - 1); 0 where not scored."""

    log_probs: torch.Tensor
    """Of the token that follows; the only one with a gradient."""
    entropy: torch.Tensor
    mean_logits: torch.Tensor
    is_top1: torch.Tensor
    """Whether the token that follows is the likeliest; bool."""


class AnswerHead:
    """A model that answers TRL's `fused_lm_head=True` calls by its own head.

    Args:
        model: Causal language model whose forward takes `logits_to_keep`, wrapped or not.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, *, labels: torch.Tensor, fused_lm_head: bool, **inputs: Any) -> Scored:
        """Score a batch.

        Args:
            labels: The ids of answers, -100 elsewhere, not shifted, shape (B, T).
            fused_lm_head: As TRL gives it.
            inputs: Arguments of the forward pass.
        """
        targets = labels[:, 1:]  # (B, T - 1); the token that position t must predict
        scored = targets != IGNORED
        columns = scored.any(0).nonzero()[:, 0]
        logits = self.model(**inputs | {"use_cache": False}, logits_to_keep=columns).logits
        scores = logits[scored[:, columns]].float()  # (answer tokens, vocabulary)
        wanted = targets[scored]
        known = scores.log_softmax(-1)
        chosen = known.gather(-1, wanted[:, None])[:, 0]
        with torch.no_grad():
            entropy = -(known.exp() * known).sum(-1)
            mean, top = scores.mean(-1), scores.argmax(-1) == wanted
        return Scored(
            log_probs=_placed(chosen, scored),
            entropy=_placed(entropy, scored),
            mean_logits=_placed(mean, scored),
            is_top1=_placed(top, scored),
        )


def _placed(values: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
    """Values of scored positions in a row-major order, back at their places."""
    return torch.zeros(scored.shape, dtype=values.dtype, device=values.device).masked_scatter(
        scored, values
    )
