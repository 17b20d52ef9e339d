"""What each flag does, in words: one sentence for each, of the run that it led to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent_finetune.config import RunConfig
from modelscope_agent_train.arguments import SftArguments
from modelscope_agent_train.plan import Chosen, Machine


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What effects are told of."""

    arguments: SftArguments
    chosen: Chosen
    machine: Machine
    run: RunConfig
    resumed: Path | None = None
    """The checkpoint that the run goes on from."""


class Nothing(str):
    """Why a flag did nothing."""

    __slots__ = ()


Tell = Callable[[Facts], str]


def _model(facts: Facts) -> str:
    revision = facts.run.model.revision
    return facts.run.model.model + (f" at {revision}" if revision else "")


def _model_type(facts: Facts) -> str:
    if facts.arguments.model_id_or_path is None:
        return _model(facts)
    layers = ", ".join(facts.chosen.targets)
    return f"layers {layers}; the weights are those of model_id_or_path"


def _revision(facts: Facts) -> str:
    return f"{facts.run.model.model} at {facts.run.model.revision}"


def _remote(facts: Facts) -> str:
    return "code that comes with the model may run" if facts.arguments.trust_remote_code else "off"


def _sft_type(facts: Facts) -> str:
    if facts.run.train.method == "full":
        return "every weight is trained"
    return "an adapter is trained beside the frozen base"


def _dtype(facts: Facts) -> str:
    dtype = facts.run.model.dtype
    if dtype == "auto":
        return "bf16 where the hardware is good at it; else fp16 on a GPU, fp32 on a CPU"
    held = f"base in {dtype}, adapter in float32, products in {dtype}"
    if facts.run.train.method == "full":
        held = f"weights and products in {dtype}"
    slow = dtype == "bfloat16" and not _on_gpu(facts)
    return held + ("; on a CPU without bf16 units fp32 is faster" if slow else "")


def _four_bits(told: Tell) -> Tell:
    def tell(facts: Facts) -> str:
        if facts.arguments.quantization_bit != 4:
            return Nothing("only with --quantization_bit 4")
        return told(facts)

    return tell


def _lora(told: Tell) -> Tell:
    def tell(facts: Facts) -> str:
        if facts.arguments.sft_type != "lora":
            return Nothing("only with --sft_type lora")
        return told(facts)

    return tell


def _attention(facts: Facts) -> str:
    wanted, found = facts.arguments.use_flash_attn, facts.run.model.attention
    if found == "flash_attention_2":
        return "flash-attn"
    if wanted:
        why = "no GPU" if not _on_gpu(facts) else "flash-attn is not installed"
        return f"{why}: SDPA of torch is used"
    return "SDPA of torch" if wanted is False else "SDPA where the model has it"


def _backend(facts: Facts) -> str:
    wanted = facts.arguments.ddp_backend
    if facts.machine.processes == 1:
        return Nothing("one process; torchrun starts more")
    if wanted == "nccl" and not _on_gpu(facts):
        return "no GPU: gloo is used"
    return str(wanted)


def _dataset(facts: Facts) -> str:
    how = "found by its rows" if facts.arguments.format == "auto" else facts.arguments.format
    return f"format {how}"


def _sample(facts: Facts) -> str:
    most = facts.arguments.dataset_sample
    return "all rows" if most == -1 else f"{most} rows at most, drawn by dataset_seed"


def _ratio(facts: Facts) -> str:
    ratio = facts.arguments.dataset_test_ratio
    if not ratio:
        return "nothing is held out, so nothing is measured"
    return f"{ratio:.2%} of the rows are held out, whole {facts.arguments.split_by}"


def _format(facts: Facts) -> str:
    auto = facts.arguments.format == "auto"
    return "found by the rows" if auto else f"rows are read as {facts.arguments.format}"


def _truncation(facts: Facts) -> str:
    if facts.arguments.legacy_format:
        return f"{facts.arguments.truncation}, by whole turns"
    return {
        "trim": "the oldest turns go; system and tools stay",
        "drop": "rows that are too long are left out and counted",
        "error": "a row that is too long stops the run",
    }[facts.arguments.truncation]


def _form(facts: Facts) -> str:
    if facts.arguments.legacy_format:
        return "the text of 2023, tokenized as a whole"
    return "the model's own chat template with tool calls"


def _targets(facts: Facts) -> str:
    return f"adapter on {', '.join(facts.run.lora.targets)}"


def _checkpointing(facts: Facts) -> str:
    if facts.run.train.gradient_checkpointing:
        return "activations are computed twice: less memory, more time"
    return "activations are held: more memory, less time"


def _batch(facts: Facts) -> str:
    train, processes = facts.run.train, facts.machine.processes
    step = train.batch_size * train.gradient_accumulation * processes
    return f"{step} rows per optimizer step, over {processes} process{'es' * (processes > 1)}"


def _rate(facts: Facts) -> str:
    train = facts.run.train
    return f"peak {train.peak_learning_rate:g}, then {train.schedule}"


def _steps(facts: Facts) -> str:
    if facts.arguments.max_steps is not None:
        return f"{facts.arguments.max_steps} optimizer steps, whatever num_train_epochs says"
    return f"{facts.run.train.epochs:g} passes over the rows"


def _epochs(facts: Facts) -> str:
    if facts.arguments.max_steps is not None:
        return Nothing("max_steps is given")
    return _steps(facts)


def _measuring(facts: Facts) -> str:
    if not facts.arguments.dataset_test_ratio:
        return Nothing("nothing is held out")
    return f"held-out loss every {facts.run.train.eval_steps} steps, at the start and at the end"


def _end_measure(facts: Facts) -> str:
    if not facts.arguments.evaluate:
        return "tool calls are not measured"
    if not facts.arguments.dataset_test_ratio:
        return Nothing("nothing is held out")
    most = facts.arguments.evaluate_sample
    return f"tool calls of {'all' if most == -1 else f'at most {most}'} held-out rows at the end"


def _saving(facts: Facts) -> str:
    return f"a checkpoint every {facts.run.train.save_steps} steps, and the result at the end"


def _pushing(told: Tell) -> Tell:
    def tell(facts: Facts) -> str:
        return told(facts) if facts.arguments.push_to_hub else Nothing("only with --push_to_hub")

    return tell


def _resume(facts: Facts) -> str:
    return f"goes on from {facts.resumed}" if facts.resumed else "nothing to go on from"


def _on_gpu(facts: Facts) -> bool:
    return facts.machine.gpu and facts.arguments.device != "cpu"


def _say(text: str) -> Tell:
    return lambda _: text


def _no(why: str) -> Tell:
    return lambda _: Nothing(why)


TOLD: Mapping[str, Tell] = {
    "model_type": _model_type,
    "model_id_or_path": _model,
    "model_revision": _revision,
    "hub": lambda f: f"ids are looked up in: {f.arguments.hub}",
    "local_files_only": lambda f: (
        "no hub is asked" if f.arguments.local_files_only else "hubs may be asked"
    ),
    "trust_remote_code": _remote,
    "sft_type": _sft_type,
    "dtype": _dtype,
    "device": lambda f: f.run.model.device,
    "quantization_bit": lambda f: f"base in {f.run.model.quantization}",
    "bnb_4bit_comp_dtype": _four_bits(lambda f: f"products in {f.run.model.dtype}, as dtype says"),
    "bnb_4bit_quant_type": _four_bits(lambda f: f"4 bits are {f.run.model.four_bit_type}"),
    "bnb_4bit_use_double_quant": _four_bits(
        lambda f: "scales in " + ("8 bits" if f.run.model.double_quantization else "float32")
    ),
    "use_flash_attn": _attention,
    "seed": lambda f: f"seed {f.run.train.seed}, the same in every process",
    "dataset": _dataset,
    "dataset_seed": _say("draws the sample and the held-out rows"),
    "dataset_sample": _sample,
    "dataset_test_ratio": _ratio,
    "split_by": lambda f: f"whole {f.arguments.split_by} are held out",
    "format": _format,
    "on_bad_row": lambda f: (
        "rows that do not read are left out and counted"
        if f.arguments.on_bad_row == "skip"
        else "the first row that does not read stops the run"
    ),
    "prompt": _no("the script of 2023 never used it either; give system turns in the data"),
    "max_length": lambda f: f"rows of at most {f.run.data.max_length} tokens",
    "legacy_format": _form,
    "ignore_args_error": _say("unknown flags are left out"),
    "output_dir": lambda f: f.run.out,
    "resume_from_ckpt": _resume,
    "ddp_backend": _backend,
    "truncation": _truncation,
    "lora_target_modules": _lora(_targets),
    "lora_rank": _lora(lambda f: f"rank {f.run.lora.rank}"),
    "lora_alpha": _lora(
        lambda f: f"updates are scaled by {f.run.lora.alpha / f.run.lora.rank:g} (alpha / rank)"
    ),
    "lora_dropout_p": _lora(lambda f: f"{f.run.lora.dropout:g} of the adapter's inputs are zeroed"),
    "use_dora": _lora(lambda f: "an adapter of DoRA" if f.run.lora.dora else "plain LoRA"),
    "gradient_checkpoint": _checkpointing,
    "batch_size": _batch,
    "num_train_epochs": _epochs,
    "max_steps": _steps,
    "optim": lambda f: f.run.train.optimizer,
    "learning_rate": _rate,
    "weight_decay": lambda f: f"decoupled, {f.run.train.weight_decay:g}",
    "gradient_accumulation_steps": _batch,
    "max_grad_norm": lambda f: f"gradients are scaled down to norm {f.run.train.max_grad_norm:g}",
    "lr_scheduler_type": lambda f: f.run.train.schedule,
    "warmup_ratio": lambda f: f"the rate rises over {f.run.train.warmup:.0%} of the steps",
    "pack": lambda f: "rows end to end" if f.run.train.pack else "rows are padded",
    "eval_steps": _measuring,
    "save_steps": _saving,
    "save_total_limit": lambda f: f"the newest {f.run.train.keep_checkpoints} checkpoints stay",
    "save_only_model": lambda f: (
        "checkpoints hold the weights alone; no run can go on from them"
        if f.run.train.save_only_model
        else "checkpoints hold what a run needs to go on"
    ),
    "logging_steps": lambda f: f"a line of history.jsonl every {f.run.train.log_steps} steps",
    "skip_memory_metrics": _no("memory is never measured"),
    "push_to_hub": lambda f: (
        f"the result goes to {f.arguments.hub_model_id}" if f.arguments.push_to_hub else "off"
    ),
    "hub_model_id": _pushing(lambda f: str(f.arguments.hub_model_id)),
    "hub_private_repo": _pushing(
        lambda f: "private" if f.arguments.hub_private_repo else "public, when it is made"
    ),
    "hub_strategy": _pushing(_say("the result is sent once, when the run has ended")),
    "hub_token": _pushing(_say("is used, and written nowhere")),
    "fsdp": _no("not offered"),
    "fsdp_config": _no("not offered"),
    "deepspeed": lambda f: f"DeepSpeed by {f.run.train.deepspeed}",
    "evaluate": _end_measure,
    "evaluate_sample": _end_measure,
    "max_new_tokens": lambda f: f"answers of at most {f.arguments.max_new_tokens} tokens",
}
"""What each flag is told to have done, by its name."""
