"""Whether a second copy of the base, and what training it takes, fit beside the one that serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_MEMORY = Path("/proc/meminfo")
_SPARE = 1.2
"""Factor on the estimate: allocators round up, and libraries take their share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """What training is estimated to need, and what is free on its device, in bytes."""

    needed: int
    free: int

    @property
    def enough(self) -> bool:
        """Whether both copies fit."""
        return self.needed <= self.free

    def __str__(self) -> str:
        gib = 2.0**30
        word = "fits beside" if self.enough else "does not fit beside"
        return (
            f"training needs about {self.needed / gib:.1f} GiB and {self.free / gib:.1f} GiB are "
            f"free: it {word} the model that serves"
        )


def estimate(model: Any, *, trained: int, tokens: int, device: torch.device) -> Room:
    """Estimate it from the model that serves.

    Weights as they are held; for each trained one its float32 copy, gradient and the two moments
    of AdamW; activations of a layer as about 16 widths and 4 widths of its inner projection per
    token; logits twice in float32.

    Args:
        model: `transformers.PreTrainedModel`.
        trained: Weights that are trained.
        tokens: Most tokens in a forward pass.
        device: Where training runs.
    """
    config = model.config.get_text_config()
    layers = int(config.num_hidden_layers)
    weights = sum(tensor.nbytes for tensor in model.parameters())
    size = max(parameter.element_size() for parameter in model.parameters())
    activations = tokens * layers * layer_numbers(config) * size
    logits = tokens * int(config.vocab_size) * 8
    needed = weights + 16 * trained + activations + logits
    return Room(needed=int(needed * _SPARE), free=free_bytes(device))


def layer_numbers(config: Any) -> int:
    """Numbers that a layer keeps of a token for the way back.

    Args:
        config: The text model's `transformers.PretrainedConfig`.
    """
    described = config.to_dict()
    width = int(described.get("hidden_size") or config.hidden_size)
    return 16 * width + 4 * int(described.get("intermediate_size") or 4 * width)


def lora_weights(model: Any, rank: int, targets: Sequence[str]) -> int:
    """Weights of an adapter on a model.

    Args:
        model: `transformers.PreTrainedModel`, or one that serves.
        rank: Of its matrices.
        targets: Names of the layers that get one, as `AdapterConfig` has them.
    """
    return rank * sum(
        module.in_features + module.out_features
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module is not model.get_output_embeddings()
        and ("all-linear" in targets or name.rpartition(".")[2] in targets)
    )


def free_bytes(device: torch.device) -> int:
    """Memory that a new process may take on a device; that of other processes is not."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    lines = _MEMORY.read_text(encoding="utf-8").splitlines()
    available = next(line for line in lines if line.startswith("MemAvailable:"))
    return int(available.split()[1]) * 1024
