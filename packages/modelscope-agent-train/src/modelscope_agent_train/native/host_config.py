"""The configuration of a trainer: ModelScope's tree, made where a model has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelscope.trainers.default_config import merge_cfg, merge_hooks, update_cfg
from modelscope.utils.config import Config

CONFIGURATION = "configuration.json"


def default_tree(*, method: str, evaluates: bool) -> dict[str, Any]:
    """What a run is where nothing says otherwise: the values of the scripts of 2023."""
    tree: dict[str, Any] = {
        "framework": "pytorch",
        "task": "chat",
        "train": {
            "work_dir": "./work_dir",
            "max_epochs": 1,
            "dataloader": {"batch_size_per_gpu": 1},
            "optimizer": {
                "type": "AdamW",
                "lr": 1e-4 if method == "lora" else 1e-5,
                "weight_decay": 0.01,
                "options": {
                    "cumulative_iters": 1,
                    "grad_clip": {"max_norm": 1.0},
                    "warmup": {"warmup_ratio": 0.1},
                },
            },
            "lr_scheduler": {"type": "CosineAnnealingLR"},
            "hooks": [],
        },
        "evaluation": {"metrics": ["agent-ppl"]},
    }
    if evaluates:
        tree["evaluation"]["period"] = {"eval_strategy": "by_epoch", "interval": 1}
    return tree


def read(
    cfg_file: str | None,
    model_dir: Path | None,
    *,
    default: Mapping[str, Any],
    modify: Callable[[Config], Config] | None,
    options: Mapping[str, Any] | None,
) -> Config:
    """The configuration in force.

    What a file does not say is as in `default`; `modify` has the last word but for `options`.

    Args:
        cfg_file: The file; without it, configuration.json of the model's folder, if it has one.
        model_dir: The model's folder.
        default: A whole tree.
        modify: `cfg_modify_fn`: gets the configuration and answers the one to use.
        options: `cfg_options`, keys with dots and their values.
    """
    beside = None if model_dir is None else model_dir / CONFIGURATION
    file = cfg_file or (str(beside) if beside is not None and beside.is_file() else None)
    cfg = Config(dict(default))
    if file is not None:
        given = Config.from_file(file).to_dict()
        cfg = Config(merged(default, given), filename=file)
    merge_cfg(cfg)
    if modify is not None:
        cfg = modify(cfg)
    if "train" not in cfg:
        cfg["train"] = {}
    if options:
        cfg.merge_from_dict(dict(options))
    return update_cfg(cfg)


def hooks_of(cfg: Config) -> list[dict[str, Any]]:
    """Every hook of a configuration, those that ModelScope keeps elsewhere among them."""
    return [dict(hook) for hook in merge_hooks(cfg)]


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees as one; where both have a value, that of `above`."""
    result = dict(below)
    for key, value in above.items():
        inner = result.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        result[key] = merged(inner, value) if both else value  # type: ignore[arg-type]
    return result
