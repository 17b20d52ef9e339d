"""What a fine-tuning is going to do: planned on the event loop, done on a thread beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from agent_finetune.config import ModelConfig, RunConfig
from agent_finetune.contracts import Settings
from agent_finetune.engine.local import LocalEngine
from agent_finetune.errors import ConfigError
from agent_finetune.models.adapter_folders import with_base
from agent_finetune.readers import open_source
from agentscope_finetune import runs
from agentscope_finetune.example2024 import FineTuneConfig
from agentscope_finetune.model import TransformersChatModel
from agentscope_finetune.parameters import REPLY_LENGTH

Progress = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuneResult:
    """What came of a fine-tuning; the agent speaks through it already."""

    folder: Path
    """The run: `sft_...` with run.json, history.jsonl, metrics.json and log_history.json."""
    adapter: Path | None
    """The LoRA adapter, in PEFT's format."""
    model: Path | None
    """The model folder, after full fine-tuning."""
    loss: float
    """Mean loss of the last logged step, nats per trained token."""
    steps: int
    seconds: float
    notes: tuple[str, ...] = ()
    """What became of each key of the configuration and of the data, one line each."""

    def __str__(self) -> str:
        done = f"fine-tuned: {self.steps} steps in {self.seconds:.0f} s, loss {self.loss:.4f}"
        return "\n".join([done, str(self.adapter or self.model), *self.notes])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run that can be made; its methods block."""

    engine: LocalEngine
    config: RunConfig
    output: Path
    notes: list[str]

    def run(self, follow: Progress, stop: threading.Event) -> Path:
        """Train into a new folder."""
        folder = runs.claim(self.output, runs.base_name(self.config.model))
        try:
            self.engine.train(
                replace(self.config, out=str(folder)),
                on_progress=follow,
                report=self.notes.append,
                stop=stop,
            )
            runs.write_log_history(folder)
        except BaseException:
            runs.give_up(folder)
            raise
        return folder

    def run_once(
        self, follow: Progress, stop: threading.Event, settings: Settings, also: str
    ) -> Path:
        """Train, or find what was trained."""
        digest = open_source(self.config.data.data, settings, self.config.data.split).digest
        how = {
            "lora": asdict(self.config.lora),
            "train": asdict(self.config.train),
            "max_length": self.config.data.max_length,
            "also": also,
        }
        key = runs.key_of(self.config.model, digest, how)
        return runs.once(self.output, key, partial(self.run, follow, stop), stop)

    def outcome(self, folder: Path) -> tuple[FineTuneResult, ModelConfig]:
        """What a finished run is, and what speaks through it."""
        run = runs.finished(folder) or {}
        adapter = folder / "adapter" if self.config.train.method == "lora" else None
        model = folder / "model" if adapter is None else None
        result = FineTuneResult(
            folder=folder,
            adapter=adapter,
            model=model,
            loss=run["loss"],
            steps=run["steps"],
            seconds=run["seconds"],
            notes=tuple(self.notes),
        )
        if model is not None:
            return result, replace(self.config.model, model=str(model), revision=None)
        return result, replace(self.config.model, adapter=str(adapter))


def trained(served: ModelConfig, asked: FineTuneConfig, notes: list[str]) -> ModelConfig:
    """What a run begins from: the agent's model with the changes that were asked for."""
    config = replace(with_base(served), **asked.model)
    if not asked.continue_lora and config.adapter is not None:
        notes.append(
            f"adapter: begun anew, without what the agent learned in {config.adapter}; "
            "continue_lora_finetuning goes on with it"
        )
        return replace(config, adapter=None)
    if asked.continue_lora and config.adapter is None:
        raise ConfigError(
            "continue_lora_finetuning is True, and the agent speaks through no adapter; load one "
            "with load_model(local_model_path=...), or leave the key out"
        )
    return config


def make_model(config: ModelConfig, *, settings: Settings | None = None) -> TransformersChatModel:
    """A chat model on what a config names, whose replies end; nothing is loaded."""
    return TransformersChatModel(
        parameters=TransformersChatModel.Parameters(max_tokens=REPLY_LENGTH),
        model=config.model,
        adapter=config.adapter,
        revision=config.revision,
        device=config.device,
        dtype=config.dtype,
        quantization=config.quantization,
        trust_remote_code=config.trust_remote_code,
        settings=settings,
    )


def end_replies(model: TransformersChatModel, asked: FineTuneConfig) -> None:
    """Let replies have the length that was asked for, if any was."""
    if asked.max_new_tokens is not None:
        model.parameters = model.parameters.model_copy(update={"max_tokens": asked.max_new_tokens})
