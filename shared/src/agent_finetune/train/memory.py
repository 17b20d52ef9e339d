"""Memory that ran out: what took it, and what to lower by how much."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from agent_finetune import adapters
from agent_finetune.config import TrainConfig
from agent_finetune.contracts import TrainJob
from agent_finetune.errors import TrainError
from agent_finetune.models.hardware import ran_out_of_memory
from agent_finetune.train import fits
from agent_finetune.train.callbacks import StepCount

_STATUS = Path("/proc/self/status")
_CGROUP = Path("/sys/fs/cgroup/memory.max")
_MANY = 2**20
"""Tokens over which the estimate's slope is taken."""


@contextmanager
def told(job: TrainJob, taken: StepCount) -> Iterator[None]:
    """Say what to lower when memory runs out.

    Raises:
        TrainError: It did.
    """
    try:
        yield
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        raise TrainError(
            f"step {taken.steps + 1}: out of memory on {job.loaded.device}; "
            f"{advice(job)}. The last checkpoint is kept"
        ) from error


def advice(job: TrainJob) -> str:
    """What the run is estimated to need, and which settings to lower to what.

    Rows per step stay as they are: what batch_size loses, gradient_accumulation gains.
    """
    config = job.config.train
    device = torch.device(job.loaded.device)
    fixed, each = _needs(job, device)
    there = _memory(device)
    fitting = max(0.0, (there - fixed) / each)
    needed = fixed + config.batch_size * each
    return (
        f"a step needs about {_size(needed)} ({_size(fixed)} for weights and optimizer, "
        f"{_size(each)} for each of {config.batch_size} rows of up to {_longest(job)} tokens) and "
        f"{_size(there)} are there. Lower " + "; ".join(_changes(job, config, fitting))
    )


def _changes(job: TrainJob, config: TrainConfig, fitting: float) -> list[str]:
    """Settings with their new values, those that change nothing in the result first."""
    changes = []
    batch, accumulation = config.batch_size, config.gradient_accumulation
    if batch > 1:
        most = max(1, min(batch // 2, int(fitting)))
        fewer = max(part for part in range(1, most + 1) if batch % part == 0)
        changes.append(
            f"batch_size {batch} -> {fewer} and raise gradient_accumulation {accumulation} -> "
            f"{accumulation * batch // fewer} (the result stays the same, and --resume goes on)"
        )
    if not config.gradient_checkpointing:
        kept, checkpointed = _activations(job)
        changes.append(
            "set gradient_checkpointing (activations of a row from about "
            f"{_size(kept)} to {_size(checkpointed)}, the same result, slower)"
        )
    longest = _longest(job)
    shorter = int(longest * min(0.5, fitting or 0.5))
    changes.append(f"max_length to {shorter} (the longest row has {longest} tokens; a new out)")
    if config.method == "full":
        changes.append("method full -> lora (a new out)")
    elif job.loaded.config.held_as == "none":
        weights = sum(w.nbytes for w in job.loaded.model.parameters() if not w.requires_grad)
        short = weights * 4 / _bits(job)
        changes.append(
            f"quantization none -> 4bit (weights from {_size(weights)} to about {_size(short)}; "
            "a new out)"
        )
    return changes


def _needs(job: TrainJob, device: torch.device) -> tuple[float, float]:
    """Bytes without any row, and for each row of the longest ones."""
    model = adapters.base_model(job.loaded.model)
    trained = sum(w.numel() for w in job.loaded.model.parameters() if w.requires_grad)
    estimates = [
        fits.estimate(model, trained=trained, tokens=tokens, device=device).needed
        for tokens in (0, _MANY)
    ]
    slope = (estimates[1] - estimates[0]) / _MANY
    return float(estimates[0]), max(1.0, slope * _row_tokens(job))


def _activations(job: TrainJob) -> tuple[float, float]:
    """Bytes that the layers keep of a row for the way back, and of them with checkpointing."""
    config = adapters.base_model(job.loaded.model).config.get_text_config()
    width, layers = int(config.hidden_size), int(config.num_hidden_layers)
    layer = fits.layer_numbers(config) * _row_tokens(job) * _bits(job) / 8
    inputs = width * layers * _row_tokens(job) * _bits(job) / 8
    return layer * layers, inputs + layer


def _bits(job: TrainJob) -> int:
    return 32 if job.loaded.dtype == "float32" else 16


def _longest(job: TrainJob) -> int:
    lengths: list[int] = [row.length for row in job.train_rows]
    return max(lengths)


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.1f} MiB"


def _row_tokens(job: TrainJob) -> int:
    """Tokens that a row puts through the model: a pair is run on both sides."""
    return _longest(job) * (2 if job.config.train.objective == "dpo" else 1)


def _memory(device: torch.device) -> int:
    """Bytes that this process may hold in all: what it holds, and what is free."""
    if device.type == "cuda":
        return fits.free_bytes(device) + torch.cuda.memory_reserved(device)
    lines = (line.split() for line in _STATUS.read_text(encoding="utf-8").splitlines())
    sizes = {words[0]: int(words[1]) * 1024 for words in lines if words[-1:] == ["kB"]}
    held = sizes["VmRSS:"]
    limits: list[Any] = [fits.free_bytes(device) + held]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:  # it counts addresses, most of which hold nothing
        limits.append(soft - sizes["VmSize:"] + held)
    if _CGROUP.is_file() and (most := _CGROUP.read_text(encoding="utf-8").strip()).isdigit():
        limits.append(int(most))
    return int(max(0, min(limits)))
