"""run.json and metrics.json: what a run was, and what it changed."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from agent_finetune import adapters
from agent_finetune.config import AdapterConfig, TrainConfig
from agent_finetune.contracts import LoadedModel, TrainJob, TrainResult
from agent_finetune.train import distributed, pairs
from agent_finetune.train.arguments import compute_dtype
from agent_finetune.train.history import History

_PACKAGES = ("agent-finetune", "torch", "transformers", "trl", "peft", "accelerate", "datasets")


def of(job: TrainJob, loaded: LoadedModel, *, processes: int, packed: bool) -> dict[str, Any]:
    """run.json of a run that begins."""
    weights = list(loaded.model.parameters())
    return {
        "status": "running",
        "started": _now(),
        "config": asdict(job.config),
        "model": {
            "name": loaded.resolved.name,
            "revision": loaded.resolved.revision,
            "digest": loaded.digest,
            "weights": sum(weight.numel() for weight in weights),
            "trained_weights": sum(w.numel() for w in weights if w.requires_grad),
            "device": loaded.device,
            "device_name": _device_name(loaded.device),
            "dtype": loaded.dtype,
            "compute_dtype": compute_dtype(job.config.train, loaded),
            "packed": packed,
            "processes": processes,
        },
        **job.facts,
        "must_stay": _must_stay(job, loaded, processes),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
        "seed": job.config.train.seed,
    }


def finished(run: dict[str, Any], result: TrainResult) -> dict[str, Any]:
    """run.json of a run that is done."""
    return run | {
        "status": "finished",
        "finished": _now(),
        "steps": result.steps,
        "loss": result.loss,
        "seconds": round(result.seconds, 1),
        "train_tokens": result.train_tokens,
        "adapter_digest": adapters.digest(result.adapter_dir),
    }


def stopped(run: dict[str, Any], error: BaseException, *, steps: int) -> dict[str, Any]:
    """run.json of a run that ended before its time.

    Args:
        run: What it was when it began.
        error: What ended it.
        steps: Optimizer steps that it had taken.
    """
    ending = {"stopped": _now(), "steps": steps}
    if not isinstance(error, Exception):  # Ctrl-C, SIGTERM
        return run | {"status": "interrupted"} | ending
    first = (str(error).splitlines() or [""])[0]
    return run | {"status": "failed", "error": f"{type(error).__name__}: {first}"} | ending


def metrics_before(history: History) -> dict[str, float]:
    """The evaluation at step 0, and the first loss that was logged."""
    return _metrics(history.training[:1], [e for e in history.evaluations if e["step"] == 0])


def metrics_after(history: History, *, at: int | None) -> dict[str, float]:
    """The last evaluation, or that of the step whose weights were kept, and the last loss."""
    evaluations = [e for e in history.evaluations if at is None or e["step"] == at]
    return _metrics(history.training[-1:], evaluations)


def _metrics(training: list[dict[str, Any]], evaluations: list[dict[str, Any]]) -> dict[str, float]:
    values = {}
    for line in training:
        values["train_loss"] = line["loss"]
    for line in evaluations[-1:]:
        values |= {k: v for k, v in line.items() if k not in ("step", "epoch", "seconds")}
    return values


def _must_stay(job: TrainJob, loaded: LoadedModel, processes: int) -> dict[str, Any]:
    """What a run is resumed with must not change, or its losses would not be the same."""
    train = job.config.train
    adapter = job.loaded.config.adapter
    return {
        "base model": loaded.digest,
        "dtype": loaded.dtype,
        "quantization": loaded.config.held_as,
        "adapter": None if adapter is None else adapters.digest(Path(adapter)),
        "lora": _lora(job.config.lora),
        "training rows": pairs.digest(job.train_rows),
        "method": train.method,
        # How they fall into forward passes does not matter, so that memory that ran out can be met.
        "rows per step (batch_size * gradient_accumulation)": train.batch_size
        * train.gradient_accumulation,
        "learning_rate": train.peak_learning_rate,
        "schedule": train.schedule,
        "warmup": train.warmup,
        "optimizer": train.optimizer,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "seed": train.seed,
        "processes": processes,
        "ZeRO stage of deepspeed": distributed.stage_of(train),
        **_preference(train),
    }


def _lora(config: AdapterConfig) -> dict[str, Any]:
    values = asdict(config) | {"targets": list(config.targets)}
    if not config.dora:  # runs that began before there was such a thing
        del values["dora"]
    return values


def _preference(train: TrainConfig) -> dict[str, Any]:
    if train.objective == "sft":
        return {}
    settings = {"objective": train.objective, "beta": train.beta, "reference": train.reference}
    if train.objective == "kto":  # which measures the distance to the reference in each batch
        settings["batch_size"] = train.batch_size
    return settings | ({"sft_weight": train.sft_weight} if train.objective == "dpo" else {})


def _device_name(device: str) -> str:
    if device == "cpu":
        return f"{platform.machine()}, {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(device)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
