"""The next token of each row of a step: greedy or sampled, under a grammar or free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from agent_finetune.engine.grammar import Constraint
from agent_finetune.errors import EngineError

_GREEDY_BELOW = 1e-5
"""Lower temperatures are greedy: logits divided by less overflow."""


@dataclass(kw_only=True, slots=True, eq=False)
class Sampling:
    """How one row's tokens are chosen; holds the state of its random numbers."""

    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is all."""
    repetition_penalty: float = 1.0
    """On the tokens that were taken to have been `heard`."""
    seed: int | None = None
    """None is a fresh one."""
    constraint: Constraint | None = None
    """What the row is held to; whoever takes the chosen token advances it."""
    _generator: torch.Generator | None = field(default=None, init=False, repr=False)
    _news: list[int] = field(default_factory=list, init=False, repr=False)
    _heard: Tensor | None = field(default=None, init=False, repr=False)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < _GREEDY_BELOW

    @property
    def penalized(self) -> bool:
        """Whether what was heard becomes less likely."""
        return self.repetition_penalty != 1.0

    def hear(self, tokens: Iterable[int]) -> None:
        """Take tokens of the prompt or of the answer to have been heard."""
        if self.penalized:
            self._news += tokens

    def heard(self, device: torch.device) -> Tensor:
        """Everything that was heard, (1, tokens); only news are brought to the device."""
        if self._heard is None:
            self._heard = torch.empty((1, 0), dtype=torch.long, device=device)
        if self._news:
            news = torch.tensor([list(dict.fromkeys(self._news))]).to(device, non_blocking=True)
            self._heard = torch.cat([self._heard, news], dim=1)
            self._news.clear()
        return self._heard

    def generator(self, device: torch.device) -> torch.Generator:
        """This row's own random numbers, made on the device when first asked for."""
        if self._generator is None:
            self._generator = torch.Generator(device)
            if self.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self.seed % 2**64)
        return self._generator


def choose(logits: Tensor, rows: Sequence[Sampling]) -> list[int | EngineError]:
    """Choose the next token of each row; one transfer from the device for all of them.

    A row's answer depends on its own logits and random numbers alone. Constraints are asked and
    not advanced.

    Args:
        logits: (B, V) of any floating type, on the model's device; not changed.
        rows: B rows.

    Returns:
        A token id for each row, or an `EngineError` that says why this row has none: its logits
        are not finite, or its grammar failed. The other rows are not touched by that.
    """
    scores = _penalized(logits.float(), rows)
    scores, failed = _constrained(scores, rows)
    best, chosen = scores.max(dim=-1)
    usable = best.isfinite()  # not a number, or infinite, or nothing allowed
    sampled = [place for place, row in enumerate(rows) if not row.greedy]
    if sampled:
        # A row that cannot be used still passes through, and must not become an error of CUDA.
        scores = scores.masked_fill(~usable[:, None], 0.0)
        drawn = [_draw(scores[place : place + 1], rows[place]) for place in sampled]
        places = torch.tensor(sampled).to(chosen.device, non_blocking=True)
        chosen = chosen.index_copy(0, places, torch.cat(drawn))
    ids = chosen.where(usable, -1).tolist()
    return [
        failed.get(place) or (token if token >= 0 else _not_finite(rows[place]))
        for place, token in enumerate(ids)
    ]


def _draw(scores: Tensor, row: Sampling) -> Tensor:
    """Draw a token, shape (1,), from one row's scores of shape (1, V).

    What `torch.multinomial` draws from the same generator, without its checks, each of which
    would wait for the GPU.
    """
    nothing = torch.empty((1, 0), dtype=torch.long, device=scores.device)  # the warpers read none
    scores = TemperatureLogitsWarper(float(row.temperature))(nothing, scores)
    if row.top_k:
        scores = TopKLogitsWarper(row.top_k)(nothing, scores)
    if row.top_p < 1.0:
        scores = TopPLogitsWarper(float(row.top_p))(nothing, scores)
    probabilities = scores.softmax(dim=-1)
    noise = torch.empty_like(probabilities)
    noise.exponential_(generator=row.generator(scores.device))
    return (probabilities / noise).argmax(dim=-1)


def _penalized(scores: Tensor, rows: Sequence[Sampling]) -> Tensor:
    """Scores with what was heard made less likely, in the rows that want it."""
    places = [place for place, row in enumerate(rows) if row.penalized]
    if not places:
        return scores
    changed = []
    for place in places:
        row = rows[place]
        process = RepetitionPenaltyLogitsProcessor(float(row.repetition_penalty))
        changed.append(process(row.heard(scores.device), scores[place : place + 1]))
    return scores.index_copy(0, torch.tensor(places).to(scores.device), torch.cat(changed))


def _constrained(scores: Tensor, rows: Sequence[Sampling]) -> tuple[Tensor, dict[int, EngineError]]:
    """Scores with what grammars forbid at minus infinity, and the rows whose grammar failed."""
    held = [(place, row.constraint) for place, row in enumerate(rows) if row.constraint]
    failed: dict[int, EngineError] = {}
    if not held:
        return scores, failed
    size = scores.shape[1]
    on_gpu = scores.device.type == "cuda"
    words = torch.zeros((len(held), (size + 31) // 32), dtype=torch.int32, pin_memory=on_gpu)
    for index, (place, constraint) in enumerate(held):
        try:
            constraint.fill(words[index].numpy())
        except EngineError as error:
            failed[place] = error
    places = torch.tensor([place for place, _ in held]).to(scores.device, non_blocking=True)
    words = words.to(scores.device, non_blocking=True)
    bits = words[:, :, None] >> torch.arange(32, dtype=torch.int32, device=scores.device)
    allowed = (bits & 1).bool().flatten(1)[:, :size]  # (rows held, V)
    masked = scores[places].masked_fill(~allowed, -torch.inf)
    return scores.index_copy(0, places, masked), failed


def _not_finite(row: Sampling) -> EngineError:
    what = "the model's logits are not finite numbers"
    if row.constraint is not None:
        what += ", or its grammar allows no token"
    return EngineError(
        f"{what}, so that no token can be chosen; a damaged adapter does this, and so does "
        "float16 with a model that was trained in bfloat16"
    )
