"""Configurations of AgentScope's 2024 fine-tuning example, read with their meaning.

The example (conversation_with_agent_with_finetuned_model) trained through `fine_tune_config`, a
nest of keys of PEFT, Transformers and bitsandbytes, and named its models in `model_configs.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from agent_finetune.config import AdapterConfig, TrainConfig
from agent_finetune.errors import ConfigError
from agentscope_finetune.training_arguments import TrainingArguments, read_training_arguments
from agentscope_finetune.values2024 import device, flag, mapping, text, unknown, whole
from agentscope_finetune.weights2024 import read_bnb, read_lora

KEYS = (
    "lora_config",
    "training_args",
    "bnb_config",
    "max_seq_length",
    "continue_lora_finetuning",
    "max_length",
    "device",
    "output_dir",
)
"""Keys of `fine_tune_config`. The last three stood beside it in 2024, and may stand in it."""


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig:
    """What a `fine_tune_config` asks for, in the kernel's words."""

    model: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ModelConfig to change (quantization, dtype, device):
    `dataclasses.replace(model_config, **found.model)`."""
    lora: AdapterConfig = field(default_factory=AdapterConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(batch_size=4))
    max_length: int | None = None
    """Most tokens of a row (`max_seq_length`); None is what the model's context holds."""
    max_new_tokens: int | None = None
    """Most tokens of a reply (`max_length`); None leaves it to the model's parameters."""
    continue_lora: bool = False
    """Whether the adapter that is loaded goes on training, with its own rank and targets."""
    output_dir: str | None = None
    """Folder in which the run makes its own."""
    notes: tuple[str, ...] = ()
    """One line per key that was given: what became of it."""


def read_fine_tune_config(config: Mapping[str, Any] | None) -> FineTuneConfig:
    """Read a `fine_tune_config` of 2024; the mapping is not changed.

    Keys that are given have the meaning they had. What is absent has this project's default, and
    three of the example's own are kept: four rows per forward pass, one epoch, a log line per
    step. Where 2024's defaults were faults ours are used: the model's own turns are trained and
    not the prompt, LoRA unless `lora_config` is an empty object (then every weight trains), a
    learning rate that fits the method (5e-4 for LoRA, 2e-5 for all weights) and not 5e-5 for
    both, all linear layers and not two of them, bfloat16 only where the hardware computes in it,
    AdamW that runs on a CPU too, and rows cut nowhere before the model's context ends.

    Raises:
        ConfigError: One key, with its value and what is legal.
    """
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(f"fine_tune_config is {config!r}; legal is an object or None")
    try:
        return _read({} if config is None else mapping("its content", config))
    except ConfigError as error:
        raise ConfigError(f"fine_tune_config: {error}") from error


def _read(given: Mapping[str, Any]) -> FineTuneConfig:
    for name in given:
        if name not in KEYS:
            raise unknown(name, KEYS, "key of it")
    notes: list[str] = []
    continue_lora = _continues(given, notes)
    lora, method = _method(given, continue_lora, notes)
    arguments = read_training_arguments(mapping("training_args", given.get("training_args")))
    model = read_bnb(mapping("bnb_config", given.get("bnb_config")), notes)
    notes += arguments.notes
    return FineTuneConfig(
        model=MappingProxyType(_model(given, model, arguments, method, notes)),
        lora=lora,
        train=TrainConfig(**{"method": method, "batch_size": 4, **arguments.train}),
        max_length=_max_length(given, arguments, notes),
        max_new_tokens=_reply_length(given, notes),
        continue_lora=continue_lora,
        output_dir=_folder(given, notes) or arguments.output_dir,
        notes=tuple(notes),
    )


def _continues(given: Mapping[str, Any], notes: list[str]) -> bool:
    if given.get("continue_lora_finetuning") is None:
        return False
    found = flag("continue_lora_finetuning", given["continue_lora_finetuning"])
    meaning = "the loaded adapter goes on training" if found else "a new adapter"
    notes.append(f"continue_lora_finetuning: {meaning}")
    return found


def _method(
    given: Mapping[str, Any], continue_lora: bool, notes: list[str]
) -> tuple[AdapterConfig, str]:
    """The adapter, and `lora` or `full`: an empty `lora_config` trained every weight in 2024."""
    if given.get("lora_config") is None:
        return AdapterConfig(), "lora"
    config = mapping("lora_config", given["lora_config"])
    found: list[str] = []
    lora = read_lora(config, found)
    if continue_lora:
        notes.append("lora_config: not used, because the loaded adapter has its own")
        return AdapterConfig(), "lora"
    if not config:
        notes.append("lora_config: empty, so every weight trains")
        return lora, "full"
    notes += found
    return lora, "lora"


def _model(
    given: Mapping[str, Any],
    model: dict[str, str],
    arguments: TrainingArguments,
    method: str,
    notes: list[str],
) -> dict[str, str]:
    """The changed fields of ModelConfig; what `bnb_config` says of the number format wins."""
    if method == "full" and model.get("quantization", "none") != "none":
        raise ConfigError(
            "lora_config is {}, which trains every weight, and bnb_config "
            f"holds them in {model['quantization']}; quantized weights cannot be trained: leave "
            "lora_config out, or bnb_config"
        )
    if arguments.dtype is not None:
        if method == "full" and arguments.dtype == "bfloat16":
            # Weights held in bfloat16 would train in it, which mixed precision never meant.
            notes.append("training_args.bf16: every weight trains in float32")
        else:
            model.setdefault("dtype", arguments.dtype)
    if given.get("device") is not None:
        model["device"] = device("device", given["device"])
        notes.append(f"device: {model['device']}")
    elif arguments.device is not None:
        model["device"] = arguments.device
    return model


def _max_length(
    given: Mapping[str, Any], arguments: TrainingArguments, notes: list[str]
) -> int | None:
    if given.get("max_seq_length") is None:
        return arguments.max_length
    found: int = whole(least=8)("max_seq_length", given["max_seq_length"])
    notes.append(f"max_seq_length: rows of at most {found} tokens, the oldest turns go first")
    return found


def _reply_length(given: Mapping[str, Any], notes: list[str]) -> int | None:
    if given.get("max_length") is None:
        return None
    found: int = whole(least=1)("max_length", given["max_length"])
    notes.append(f"max_length: replies of at most {found} tokens")
    return found


def _folder(given: Mapping[str, Any], notes: list[str]) -> str | None:
    if given.get("output_dir") is None:
        return None
    notes.append("output_dir: the run's folder is made in it")
    return text("output_dir", str(given["output_dir"]))
