"""ModelScope's own hooks as settings of the kernel, which does what they would."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent_finetune import artifacts
from agent_finetune.contracts import Secret
from agent_finetune.errors import ConfigError
from modelscope_agent_train.native.drafts import EVERY, LOSSES, NEVER, Draft, Keys, Push, unused


def take_hook(draft: Draft, hook: Mapping[str, Any]) -> None:
    """Make a setting of a hook that the kernel stands in for, and keep any other to be run.

    Raises:
        ConfigError: It asks for what is not done here.
    """
    kind = hook["type"]
    name = kind if isinstance(kind, str) else kind.__name__
    ours = isinstance(kind, str) or kind.__module__.startswith("modelscope.")
    handler = _MAPPED.get(name) if ours else None
    if handler is None:
        draft.executed.append(dict(hook))
        return
    keys = Keys({key: value for key, value in hook.items() if key != "type"}, name)
    handler(draft, keys)
    draft.notes += unused(keys)


def _strategy(keys: Keys, name: str) -> str:
    """by_epoch, by_step or no; `by_epoch` is the older way to say it."""
    if (by_epoch := keys.take("by_epoch")) is not None:
        return "by_epoch" if by_epoch else "by_step"
    strategy = str(keys.take(name, "by_epoch"))
    if strategy not in ("by_epoch", "by_step", "no"):
        raise ConfigError(f"{keys.name}.{name} is {strategy!r}; legal are by_epoch, by_step and no")
    return strategy


def _checkpoint(draft: Draft, keys: Keys) -> None:
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
    draft.push = _push(keys)


def _push(keys: Keys) -> Push | None:
    id, token = keys.take("hub_repo_id"), keys.take("hub_token")
    private, revision = keys.take("private_hub", True), keys.take("hub_revision", "master")
    if not keys.take("push_to_hub"):
        return None
    if not id:
        raise ConfigError(f"{keys.name}.push_to_hub is true, and hub_repo_id is not given")
    return Push(
        id=str(id),
        token=Secret(token) if token else None,
        private=bool(private),
        revision=str(revision),
    )


def _best(draft: Draft, keys: Keys) -> None:
    if keys.take("save_best", True) is False:
        return
    metric, rule = keys.take("metric_key"), keys.take("rule", "max")
    if metric not in LOSSES or rule != "min":
        raise ConfigError(
            f"BestCkptSaverHook.metric_key is {metric!r} and rule is {rule!r}; legal are "
            f"{', '.join(LOSSES)} with the rule min"
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


def _output(draft: Draft, keys: Keys, default: str) -> Path:
    if (place := keys.take("save_dir")) and Path(place) != draft.run.out:
        draft.notes.append(f"{keys.name}.save_dir: checkpoints lie in work_dir/checkpoints")
    if part := keys.take("output_sub_dir"):
        return draft.run.out / str(part)
    folder = keys.take("output_dir")
    return draft.run.out / default if folder is None else Path(folder)


def _evaluate(draft: Draft, keys: Keys) -> None:
    strategy = _strategy(keys, "eval_strategy")
    interval = int(keys.take("interval", 1))
    never = strategy == "no" or not draft.run.evaluates
    draft.values["eval_steps"] = NEVER if never else draft.every(strategy, interval)
    if keys.take("start_idx"):
        draft.notes.append("EvaluationHook.start_idx: evaluation begins with the run")


def _accumulate(draft: Draft, keys: Keys) -> None:
    draft.values["gradient_accumulation"] = int(keys.take("cumulative_iters", 1))
    if limit := keys.take("grad_clip.max_norm"):
        draft.values["max_grad_norm"] = float(limit)
    keys.take("grad_clip.norm_type")
    keys.take("loss_keys")


def _deepspeed(draft: Draft, keys: Keys) -> None:
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
    config = json.loads(path.read_text("utf-8"))
    config.setdefault("zero_optimization", {})["stage"] = stage
    out.mkdir(parents=True, exist_ok=True)
    artifacts.write_json(out / "deepspeed.json", config)
    return str(out / "deepspeed.json")


def _nothing(why: str) -> Callable[[Draft, Keys], None]:
    def handler(draft: Draft, keys: Keys) -> None:
        for name in keys.tree:
            keys.take(name)
        draft.notes.append(f"{keys.name}: not run, {why}")

    return handler


def _refused(why: str) -> Callable[[Draft, Keys], None]:
    def handler(draft: Draft, keys: Keys) -> None:
        raise ConfigError(f"{keys.name} is in train.hooks; {why}")

    return handler


_MAPPED: dict[str, Callable[[Draft, Keys], None]] = {
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
