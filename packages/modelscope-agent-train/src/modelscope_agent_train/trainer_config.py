"""From ModelScope's configuration tree and its stock hooks to a `TrainConfig`.

Nothing is passed over: every key either sets something, or is named in `Translation.notes` with
the reason why it sets nothing.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent_finetune.config import TrainConfig
from agent_finetune.errors import ConfigError

NEVER = 10**9
"""Steps between things that happen only at the end."""
EVERY = 10**6
"""Checkpoints that are kept when all are."""

_LOSSES = ("loss", "eval_loss", "ppl", "agent-ppl")
"""Metrics whose best value is that of the lowest loss."""
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
_ROWS = "rows lie in memory, and the collator of agent-finetune deals them out"
_NO_EFFECT = {
    "train.dataloader.workers_per_gpu": _ROWS,
    "train.dataloader.num_workers": _ROWS,
    "train.dataloader.pin_memory": _ROWS,
    "train.dataloader.persistent_workers": _ROWS,
    "train.dataloader.shuffle": "rows are shuffled by seed in each epoch",
    "train.dataloader.drop_last": "every row is trained in each epoch",
    "train.lr_scheduler.T_max": "the learning rate falls over the whole run",
    "train.lr_scheduler.eta_min": "the learning rate falls to 0",
    "train.lr_scheduler.last_epoch": "a resumed run knows its own step",
    "train.lr_scheduler.options.by_epoch": "the learning rate falls at every step",
    "train.lr_scheduler.options.lr_strategy": "the learning rate falls at every step",
    "train.lr_scheduler.options.warmup.type": "the learning rate rises linearly from 0",
    "train.lr_scheduler.options.warmup.warmup_ratio": "the learning rate rises from 0",
    "train.optimizer.options.loss_keys": "there is one loss",
    "evaluation.dataloader": "rows are measured in batches of train.dataloader",
    "evaluation.period.start_idx": "evaluation begins with the run",
}
"""Keys of ModelScope that set nothing here, and why; a key stands for all below it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What a configuration does not say."""

    out: Path
    model_dir: Path | None
    rows: int
    processes: int = 1
    evaluates: bool
    method: str
    seed: int
    max_epochs: float | None = None
    """Of the trainer's arguments; wins over the tree."""
    gradient_checkpointing: bool = False
    tool_examples: int = 0
    """Held-out examples whose calls could be generated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Translation:
    """What a configuration means for a run of the kernel."""

    train: TrainConfig
    executed: tuple[Mapping[str, Any], ...]
    """Hooks that are run as they are: the user's own, and stock ones that only look on."""
    outputs: tuple[Path, ...]
    """Folders that receive the trained model, for inference."""
    push: Mapping[str, Any] | None
    """What CheckpointHook says of the hub, with `hub_repo_id`."""
    notes: tuple[str, ...]
    """`key: effect`, for keys and hooks that set nothing or something unexpected."""


@dataclass(kw_only=True)
class _Draft:
    """A translation while it is made."""

    run: Run
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    executed: list[Mapping[str, Any]] = field(default_factory=list)
    outputs: dict[str, Path] = field(default_factory=dict)
    push: Mapping[str, Any] | None = None

    @property
    def accumulation(self) -> int:
        return int(self.values.get("gradient_accumulation", 1))

    @property
    def steps_per_epoch(self) -> int:
        batches = math.ceil(self.run.rows / (self.values["batch_size"] * self.run.processes))
        return max(1, math.ceil(batches / self.accumulation))

    def steps(self, iterations: int) -> int:
        """Optimizer steps in so many of ModelScope's iterations, which are forward passes."""
        return max(1, math.ceil(iterations / self.accumulation))

    def every(self, strategy: str, interval: int) -> int | None:
        """Steps between events; None is at the end of each epoch."""
        if strategy == "by_step":
            return self.steps(interval)
        return None if interval == 1 else interval * self.steps_per_epoch


class Keys:
    """A tree of keys that knows which of them nobody has asked for."""

    def __init__(self, tree: Mapping[str, Any], name: str) -> None:
        self.tree = dict(tree)
        self.name = name
        self._asked: set[str] = set()

    def take(self, path: str, default: Any = None) -> Any:
        """The value at `a.b.c`, or the default."""
        self._asked.add(path)
        found: Any = self.tree
        for key in path.split("."):
            if not isinstance(found, Mapping) or found.get(key) is None:
                return default
            found = found[key]
        return found

    def left(self) -> Iterator[str]:
        """Full names of keys that hold something and were not asked for."""
        for path in _leaves(self.tree, ""):
            if not any(path == asked or path.startswith(f"{asked}.") for asked in self._asked):
                yield f"{self.name}.{path}"

    def asked(self) -> list[str]:
        """Full names of keys that have a meaning."""
        return [f"{self.name}.{path}" for path in sorted(self._asked)]


def translate(tree: Mapping[str, Any], hooks: Sequence[Mapping[str, Any]], run: Run) -> Translation:
    """Make a run of a configuration.

    Args:
        tree: `train` and `evaluation` of a configuration, plain mappings.
        hooks: Every hook of it, those that ModelScope keeps outside `train.hooks` among them.
        run: What it does not say.

    Raises:
        ConfigError: A value is not legal, or a hook asks for what is not done here.
    """
    draft = _Draft(run=run)
    train, evaluation = (
        Keys(tree.get("train") or {}, "train"),
        Keys(tree.get("evaluation") or {}, "evaluation"),
    )
    _batches(draft, train)
    _optimizer(draft, train)
    for hook in sorted(hooks, key=lambda hook: hook["type"] != "OptimizerHook"):
        _hook(draft, hook)  # that one first: it says how many iterations are a step
    _schedule(draft, train)
    _rest(draft, train)
    _evaluation(draft, evaluation)
    if not {"eval_steps", "patience"} & draft.values.keys():
        draft.values["eval_steps"] = NEVER  # without an EvaluationHook, at the start and the end
    for keys in (train, evaluation):
        draft.notes += _unused(keys)
    return Translation(
        train=TrainConfig(**draft.values),
        executed=tuple(draft.executed),
        outputs=tuple(draft.outputs.values()),
        push=draft.push,
        notes=tuple(draft.notes),
    )


def _batches(draft: _Draft, keys: Keys) -> None:
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


def _optimizer(draft: _Draft, keys: Keys) -> None:
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


def _schedule(draft: _Draft, keys: Keys) -> None:
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


def _rest(draft: _Draft, keys: Keys) -> None:
    """Keys that others act on."""
    for name in ("work_dir", "hooks", "checkpoint", "logging", "bf16", "use_fp16", "max_length"):
        keys.take(name)
    if keys.take("use_fp16") and keys.take("bf16"):
        raise ConfigError("train.use_fp16 and train.bf16 are both true; give one")


def _evaluation(draft: _Draft, keys: Keys) -> None:
    keys.take("period")
    metrics = keys.take("metrics", [])
    for metric in [metrics] if isinstance(metrics, (str, Mapping)) else metrics:
        name = metric.get("type") if isinstance(metric, Mapping) else metric
        if name == "agent-tool-metric":
            count = metric.get("examples") if isinstance(metric, Mapping) else None
            draft.values["eval_generate"] = int(count or draft.run.tool_examples)
        elif name not in _LOSSES:
            draft.notes.append(
                f"evaluation.metrics: {name!r} is not measured; legal are ppl, agent-ppl and "
                "agent-tool-metric"
            )


def _hook(draft: _Draft, hook: Mapping[str, Any]) -> None:
    kind = hook["type"]
    name = kind if isinstance(kind, str) else kind.__name__
    ours = isinstance(kind, str) or kind.__module__.startswith("modelscope.")
    handler = _MAPPED.get(name) if ours else None
    if handler is None:
        draft.executed.append(dict(hook))
        return
    keys = Keys({key: value for key, value in hook.items() if key != "type"}, name)
    handler(draft, keys)
    draft.notes += _unused(keys)


def _strategy(keys: Keys, name: str) -> str:
    """by_epoch, by_step or no; `by_epoch` is the older way to say it."""
    if (by_epoch := keys.take("by_epoch")) is not None:
        return "by_epoch" if by_epoch else "by_step"
    strategy = str(keys.take(name, "by_epoch"))
    if strategy not in ("by_epoch", "by_step", "no"):
        raise ConfigError(f"{keys.name}.{name} is {strategy!r}; legal are by_epoch, by_step and no")
    return strategy


def _checkpoint(draft: _Draft, keys: Keys) -> None:
    strategy = _strategy(keys, "save_strategy")
    interval = int(keys.take("interval", 0))
    only_last = strategy == "no" or interval < 1
    draft.values["save_steps"] = NEVER if only_last else draft.every(strategy, interval)
    kept = keys.take("max_checkpoint_num")
    draft.values["keep_checkpoints"] = EVERY if kept is None else max(int(kept), 1)
    if keys.take("save_trainer_state", True) is False:
        draft.values["save_only_model"] = True
    if keys.take("save_last", True) is False or strategy == "no":
        draft.notes.append(f"{keys.name}: the end of the run is always saved")
    draft.outputs["output"] = _output(draft, keys, "output")
    if keys.take("push_to_hub"):
        if not keys.take("hub_repo_id"):
            raise ConfigError("CheckpointHook.push_to_hub is true, and hub_repo_id is not given")
        names = ("hub_repo_id", "hub_token", "private_hub", "hub_revision", "upload_strategy")
        draft.push = {name: keys.take(name) for name in names}


def _best(draft: _Draft, keys: Keys) -> None:
    if keys.take("save_best", True) is False:
        return
    metric, rule = keys.take("metric_key"), keys.take("rule", "max")
    if metric not in _LOSSES or rule != "min":
        raise ConfigError(
            f"BestCkptSaverHook.metric_key is {metric!r} and rule is {rule!r}; legal are "
            f"{', '.join(_LOSSES)} with the rule min"
        )
    if not draft.run.evaluates:
        raise ConfigError("BestCkptSaverHook needs an eval_dataset")
    for name in ("max_checkpoint_num", "save_trainer_state", "restore_best", "save_file_name"):
        keys.take(name)
    draft.values["patience"] = NEVER  # keeps the best, and stops for nothing
    draft.outputs["best"] = _output(draft, keys, "output_best")
    draft.notes.append(
        "BestCkptSaverHook: a checkpoint is written at each evaluation, and the run ends with the "
        "best weights"
    )


def _output(draft: _Draft, keys: Keys, default: str) -> Path:
    if (place := keys.take("save_dir")) and Path(place) != draft.run.out:
        draft.notes.append(f"{keys.name}.save_dir: checkpoints lie in work_dir/checkpoints")
    if part := keys.take("output_sub_dir"):
        return draft.run.out / str(part)
    folder = keys.take("output_dir")
    return draft.run.out / default if folder is None else Path(folder)


def _evaluate(draft: _Draft, keys: Keys) -> None:
    strategy = _strategy(keys, "eval_strategy")
    interval = int(keys.take("interval", 1))
    never = strategy == "no" or not draft.run.evaluates
    draft.values["eval_steps"] = NEVER if never else draft.every(strategy, interval)
    if keys.take("start_idx"):
        draft.notes.append("EvaluationHook.start_idx: evaluation begins with the run")


def _accumulate(draft: _Draft, keys: Keys) -> None:
    draft.values["gradient_accumulation"] = int(keys.take("cumulative_iters", 1))
    if limit := keys.take("grad_clip.max_norm"):
        draft.values["max_grad_norm"] = float(limit)
    keys.take("grad_clip.norm_type")
    keys.take("loss_keys")


def _deepspeed(draft: _Draft, keys: Keys) -> None:
    config = keys.take("config")
    if not config:
        raise ConfigError("DeepspeedHook.config is missing; give the path of a DeepSpeed JSON file")
    path = Path(config)
    beside = draft.run.model_dir
    if not path.is_file() and beside is not None and (beside / path).is_file():
        path = beside / path
    if not path.is_file():
        raise ConfigError(f"DeepspeedHook.config is {str(config)!r}; there is no such file")
    draft.values["deepspeed"] = str(path)
    if (stage := keys.take("zero_stage")) is not None:
        draft.values["deepspeed"] = _with_stage(path, int(stage), draft.run.out)
    if keys.take("with_mpu", True):
        draft.notes.append("DeepspeedHook.with_mpu: no effect, there is no tensor parallelism here")
    if keys.take("save_zero_checkpoint") is False:
        draft.notes.append("DeepspeedHook.save_zero_checkpoint: checkpoints always hold ZeRO state")
    keys.take("deepspeed_activation_checkpointing")


def _with_stage(path: Path, stage: int, out: Path) -> str:
    """A copy of a DeepSpeed file with another ZeRO stage."""
    import json

    from agent_finetune import artifacts

    config = json.loads(path.read_text("utf-8"))
    config.setdefault("zero_optimization", {})["stage"] = stage
    out.mkdir(parents=True, exist_ok=True)
    artifacts.write_json(out / "deepspeed.json", config)
    return str(out / "deepspeed.json")


def _nothing(why: str) -> Callable[[_Draft, Keys], None]:
    def handler(draft: _Draft, keys: Keys) -> None:
        for name in keys.tree:
            keys.take(name)
        draft.notes.append(f"{keys.name}: not run, {why}")

    return handler


def _refused(why: str) -> Callable[[_Draft, Keys], None]:
    def handler(draft: _Draft, keys: Keys) -> None:
        raise ConfigError(f"{keys.name} is in train.hooks; {why}")

    return handler


_MAPPED: dict[str, Callable[[_Draft, Keys], None]] = {
    "CheckpointHook": _checkpoint,
    "BestCkptSaverHook": _best,
    "EvaluationHook": _evaluate,
    "OptimizerHook": _accumulate,
    "DeepspeedHook": _deepspeed,
    "AgentDeepspeedHook": _deepspeed,
    "LrSchedulerHook": _nothing("train.lr_scheduler says how the learning rate falls"),
    "LoadCheckpointHook": _nothing("train(checkpoint_path=...) resumes"),
    "DDPHook": _nothing("torchrun starts the processes, and Accelerate joins them"),
    "SwiftHook": _nothing("adapters are PEFT's and are saved as such"),
    "TorchAMPOptimizerHook": _nothing("train.use_fp16 and train.bf16 choose the number format"),
    "ApexAMPOptimizerHook": _refused("Apex is not used; give train.use_fp16 or train.bf16"),
    "PlateauLrSchedulerHook": _refused("the learning rate cannot follow a metric here"),
    "MegatronHook": _refused("there is no tensor parallelism here; give a DeepspeedHook"),
}
"""Stock hooks that are not run, because the kernel does what they would."""


def _unused(keys: Keys) -> Iterator[str]:
    for name in keys.left():
        reason = next(
            (why for key, why in _NO_EFFECT.items() if name == key or name.startswith(f"{key}.")),
            None,
        )
        if reason is not None:
            yield f"{name}: no effect, {reason}"
            continue
        near = difflib.get_close_matches(name, keys.asked(), n=1, cutoff=0.8)
        yield f"{name}: not known, no effect" + (f"; did you mean {near[0]}?" if near else "")


def _leaves(tree: Any, prefix: str) -> Iterator[str]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif tree is not None:
        yield prefix
