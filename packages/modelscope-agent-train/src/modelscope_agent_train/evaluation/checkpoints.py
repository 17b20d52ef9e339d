"""What lies in a folder of weights: ours, plain PEFT's or Transformers', or ms-swift's.

ms-swift leaves in `output/vN-time/checkpoint-N` an adapter in PEFT's format or a whole model, and
beside it `args.json` with the arguments of the run, of which these are heeded: `model` and
`model_revision`, where the base that the adapter names is a path of another machine, `quant_bits`
and `system`. Of the tokens that `args.json` may hold nothing is ever shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError, ModelError
from agent_finetune.models.adapter_folders import ADAPTER_CONFIG, read_config
from agent_finetune.records import Example, Message
from modelscope_agent_train import hub, model_types, plan
from modelscope_agent_train.arguments import CommonArguments

SWIFT_ARGS = "args.json"
_NUMBERED = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Weights that somebody trained."""

    adapter: Path | None
    """Folder of an adapter; None: `model` is the weights themselves."""
    model: str | None
    """Base of the adapter, or the folder of the whole model."""
    revision: str | None = None
    quantization_bit: int | None = None
    """In how many bits the base was held while the adapter was trained."""
    system: str | None = None
    """System message that conversations without one were trained with."""
    notes: tuple[str, ...] = ()
    """What the user should know."""


def find(folder: Path) -> Checkpoint:
    """The checkpoint of a folder, or the newest of a run's folder.

    Raises:
        ConfigError: There is none in it.
        ModelError: A file of it cannot be read.
    """
    place = _weights(folder)
    args = _swift_args(place)
    notes = _notes(place, folder, args)
    common: dict[str, Any] = {
        "quantization_bit": args.get("quant_bits"),
        "system": args.get("system") or None,
        "notes": notes,
    }
    if not (place / ADAPTER_CONFIG).is_file():
        return Checkpoint(adapter=None, model=str(place), **common)
    described = read_config(place)
    base, revision = described.get("base_model_name_or_path"), described.get("revision")
    if args.get("model") and not (base and Path(base).exists()):
        base, revision = args["model"], args.get("model_revision")
    return Checkpoint(adapter=place, model=base, revision=revision, **common)


def configure(
    arguments: CommonArguments,
    ckpt_dir: str | None,
    settings: Settings,
    *,
    say: Callable[[str], None],
) -> tuple[ModelConfig, Checkpoint | None]:
    """What to load for flags and a checkpoint; a model given by a flag goes before its base.

    Names of hubs are resolved here, so that what is answered is a folder, a file, or an id of
    Hugging Face.

    Raises:
        ConfigError: Neither names a model, or the folder holds no checkpoint.
        ModelError: The model cannot be had.
    """
    found = None if ckpt_dir is None else find(Path(ckpt_dir).expanduser())
    given = arguments.model_id_or_path or arguments.model_type
    if found is not None:
        for note in found.notes:
            say(note)
        if found.adapter is None:
            arguments = replace(arguments, model_id_or_path=found.model, model_type=None)
        elif given is None:
            if not found.model:
                raise ConfigError(
                    f"{found.adapter / ADAPTER_CONFIG}: names no base; give --model_id_or_path"
                )
            arguments = replace(
                arguments, model_id_or_path=found.model, model_revision=found.revision
            )
        if arguments.quantization_bit is None:
            arguments = replace(arguments, quantization_bit=found.quantization_bit)
    config = plan.model_config(arguments, plan.chosen_model(arguments), _machine(arguments))
    config = _placed(config, arguments, settings, say)
    if found is not None and found.adapter is not None:
        config = replace(config, adapter=str(found.adapter))
    return config, found


def with_system(examples: Sequence[Example], system: str | None) -> list[Example]:
    """Examples of which none is without a system message."""
    if system is None:
        return list(examples)
    first = Message(role="system", text=system)
    return [
        example
        if example.messages[0].role == "system"
        else replace(example, messages=(first, *example.messages))
        for example in examples
    ]


def _weights(folder: Path) -> Path:
    if not folder.is_dir():
        raise ConfigError(f"--ckpt_dir {str(folder)!r}: no such folder")
    runs = [folder / name for name in (".", "adapter", "model", "default")]
    within = [*folder.glob("checkpoint-*"), *folder.glob("checkpoints/checkpoint-*")]
    newest = sorted(
        (path for path in within if _NUMBERED.fullmatch(path.name)),
        key=lambda path: int(path.name.rpartition("-")[2]),
        reverse=True,
    )
    for place in (*runs, *newest):
        if any((place / name).is_file() for name in (ADAPTER_CONFIG, "config.json")):
            return place.resolve()
    inside = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise ConfigError(
        f"--ckpt_dir {str(folder)!r}: no weights in it ({ADAPTER_CONFIG} or config.json), nor in "
        f"adapter, model or checkpoint-N below it; there is {inside}"
    )


def _swift_args(place: Path) -> Mapping[str, Any]:
    """Arguments that ms-swift left beside a checkpoint or in its run's folder; empty without."""
    for folder in (place, place.parent):
        path = folder / SWIFT_ARGS
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot be read: {error}") from error
        if isinstance(content, dict):
            return content
    return {}


def _notes(place: Path, folder: Path, args: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    if place != folder.resolve():
        notes.append(f"checkpoint: {place}")
    if version := args.get("swift_version"):
        notes.append(f"made by ms-swift {version}; base, bits and system are those of {SWIFT_ARGS}")
    if template := args.get("agent_template"):
        notes.append(
            f"trained with ms-swift's agent template {template!r}; here tools and calls are "
            "written by the model's own chat template, and any known form of call is read"
        )
    return tuple(notes)


def _machine(arguments: CommonArguments) -> plan.Machine:
    from importlib.util import find_spec

    import torch

    gpu = torch.cuda.is_available() and arguments.device != "cpu"
    return plan.Machine(gpu=gpu, flash_attn=gpu and find_spec("flash_attn") is not None)


def _placed(
    config: ModelConfig,
    arguments: CommonArguments,
    settings: Settings,
    say: Callable[[str], None],
) -> ModelConfig:
    """The same with the folder of what a hub calls `owner/name`."""
    if "/" not in config.model or Path(config.model).expanduser().exists():
        return config
    known = None if arguments.model_type is None else model_types.find(arguments.model_type)
    resolved = hub.resolve(
        config.model,
        config.revision,
        settings=settings,
        hub=arguments.hub,  # type: ignore[arg-type]
        local_files_only=arguments.local_files_only,
        exact=arguments.model_revision is not None,
        hf_id=None if known is None else known.hf_id,
        trust_remote_code=config.trust_remote_code,
        say=say,
    )
    if resolved.gguf_file is not None:
        return config
    return replace(config, model=resolved.location, revision=resolved.revision)
