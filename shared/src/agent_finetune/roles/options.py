"""What `train_roles` may be told, beside what every training run may be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from agent_finetune.config import RunConfig, TrainConfig, check_at_least
from agent_finetune.errors import ConfigError

Layout = Literal["roles", "single", "multi-task"]
LAYOUTS: tuple[Layout, ...] = ("roles", "single", "multi-task")
STAGES: Mapping[Layout, tuple[str, ...]] = {
    "roles": ("backbone", "planner", "caller", "summarizer"),
    "single": ("backbone",),
    "multi-task": ("multi-task",),
}
"""What is trained, in this order; each is a run in a folder of its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """How one stage walks, where it differs from the others."""

    epochs: float | None = None
    """Passes over this stage's data."""
    learning_rate: float | None = None
    """Peak step size of this stage."""
    warmup: float | None = None
    """Share of this stage's steps over which the learning rate rises."""
    weight_decay: float | None = None
    """Decoupled weight decay of this stage."""
    batch_size: int | None = None
    """Rows per forward pass of this stage."""

    def over(self, train: TrainConfig) -> TrainConfig:
        """The training of all stages, with what this one says in its place."""
        said = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        return replace(train, **{name: v for name, v in said.items() if v is not None})


@dataclass(frozen=True, kw_only=True, slots=True)
class RolesOptions:
    """What is trained, and how much of it."""

    layout: Layout = "roles"
    """roles: one adapter each for planner, caller and summarizer; single: one for all steps at
    once; multi-task: one adapter that is taught the three roles."""
    stage_one: bool = True
    """roles: tune one backbone on everything first, and let the roles go on from it."""
    tokens: int | None = None
    """Tokens in forward passes over all stages together; unset, every stage's epochs say."""
    stage_one_share: float = 0.5
    """roles: share of `tokens` that stage one gets; the roles share the rest by their data."""
    without: tuple[str, ...] = ()
    """Data whose examples are kept out of training by their ids: what will be measured on."""

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ConfigError(f"layout is {self.layout!r}; legal are {', '.join(LAYOUTS)}")
        if self.tokens is not None:
            check_at_least("tokens", self.tokens, 1)
        if not 0 < self.stage_one_share < 1:
            raise ConfigError(
                f"stage_one_share is {self.stage_one_share!r}; it must lie between 0 and 1"
            )

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, in the order they are trained in."""
        names = STAGES[self.layout]
        return names if self.layout != "roles" or self.stage_one else names[1:]


@dataclass(frozen=True, kw_only=True, slots=True)
class RolesConfig:
    """A whole recipe."""

    run: RunConfig
    """Model, data, adapter and training of every stage; `out` receives a folder for each."""
    options: RolesOptions = field(default_factory=RolesOptions)
    stages: Mapping[str, StageConfig] = field(default_factory=dict)
    """By a stage's name, what it does otherwise."""

    def __post_init__(self) -> None:
        if self.run.train.objective != "sft":
            raise ConfigError(f"objective is {self.run.train.objective!r}; roles learn by sft")
        if self.run.train.max_steps is not None:
            raise ConfigError(
                f"max_steps is {self.run.train.max_steps!r}; stages are of different sizes: give "
                "tokens for all of them, or epochs"
            )
        if self.run.model.adapter is not None and self.run.train.method == "full":
            raise ConfigError("method is 'full' and an adapter is given; merge it first")
        if unknown := set(self.stages) - {name for names in STAGES.values() for name in names}:
            raise ConfigError(
                f"no stage is called {', '.join(sorted(unknown))}; this layout has "
                f"{', '.join(self.options.stages)}"
            )
