"""From ModelScope's configuration tree and its stock hooks to a `TrainConfig`.

Nothing is passed over: every key either sets something, or is named in `Translation.notes` with
the reason why it sets nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_finetune.config import TrainConfig
from agent_finetune.errors import ConfigError
from modelscope_agent_train.native.drafts import LOSSES, NEVER, Draft, Keys, Push, Run, unused
from modelscope_agent_train.native.stock_hooks import take_hook

_ADAM = ("adam", "adamw", "adamw_torch")
_SCHEDULES = {
    "linear": "linear",
    "linearlr": "linear",
    "cosine": "cosine",
    "cosineannealinglr": "cosine",
    "constant": "constant",
    "constantlr": "constant",
    "constant_with_warmup": "constant_with_warmup",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Translation:
    """What a configuration means for a run of the kernel."""

    train: TrainConfig
    executed: tuple[Mapping[str, Any], ...]
    """Hooks that are run as they are: the user's own, and stock ones that only look on."""
    outputs: tuple[Path, ...]
    """Folders that receive the trained model, for inference."""
    push: Push | None
    """Where the result is sent, if anywhere."""
    notes: tuple[str, ...]
    """`key: effect`, for keys and hooks that set nothing or something unexpected."""


def translate(tree: Mapping[str, Any], hooks: Sequence[Mapping[str, Any]], run: Run) -> Translation:
    """Make a run of a configuration.

    Args:
        tree: `train` and `evaluation` of a configuration, plain mappings.
        hooks: Every hook of it, those that ModelScope keeps outside `train.hooks` among them.
        run: What it does not say.

    Raises:
        ConfigError: A value is not legal, or a hook asks for what is not done here.
    """
    draft = Draft(run=run)
    train, evaluation = (
        Keys(tree.get("train") or {}, "train"),
        Keys(tree.get("evaluation") or {}, "evaluation"),
    )
    _batches(draft, train)
    _optimizer(draft, train)
    for hook in sorted(hooks, key=lambda hook: hook["type"] != "OptimizerHook"):
        take_hook(draft, hook)  # that one first: it says how many iterations are a step
    _schedule(draft, train)
    _rest(draft, train)
    _evaluation(draft, evaluation)
    if not {"eval_steps", "patience"} & draft.values.keys():
        draft.values["eval_steps"] = NEVER  # without an EvaluationHook, at the start and the end
    for keys in (train, evaluation):
        draft.notes += unused(keys)
    return Translation(
        train=TrainConfig(**draft.values),
        executed=tuple(draft.executed),
        outputs=tuple(draft.outputs.values()),
        push=draft.push,
        notes=tuple(draft.notes),
    )


def _batches(draft: Draft, keys: Keys) -> None:
    run = draft.run
    draft.values |= {
        "method": run.method,
        "seed": run.seed,
        "batch_size": int(keys.take("dataloader.batch_size_per_gpu", 1)),
        "gradient_accumulation": int(keys.take("optimizer.options.cumulative_iters", 1)),
        "gradient_checkpointing": bool(
            keys.take("gradient_checkpointing", run.gradient_checkpointing)
        ),
        "log_steps": 1,  # hooks are told the loss of every step
    }
    epochs = keys.take("max_epochs")
    epochs = run.max_epochs if run.max_epochs is not None else epochs
    if epochs is None:
        raise ConfigError("max_epochs is in neither the arguments nor train.max_epochs; give one")
    draft.values["epochs"] = float(epochs)
    if iterations := keys.take("train_iters_per_epoch"):
        draft.values["max_steps"] = draft.steps(math.ceil(iterations * float(epochs)))


def _optimizer(draft: Draft, keys: Keys) -> None:
    name = str(keys.take("optimizer.type", "AdamW"))
    if name.lower() not in _ADAM:
        raise ConfigError(f"train.optimizer.type is {name!r}; legal is AdamW")
    if name.lower() == "adam" and keys.take("optimizer.weight_decay"):
        draft.notes.append("train.optimizer.type: Adam's weight decay is decoupled here (AdamW)")
    if (rate := keys.take("optimizer.lr")) is not None:
        draft.values["learning_rate"] = float(rate)
    draft.values["weight_decay"] = float(keys.take("optimizer.weight_decay", 0.0))
    clip = "optimizer.options.grad_clip"
    limit = keys.take(f"{clip}.max_norm", keys.take("clip_grad"))
    # Without grad_clip ModelScope does not clip.
    draft.values["max_grad_norm"] = NEVER if limit is None else float(limit)
    if (kind := keys.take(f"{clip}.norm_type", 2)) not in (2, 2.0):
        raise ConfigError(f"train.{clip}.norm_type is {kind!r}; legal is 2")


def _schedule(draft: Draft, keys: Keys) -> None:
    name = str(keys.take("lr_scheduler.type", "constant"))
    if name.lower() not in _SCHEDULES:
        legal = "LinearLR, CosineAnnealingLR, ConstantLR, constant_with_warmup"
        raise ConfigError(f"train.lr_scheduler.type is {name!r}; legal are {legal}")
    schedule = _SCHEDULES[name.lower()]
    total = draft.values.get("max_steps") or draft.steps_per_epoch * draft.values["epochs"]
    iterations = keys.take("lr_scheduler.options.warmup.warmup_iters")
    steps = keys.take("optimizer.options.warmup.warmup_steps")
    share = float(keys.take("optimizer.options.warmup.warmup_ratio", 0.0))
    if iterations is not None:
        steps = draft.steps(int(iterations))
    if steps is not None:
        share = min(int(steps) / total, 0.999)
    if share and schedule == "constant":
        schedule = "constant_with_warmup"
    draft.values |= {"schedule": schedule, "warmup": share}


def _rest(draft: Draft, keys: Keys) -> None:
    """Keys that others act on."""
    for name in ("work_dir", "hooks", "checkpoint", "logging", "bf16", "use_fp16", "max_length"):
        keys.take(name)
    if keys.take("use_fp16") and keys.take("bf16"):
        raise ConfigError("train.use_fp16 and train.bf16 are both true; give one")


def _evaluation(draft: Draft, keys: Keys) -> None:
    keys.take("period")
    metrics = keys.take("metrics", [])
    for metric in [metrics] if isinstance(metrics, (str, Mapping)) else metrics:
        name = metric.get("type") if isinstance(metric, Mapping) else metric
        if name == "agent-tool-metric":
            count = metric.get("examples") if isinstance(metric, Mapping) else None
            draft.values["eval_generate"] = int(count or draft.run.tool_examples)
        elif name not in LOSSES:
            draft.notes.append(
                f"evaluation.metrics: {name!r} is not measured; legal are ppl, agent-ppl and "
                "agent-tool-metric"
            )
