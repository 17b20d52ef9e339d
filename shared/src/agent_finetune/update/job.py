"""What the process that trains is told, and what it tells back: JSON in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agent_finetune import artifacts
from agent_finetune.config import AdapterConfig, ModelConfig, Objective, TrainConfig
from agent_finetune.records import PairTokens, Section, Tokens, VerdictTokens
from agent_finetune.update.gate import Measures, Scores
from agent_finetune.update.general import Said

JOB, OUTCOME, ADAPTER = "job.json", "outcome.json", "adapter"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Feedback as ids, by how it is learned from."""

    pairs: tuple[PairTokens, ...] = ()
    verdicts: tuple[VerdictTokens, ...] = ()
    demonstrations: tuple[Tokens, ...] = ()
    demonstrated: tuple[Said, ...] = ()
    """The demonstrations again, turn by turn, as they are measured."""

    def __bool__(self) -> bool:
        return bool(self.pairs or self.verdicts or self.demonstrations)

    @property
    def phases(self) -> Sequence[tuple[Objective, Sequence[Any]]]:
        """Objective and rows of each training run, in order: imitate first, then compare."""
        every: tuple[tuple[Objective, Sequence[Any]], ...] = (
            ("sft", self.demonstrations),
            ("kto", self.verdicts),
            ("dpo", self.pairs),
        )
        return [(objective, rows) for objective, rows in every if rows]


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateJob:
    """One update."""

    model: ModelConfig
    """The base, with the version that is live as its adapter."""
    lora: AdapterConfig
    """For the first version; later ones keep the shape of those before."""
    train: TrainConfig
    rows: Rows
    trusted: Rows = field(default_factory=Rows)
    general: tuple[Said, ...]
    """The base's answers that are measured."""
    retained: tuple[Said, ...] = ()
    """The base's answers that training is held to."""
    retention: float = 0.0
    """Weight of that; 0 is none."""

    def write(self, folder: Path) -> None:
        """Write it for the process that trains."""
        artifacts.write_json(folder / JOB, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> UpdateJob:
        """Read what `write` wrote."""
        found = json.loads((folder / JOB).read_text("utf-8"))
        lora = {**found["lora"], "targets": tuple(found["lora"]["targets"])}
        return cls(
            model=ModelConfig(**found["model"]),
            lora=AdapterConfig(**lora),
            train=TrainConfig(**found["train"]),
            rows=_rows(found["rows"]),
            trusted=_rows(found["trusted"]),
            general=_said(found["general"]),
            retained=_said(found["retained"]),
            retention=found["retention"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of it."""

    before: Measures
    after: Measures
    base_loss: float
    """Loss on the general answers without any adapter."""
    phases: tuple[Mapping[str, Any], ...]
    """Objective, steps, loss, seconds and tokens of each training run."""

    def write(self, folder: Path) -> None:
        """Write it for the process that asked; a number that is none becomes null."""
        text = json.dumps(asdict(self))
        finite = json.loads(text, parse_constant=lambda _: None)
        artifacts.write_json(folder / OUTCOME, finite)

    @classmethod
    def read(cls, folder: Path) -> Outcome:
        """Read what `write` wrote."""
        found = json.loads((folder / OUTCOME).read_text("utf-8"))
        return cls(
            before=_measures(found["before"]),
            after=_measures(found["after"]),
            base_loss=_number(found["base_loss"]),
            phases=tuple(found["phases"]),
        )


def _rows(found: Mapping[str, Any]) -> Rows:
    return Rows(
        pairs=tuple(PairTokens(**_tuples(row)) for row in found["pairs"]),
        verdicts=tuple(VerdictTokens(**_tuples(row)) for row in found["verdicts"]),
        demonstrations=tuple(
            Tokens(
                ids=tuple(row["ids"]),
                trained=tuple(row["trained"]),
                sections=tuple(name and Section(name) for name in row["sections"]),
                source=row["source"],
            )
            for row in found["demonstrations"]
        ),
        demonstrated=_said(found["demonstrated"]),
    )


def _tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}


def _said(found: Sequence[Any]) -> tuple[Said, ...]:
    return tuple((tuple(prompt), tuple(said)) for prompt, said in found)


def _measures(found: Mapping[str, Any]) -> Measures:
    trusted = found["trusted"]
    return Measures(
        trained=_scores(found["trained"]),
        general=_number(found["general"]),
        trusted=None if trusted is None else _scores(trusted),
    )


def _scores(found: Mapping[str, Any]) -> Scores:
    return Scores(
        liked=tuple(found["liked"]),
        disliked=tuple(found["disliked"]),
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
