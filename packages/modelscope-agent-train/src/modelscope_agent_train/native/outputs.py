"""The folders that CheckpointHook promises, with the trained model for inference; and its push."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from agent_finetune import artifacts
from agent_finetune.contracts import TrainResult
from modelscope_agent_train import outputs
from modelscope_agent_train.finishing import describe

if TYPE_CHECKING:
    from modelscope.utils.config import Config

    from modelscope_agent_train.native.drafts import Push
    from modelscope_agent_train.native.trainer import AgentTrainer

CONFIGURATION = "train_configuration.json"
"""The configuration of the run, in its folder. That of a model says how to load it, no more."""

_ALIASES = ("eval_loss", "agent-ppl")
"""Second names of a figure, which a card does not need."""
_SECRETS = ("hub_token", "token")


def check_push(push: Push | None) -> None:
    """Find out before a run whether its result can be sent.

    Raises:
        ConfigError: There is no token, or the id is none.
        ModelError: The hub does not answer, or refuses the token.
    """
    if push is not None:
        outputs.check_push(push.id, token=push.token)


def write(trainer: AgentTrainer, result: TrainResult) -> None:
    """Describe the trained weights, put them into each output folder, and push them.

    Under torchrun process 0 does it, and the others wait.

    Raises:
        ModelError: The hub refuses, or breaks off; the folders are written.
    """
    together = torch.distributed.is_initialized()
    if not together or torch.distributed.get_rank() == 0:
        out, metrics = Path(trainer.work_dir), trainer.metric_values or {}
        artifacts.write_json(out / CONFIGURATION, configuration(trainer.cfg))
        figures = {name: value for name, value in metrics.items() if name not in _ALIASES}
        describe(out, result.adapter_dir, settings_of(trainer), figures)
        for target in trainer.translation.outputs:
            with artifacts.new_folder(target, replace=True) as folder:
                shutil.copytree(result.adapter_dir, folder, copy_function=_copy, dirs_exist_ok=True)
                if metrics:
                    artifacts.write_json(folder / "eval_result.json", dict(metrics))
        _push(trainer, result.adapter_dir)
    if together:
        torch.distributed.barrier()


def settings_of(trainer: AgentTrainer) -> dict[str, Any]:
    """What a model card says of the run, in the words of the flags of `sft`."""
    train, lora = trainer.translation.train, trainer.adapter
    given = trainer.train_dataset
    said = {
        "dataset": given if isinstance(given, str) else None,
        "sft_type": train.method,
        "learning_rate": train.learning_rate,
        "num_train_epochs": train.epochs,
        "batch_size": train.batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation,
        "max_length": trainer.data_config.max_length,
        "dtype": trainer.loaded.dtype,
        "seed": train.seed,
    }
    if lora is not None:
        said |= {"lora_rank": lora.rank, "lora_alpha": lora.alpha, "lora_dropout_p": lora.dropout}
    return said


def configuration(cfg: Config) -> dict[str, Any]:
    """The configuration of a run, without what is secret or no JSON."""
    tree: dict[str, Any] = _plain(cfg.to_dict())
    return tree


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {str(key): inner for key, inner in value.items() if key not in _SECRETS}
        return {key: _plain(inner) for key, inner in kept.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def _copy(source: str, target: str) -> str:
    """A copy of a file; of weights a second name, which needs no room of its own."""
    if source.endswith(".safetensors"):
        try:
            os.link(source, target)
        except OSError:  # another disk, or one that has no links
            return str(shutil.copy2(source, target))
        return target
    return str(shutil.copy2(source, target))


def _push(trainer: AgentTrainer, weights: Path) -> None:
    push = trainer.translation.push
    if push is None:
        return
    address = outputs.push(
        weights,
        push.id,
        private=push.private,
        revision=push.revision,
        token=push.token,
        say=trainer.logger.info,
    )
    trainer.logger.info(f"sent to: {address}")
