"""How a live agent learns."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent_finetune.config import AdapterConfig, TrainConfig, check_at_least
from agent_finetune.errors import ConfigError
from agent_finetune.update.gate import GateConfig

LEARNING = TrainConfig(epochs=10, batch_size=4, learning_rate=1e-3)
"""Settings with which a handful of feedback is learned in minutes; the rate is a high one, and
what holds the model to its base elsewhere is `retention`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateConfig:
    """How a live agent learns."""

    train: TrainConfig = LEARNING
    """Its objective is not looked at: pairs are learned by dpo, verdicts by kto, demonstrations by
    sft."""
    lora: AdapterConfig = field(default_factory=AdapterConfig)
    """For the first version; later ones keep the shape of those before."""
    gate: GateConfig = field(default_factory=GateConfig)
    retention: float = 5.0
    """Weight of staying like the base on its own answers while training; 0 is none."""
    device: str | None = None
    """Where to train; None is where the model serves."""
    processes: int = 1
    """Processes that train, one for each GPU; torchrun runs them when there are several."""
    max_length: int = 2048
    """Rows of more tokens are dropped, and counted."""

    def __post_init__(self) -> None:
        check_at_least("retention", self.retention, 0)
        check_at_least("processes", self.processes, 1)
        if self.train.method != "lora":
            raise ConfigError(f"method is {self.train.method!r}; a live model learns by lora only")
