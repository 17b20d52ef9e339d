"""What keeps an adapter from changing the model where nothing was to be learned.

At every step some answers that the base gave of its own accord are run twice, with the adapter and
without, and the divergence of the two distributions is added to the loss:

    weight * mean over the answers' tokens of KL(base || adapted)

The distribution says more than the one token that was drawn: a few hundred tokens are enough to
hold a model to its base on prompts that it has never seen. Source: knowledge distillation from the
model itself, as in "Learning without Forgetting" (arXiv 1606.09282).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from agent_finetune import collate
from agent_finetune.collate import IGNORED
from agent_finetune.contracts import Retention
from agent_finetune.records import Tokens


class Keeper:
    """Adds the divergence from the base to a loss.

    Args:
        retention: Answers of the base, and how much they count.
        pad_id: Padding token.
        packed: Lay rows end to end, as the model's attention wants while it trains so.
        seed: Of the order in which answers are taken.
    """

    def __init__(self, retention: Retention, *, pad_id: int, packed: bool, seed: int) -> None:
        self._weight = retention.weight
        self._size = min(retention.rows_per_step, len(retention.rows))
        self._pad_id = pad_id
        self._packed = packed
        self._order = _endless(retention.rows, seed)

    def loss(self, model: Any, adapted: Any) -> torch.Tensor:
        """The divergence on the next answers, weighted; a scalar in float32.

        Args:
            model: What is trained, as the trainer calls it.
            adapted: The `peft.PeftModel` in it, whose adapter can be switched off.
        """
        rows = list(itertools.islice(self._order, self._size))
        batch = collate.pack(rows) if self._packed else collate.pad(rows, pad_id=self._pad_id)
        inputs: dict[str, Any] = {
            name: value.to(adapted.device) if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }
        labels = inputs.pop("labels")[:, 1:]
        # The head runs only on the columns in which some row has a token of its answer.
        columns = (labels != IGNORED).any(0).nonzero()[:, 0]
        scored = labels[:, columns] != IGNORED
        inputs |= {"logits_to_keep": columns, "use_cache": False}
        with torch.no_grad(), adapted.disable_adapter():
            wanted = adapted(**inputs).logits[scored].float().log_softmax(-1)
        found = model(**inputs).logits[scored].float().log_softmax(-1)
        return self._weight * F.kl_div(found, wanted, log_target=True, reduction="batchmean")


def _endless(rows: Sequence[Tokens], seed: int) -> Iterator[Tokens]:
    """All rows in a random order, then all again in another."""
    draw = random.Random(seed)
    while True:
        yield from draw.sample(list(rows), len(rows))
