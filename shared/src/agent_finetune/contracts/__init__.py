"""What passes through the hooks: light types, so that declaring a hook costs no torch.

Tensors and modules are `Any` here; the docstring of each field says what they are.
"""

from agent_finetune.contracts.diagnosis import Diagnosis, Finding
from agent_finetune.contracts.serving import (
    Delta,
    Engine,
    EngineConfig,
    EngineInfo,
    Exchange,
    FinishReason,
    Generation,
    Request,
    Result,
    Usage,
)
from agent_finetune.contracts.training import (
    Batch,
    Command,
    LoadedModel,
    Reading,
    ResolvedModel,
    Retention,
    Secret,
    Settings,
    Source,
    TrainJob,
    TrainResult,
)

__all__ = [
    "Batch",
    "Command",
    "Delta",
    "Diagnosis",
    "Engine",
    "EngineConfig",
    "EngineInfo",
    "Exchange",
    "Finding",
    "FinishReason",
    "Generation",
    "LoadedModel",
    "Reading",
    "Request",
    "ResolvedModel",
    "Result",
    "Retention",
    "Secret",
    "Settings",
    "Source",
    "TrainJob",
    "TrainResult",
    "Usage",
]
