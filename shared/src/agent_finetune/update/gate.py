"""Whether a trained adapter may go live: what is measured before and after, and the decision.

Everything is measured in nats per token under both adapters, on the same token ids, so that the
decision needs nothing but two sets of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from agent_finetune.config import check_at_least


@dataclass(frozen=True, kw_only=True, slots=True)
class GateConfig:
    """What an update has to hold to."""

    max_forgetting: float = 0.03
    """Most that the loss on the base's own answers may rise in one update, as a share of it."""
    max_drift: float = 0.15
    """Most that it may rise over all updates together."""
    slack: float = 0.02
    """Nats per token by which the trusted set may get worse: what chance alone does."""

    def __post_init__(self) -> None:
        for name in ("max_forgetting", "max_drift", "slack"):
            check_at_least(name, getattr(self, name), 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Mean log-probability per token of what is liked and what is not, item by item.

    A pair has both; a good or a demonstrated answer has only `liked`, a bad one only `disliked`.
    """

    liked: tuple[float | None, ...] = ()
    disliked: tuple[float | None, ...] = ()

    @property
    def margins(self) -> tuple[float, ...]:
        """How much likelier the liked is than the disliked; an absent side counts as 0."""
        return tuple(
            (good or 0.0) - (bad or 0.0)
            for good, bad in zip(self.liked, self.disliked, strict=True)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Measures:
    """One adapter's numbers."""

    trained: Scores
    """On what was trained."""
    general: float
    """Loss on the base's own answers to general prompts."""
    trusted: Scores | None = None
    """On held-out feedback whose labels are trusted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One condition, with the numbers it was decided on."""

    name: str
    before: float
    after: float
    limit: float
    passed: bool

    def __str__(self) -> str:
        word = "ok" if self.passed else "FAILED"
        return f"{self.name}: {self.before:.4f} -> {self.after:.4f} (limit {self.limit:.4f}) {word}"


def decide(
    before: Measures, after: Measures, base_loss: float, config: GateConfig
) -> tuple[Check, ...]:
    """Every condition, each with its numbers; an adapter goes live when all have passed.

    Args:
        before: Of the version that is live.
        after: Of the candidate.
        base_loss: `general` of the base without any adapter.
        config: The limits.
    """
    checks = [_at_least("margin on what was trained", before.trained, after.trained, 0.0)]
    liked = [
        _mean([value for value in scores.liked if value is not None])
        for scores in (before.trained, after.trained)
    ]
    if not math.isnan(liked[0]):
        # Preference losses are content with making both sides unlikely.
        checks.append(_check("likelihood of what was liked", *liked, limit=liked[0]))
    for name, reference, share in (
        ("loss on general answers", before.general, config.max_forgetting),
        ("loss on general answers since the base", base_loss, config.max_drift),
    ):
        limit = reference * (1 + share)
        passed = after.general <= limit  # not a number fails, too
        checks.append(
            Check(name=name, before=reference, after=after.general, limit=limit, passed=passed)
        )
    if before.trusted is not None and after.trusted is not None:
        checks.append(
            _at_least("margin on the trusted set", before.trusted, after.trusted, config.slack)
        )
    return tuple(checks)


def _at_least(name: str, before: Scores, after: Scores, slack: float) -> Check:
    start = _mean(before.margins)
    return _check(name, start, _mean(after.margins), limit=start - slack)


def _check(name: str, before: float, after: float, *, limit: float) -> Check:
    return Check(name=name, before=before, after=after, limit=limit, passed=after >= limit)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
