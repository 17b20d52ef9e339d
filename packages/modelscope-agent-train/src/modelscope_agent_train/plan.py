"""From flags to a run: what `sft` will do, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from agent_finetune.config import (
    AdapterConfig,
    DataConfig,
    Dtype,
    FourBitType,
    ModelConfig,
    OverlongPolicy,
    Quantization,
    RunConfig,
    Schedule,
    TrainConfig,
)
from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError
from modelscope_agent_train import model_types
from modelscope_agent_train.arguments import CommonArguments, SftArguments
from modelscope_agent_train.model_types import ALL_LINEAR, ModelType

DTYPES: Mapping[str, Dtype] = {
    "auto": "auto",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp32": "float32",
}
QUANTIZATION: Mapping[int | None, Quantization] = {None: "none", 4: "4bit", 8: "8bit"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What this machine can do, as far as a flag depends on it."""

    gpu: bool
    flash_attn: bool
    """Whether flash-attn is installed and there is a GPU for it."""
    processes: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The model that flags name."""

    name: str
    """Id, folder or file."""
    revision: str | None
    label: str
    """Folder of its runs under output_dir."""
    type: ModelType | None
    overrides: bool = False
    """Whether `model_id_or_path` stands in for the type's own weights."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Layers of an adapter, unless flags name others.

        A model given instead of one with code of its own has other layers than that.
        """
        if self.type is None or (self.type.own_code and self.overrides):
            return (ALL_LINEAR,)
        return self.type.targets


def chosen_model(arguments: CommonArguments) -> Chosen:
    """Which model the flags name.

    Raises:
        ConfigError: None, or an unknown `model_type`.
        ModelError: One that today's Transformers cannot load.
    """
    known = None if arguments.model_type is None else model_types.find(arguments.model_type)
    given = arguments.model_id_or_path
    if given is None and known is None:
        raise ConfigError(
            "no model: give --model_type with one of "
            f"{', '.join(model_types.MODEL_TYPES)}, or --model_id_or_path with an id, a folder or "
            "a GGUF file"
        )
    if given is not None:
        label = arguments.model_type or Path(given).name.removesuffix(".gguf") or "model"
        revision = arguments.model_revision
        return Chosen(name=given, revision=revision, label=label, type=known, overrides=True)
    assert known is not None
    model_types.check_loads(known, trust_remote_code=arguments.trust_remote_code)
    return Chosen(
        name=known.id,
        revision=arguments.model_revision or known.revision,
        label=known.name,
        type=known,
    )


def located(
    arguments: CommonArguments, chosen: Chosen, settings: Settings, say: Callable[[str], None]
) -> Chosen:
    """The model after it was fetched: by the name under which the kernel finds it again.

    Raises:
        FinetuneError: It is nowhere; each place says why.
    """
    from modelscope_agent_train import hub

    known = None if chosen.overrides else chosen.type
    found = hub.resolve(
        chosen.name,
        chosen.revision,
        settings=settings,
        hub=cast("hub.Hub", arguments.hub),
        local_files_only=arguments.local_files_only,
        exact=known is None or arguments.model_revision is not None,
        hf_id=None if known is None else known.hf_id,
        trust_remote_code=arguments.trust_remote_code,
        say=say,
    )
    if found.revision is not None:  # of Hugging Face, a commit
        return replace(chosen, name=found.name, revision=found.revision)
    if Path(chosen.name).expanduser().exists() or found.gguf_file is not None:
        return chosen
    revision = chosen.revision
    if revision is not None and hub.cached_model(chosen.name, revision) is None:
        revision = None  # another one was taken, and told
    return replace(chosen, revision=revision)


def attention_of(arguments: CommonArguments, machine: Machine) -> str:
    """The attention that `use_flash_attn` comes to on this machine."""
    if arguments.use_flash_attn is None:
        return "auto"
    on_gpu = machine.gpu and arguments.device != "cpu"
    if arguments.use_flash_attn and machine.flash_attn and on_gpu:
        return "flash_attention_2"
    return "sdpa"


def model_config(arguments: CommonArguments, chosen: Chosen, machine: Machine) -> ModelConfig:
    """How the base is loaded.

    Raises:
        ConfigError: Flags that contradict each other, or that this machine cannot follow.
    """
    _check_formats(arguments, machine)
    return ModelConfig(
        model=chosen.name,
        revision=chosen.revision,
        device=arguments.device,
        dtype=DTYPES[arguments.dtype],
        quantization=QUANTIZATION[arguments.quantization_bit],
        four_bit_type=cast("FourBitType", arguments.bnb_4bit_quant_type),
        double_quantization=arguments.bnb_4bit_use_double_quant,
        attention=attention_of(arguments, machine),  # type: ignore[arg-type]
        trust_remote_code=arguments.trust_remote_code,
    )


def run_config(
    arguments: SftArguments, chosen: Chosen, machine: Machine, *, out: Path, resume: bool
) -> RunConfig:
    """The kernel's run of these flags.

    Raises:
        ConfigError: A flag that is not offered, or a value that cannot be kept to.
    """
    _check_offered(arguments)
    if not arguments.dataset:
        raise ConfigError(_no_dataset())
    return RunConfig(
        model=model_config(arguments, chosen, machine),
        data=DataConfig(
            data=arguments.dataset,
            format=arguments.format,
            # What is held out is chosen by our own split; the share tells the kernel that it is.
            eval_share=arguments.dataset_test_ratio,
            on_bad_row="skip" if arguments.on_bad_row == "skip" else "stop",
            max_length=arguments.max_length,
            overlong=cast("OverlongPolicy", arguments.truncation),
        ),
        out=str(out),
        lora=AdapterConfig(
            rank=arguments.lora_rank,
            alpha=arguments.lora_alpha,
            dropout=arguments.lora_dropout_p if arguments.sft_type == "lora" else 0.0,
            targets=targets_of(arguments, chosen),
            dora=arguments.use_dora,
        ),
        train=_train_config(arguments, resume=resume),
    )


def targets_of(arguments: SftArguments, chosen: Chosen) -> tuple[str, ...]:
    """Layers that get an adapter; `ALL` is every linear one."""
    named = arguments.lora_target_modules or chosen.targets
    return tuple(ALL_LINEAR if name in ("ALL", "all") else name for name in named)


def _train_config(arguments: SftArguments, *, resume: bool) -> TrainConfig:
    return TrainConfig(
        method="lora" if arguments.sft_type == "lora" else "full",
        epochs=arguments.num_train_epochs,
        max_steps=arguments.max_steps,
        batch_size=arguments.batch_size,
        gradient_accumulation=arguments.gradient_accumulation_steps,
        learning_rate=arguments.peak_learning_rate,
        schedule=cast("Schedule", arguments.lr_scheduler_type),
        warmup=arguments.warmup_ratio,
        optimizer=arguments.optim,
        weight_decay=arguments.weight_decay,
        max_grad_norm=arguments.max_grad_norm,
        seed=arguments.seed,
        pack=arguments.pack,
        gradient_checkpointing=arguments.gradient_checkpoint,
        log_steps=arguments.logging_steps,
        eval_steps=arguments.eval_steps,
        save_steps=arguments.checkpoint_steps,
        keep_checkpoints=arguments.save_total_limit,
        save_only_model=arguments.save_only_model,
        deepspeed=arguments.deepspeed,
        resume=resume,
    )


def _check_formats(arguments: CommonArguments, machine: Machine) -> None:
    on_gpu = machine.gpu and arguments.device != "cpu"
    if arguments.dtype == "fp16" and not on_gpu:
        raise ConfigError("--dtype fp16 needs a GPU; on a CPU take bf16, fp32 or auto")
    products = arguments.bnb_4bit_comp_dtype
    if arguments.quantization_bit == 4 and products not in ("auto", arguments.dtype):
        raise ConfigError(
            f"--bnb_4bit_comp_dtype is {products!r} and --dtype is {arguments.dtype!r}; products "
            f"with 4-bit weights are in the one format of all products: give --dtype {products}"
        )
    if arguments.sft_type == "full" and arguments.quantization_bit is not None:
        raise ConfigError(
            f"--quantization_bit {arguments.quantization_bit} and --sft_type full: quantized "
            "weights cannot be trained whole; take --sft_type lora"
        )
    if arguments.sft_type == "full" and arguments.dtype == "fp16":
        raise ConfigError(
            "--dtype fp16 and --sft_type full: weights held in fp16 do not train; take bf16 or fp32"
        )


def _check_offered(arguments: SftArguments) -> None:
    for name in ("fsdp", "fsdp_config"):
        if value := {"fsdp": arguments.fsdp, "fsdp_config": arguments.fsdp_config}[name]:
            raise ConfigError(
                f"--{name} {value!r}: FSDP is not offered; --deepspeed with a ZeRO stage 3 file "
                "divides weights, gradients and optimizer states over the processes as FSDP does"
            )


def _no_dataset() -> str:
    from modelscope_agent_train.sources import sample_names

    return (
        "no data: give --dataset with a file, a folder, a hub id such as damo/MSAgent-Bench, or a "
        f"shipped sample ({', '.join(sample_names())})"
    )
