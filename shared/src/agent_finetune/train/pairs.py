"""Rows of each objective: which kind they are, and what TRL's trainers read of them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset

from agent_finetune.config import Objective
from agent_finetune.errors import DataError
from agent_finetune.records import Example, PairTokens, Tokens, VerdictTokens

KINDS: dict[Objective, type] = {"sft": Tokens, "dpo": PairTokens, "kto": VerdictTokens}
"""What the rows of an objective are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """What a run learns from and is measured on, as ids."""

    train: Sequence[Any]
    evaluation: Sequence[Any]
    eval_examples: Sequence[Example] = ()
    """Examples whose tool calls can be generated and scored."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What run.json says of them."""


def check(objective: Objective, rows: Sequence[Any]) -> None:
    """Refuse rows that an objective cannot learn from.

    Raises:
        DataError: One is of another kind, or there are too few.
    """
    kind = KINDS[objective]
    for place, row in enumerate(rows):
        if not isinstance(row, kind):
            raise DataError(
                f"row {place} is of the type {type(row).__name__}; objective {objective!r} takes "
                f"{kind.__name__}"
            )
    if objective == "kto" and len(rows) == 1:
        raise DataError(
            "1 row, and objective 'kto' needs at least 2: each prompt is also measured with the "
            "answer of another row"
        )


def digest(rows: Sequence[Tokens | PairTokens | VerdictTokens]) -> str:
    """sha256 over all that training sees of rows, in order; where they were read is left out."""
    total = hashlib.sha256()
    for row in rows:
        if isinstance(row, Tokens):
            total.update(repr(row.ids).encode())
            total.update(bytes(row.trained))
        elif isinstance(row, PairTokens):
            total.update(repr((row.prompt, row.chosen, row.rejected)).encode())
        else:
            total.update(repr((row.prompt, row.completion, row.good)).encode())
    return f"sha256:{total.hexdigest()}"


def pair_dataset(rows: Sequence[PairTokens]) -> Dataset:
    """Pairs as `DPOTrainer` has them after its own preparation."""
    return Dataset.from_dict(
        {
            "prompt_ids": [list(row.prompt) for row in rows],
            "chosen_ids": [list(row.chosen) for row in rows],
            "rejected_ids": [list(row.rejected) for row in rows],
        }
    )


def verdict_dataset(rows: Sequence[VerdictTokens], *, batch_size: int, seed: int) -> Dataset:
    """Verdicts as `KTOTrainer` has them after its own preparation.

    Its term for the distance to the reference (KL in arXiv 2402.01306) is measured on prompts with
    answers of other rows: answers are rotated by one within each batch, so that a batch has the
    same answers twice. It therefore deals out rows in order, and they are shuffled here, once.

    Args:
        rows: At least two; a last batch of one row borrows the answer of the batch before.
        batch_size: Rows per forward pass.
        seed: Of the shuffle.
    """
    rows = random.Random(seed).sample(list(rows), len(rows))
    answers = [list(row.completion) for row in rows]
    others: list[list[int]] = []
    for start in range(0, len(rows), batch_size):
        batch = answers[start : start + batch_size]
        others += [answers[start - 1]] if len(batch) == 1 else [batch[-1], *batch[:-1]]
    return Dataset.from_dict(
        {
            "prompt_ids": [list(row.prompt) for row in rows],
            "completion_ids": answers,
            "KL_completion_ids": others,
            "label": [row.good for row in rows],
        }
    )


def weights(rows: Sequence[VerdictTokens]) -> tuple[float, float]:
    """Weights of good and of bad rows, with which both kinds count the same in total.

    Source: equation 8 of arXiv 2402.01306, its lower bound. The rarer kind gets more, the other 1.
    """
    good = sum(row.good for row in rows)
    bad = len(rows) - good
    if not good or not bad:
        return 1.0, 1.0
    return max(1.0, bad / good), max(1.0, good / bad)
