"""Metrics for ModelScope's evaluation: perplexity that is one, and tool calls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from modelscope.metrics.base import Metric
from modelscope.metrics.ppl_metric import PplMetric

from agent_finetune import metrics
from agent_finetune.errors import ConfigError
from agent_finetune.records import ToolCall
from agent_finetune.toolcalls import parse
from modelscope_agent_train.registration import loaded

IGNORED = -100


class _Perplexity:
    """exp of the mean cross entropy over labelled tokens, each weighing the same."""

    key = "ppl"

    def __init__(self, *_: Any, **__: Any) -> None:
        self.nats = 0.0
        self.tokens = 0

    def add(self, outputs: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        """Count a batch.

        Args:
            outputs: `logits`, (B, T, vocabulary).
            inputs: `labels`, (B, T), not shifted, -100 where nothing is measured.
        """
        labels = torch.as_tensor(inputs["labels"])[:, 1:]  # position t predicts the token at t + 1
        scored = labels != IGNORED
        logits = outputs["logits"][:, :-1][scored]
        self.nats += F.cross_entropy(
            logits.float(), labels[scored].to(logits.device), reduction="sum"
        ).item()
        self.tokens += int(scored.sum())

    def evaluate(self) -> dict[str, float]:
        """The perplexity; not a number where nothing was labelled."""
        return {self.key: math.exp(self.nats / self.tokens) if self.tokens else math.nan}

    def merge(self, other: Any) -> None:
        """Add what another process counted."""
        self.nats += other.nats
        self.tokens += other.tokens

    def __getstate__(self) -> dict[str, Any]:
        return {"nats": self.nats, "tokens": self.tokens}  # not the trainer, which hangs on it

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class PerplexityMetric(_Perplexity, Metric):  # type: ignore[misc]
    """`agent-ppl`: perplexity of the labelled tokens of a causal language model."""

    key = "agent-ppl"


class StockPerplexity(_Perplexity, PplMetric):  # type: ignore[misc]
    """`ppl` of ModelScope, whose labels are shifted: its own scores token t by logits at t."""


class ToolMetric(Metric):  # type: ignore[misc]
    """`agent-tool-metric`: how well calls that a model wrote match those that were right.

    Measures are those of `agent_finetune.metrics`, under their names.
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        self.scores: list[metrics.StepScore] = []

    def add(self, outputs: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        """Score a batch of answers.

        Args:
            outputs: `preds`, the answers; each a text, or a list of calls with name and arguments.
            inputs: `tgts`, the right ones, of the same kinds; and `tools`, which were offered with
                each, where that is known.
        """
        answers, right = outputs["preds"], inputs["tgts"]
        if len(answers) != len(right):
            raise ConfigError(f"{len(answers)} preds and {len(right)} tgts; they must be as many")
        offered = inputs.get("tools") or [()] * len(right)
        for answer, wanted, tools in zip(answers, right, offered, strict=True):
            calls, broken = _calls(answer)
            accepted = [metrics.accepted_call(call) for call in _calls(wanted)[0]]
            self.scores.append(metrics.score_step(calls, accepted, broken=broken, tools=tools))

    def evaluate(self) -> dict[str, float]:
        """Each measure's value."""
        found = metrics.summarize(self.scores)
        return {name: measure.value for name, measure in found.items() if measure is not None}

    def merge(self, other: ToolMetric) -> None:
        """Add what another process scored."""
        self.scores += other.scores


def _calls(answer: str | Sequence[Mapping[str, Any]]) -> tuple[tuple[ToolCall, ...], int]:
    """Calls in an answer, and how many more are broken."""
    if isinstance(answer, str):
        turn = parse(answer)
        return tuple(turn.calls), len(turn.broken)
    calls = (ToolCall(name=call["name"], arguments=dict(call["arguments"])) for call in answer)
    return tuple(calls), 0


loaded(__name__)
