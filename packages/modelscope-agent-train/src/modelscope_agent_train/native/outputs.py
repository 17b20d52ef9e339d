"""The folders that CheckpointHook promises: the trained model, ready for inference."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from agent_finetune import artifacts
from agent_finetune.contracts import TrainResult

if TYPE_CHECKING:
    from modelscope.utils.config import Config

    from modelscope_agent_train.native.trainer import AgentTrainer

_SECRETS = ("push_to_hub", "hub_repo_id", "hub_token", "private_hub")


def write(trainer: AgentTrainer, result: TrainResult) -> None:
    """Fill each output folder with the trained model and its configuration.json; then push.

    Under torchrun process 0 does it, and the others wait.
    """
    together = torch.distributed.is_initialized()
    if not together or torch.distributed.get_rank() == 0:
        for target in trainer.translation.outputs:
            with artifacts.new_folder(target, replace=True) as folder:
                shutil.copytree(result.adapter_dir, folder, copy_function=_link, dirs_exist_ok=True)
                artifacts.write_json(folder / "configuration.json", configuration(trainer.cfg))
                if trainer.metric_values is not None:
                    artifacts.write_json(folder / "eval_result.json", dict(trainer.metric_values))
        if trainer.translation.push is not None:
            _push(trainer, trainer.translation.push)
    if together:
        torch.distributed.barrier()


def configuration(cfg: Config) -> dict[str, Any]:
    """configuration.json of a trained model: the run's, without what is secret or no JSON."""
    tree: dict[str, Any] = _plain(cfg.to_dict())
    for part in (tree.get("train") or {}).get("checkpoint", {}).values():
        for name in _SECRETS:
            part.pop(name, None)
    return tree


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def _link(source: str, target: str) -> str:
    """A second name for a file of weights; the output needs no room of its own."""
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that has no links
        shutil.copy2(source, target)
    return target


def _push(trainer: AgentTrainer, push: Mapping[str, Any]) -> None:
    from modelscope.hub.push_to_hub import push_to_hub

    target = trainer.translation.outputs[0]
    push_to_hub(
        repo_name=push["hub_repo_id"],
        output_dir=str(target),
        token=push["hub_token"],
        private=push["private_hub"] is not False,
        revision=push["hub_revision"] or "master",
    )
    trainer.logger.info(f"pushed {target} to {push['hub_repo_id']}")
