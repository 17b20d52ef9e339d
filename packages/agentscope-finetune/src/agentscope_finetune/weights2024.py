"""`lora_config` and `bnb_config` of the 2024 example: what trains, and how the base is held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent_finetune.config import AdapterConfig
from agentscope_finetune.values2024 import (
    Reader,
    choice,
    dtype,
    flag,
    number,
    unknown,
    whole,
    wrong,
)

LORA: Mapping[str, tuple[str, Reader]] = {
    "r": ("rank", whole(least=1)),
    "lora_alpha": ("alpha", number(above=True)),
    "lora_dropout": ("dropout", number(most=0.99)),
    "use_rslora": ("rslora", flag),
    "use_dora": ("dora", flag),
}
"""Keys of `peft.LoraConfig` that become fields of our AdapterConfig."""

LORA_FIXED: Mapping[str, tuple[object, ...]] = {
    "bias": ("none",),
    "task_type": ("CAUSAL_LM", None),
    "peft_type": ("LORA", None),
    "inference_mode": (False,),
    "exclude_modules": (None, []),
    "fan_in_fan_out": (False,),
    "modules_to_save": (None, []),
    "init_lora_weights": (True,),
    "layers_to_transform": (None,),
    "layers_pattern": (None,),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "megatron_config": (None,),
    "megatron_core": ("megatron.core", None),
    "trainable_token_indices": (None,),
    "loftq_config": ({}, None),
    "eva_config": (None,),
    "corda_config": (None,),
    "use_qalora": (False,),
    "use_bdlora": (None,),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "lora_ga_config": (None,),
    "monteclora_config": (None,),
    "velora_config": (None,),
    "layer_replication": (None,),
    "lora_bias": (False,),
    "target_parameters": (None,),
    "ensure_weight_tying": (False,),
}
"""Keys that plain LoRA on linear layers leaves at one value, and that value."""

LORA_UNREAD = (
    "auto_mapping",
    "base_model_name_or_path",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
)
"""Keys that change nothing: the model that is loaded says the same, or the option is off."""

BNB_FIXED: Mapping[str, tuple[object, ...]] = {
    "quant_method": ("bitsandbytes", None),
    "bnb_4bit_quant_storage": ("uint8", "torch.uint8", None),
    "llm_int8_threshold": (6.0,),
    "llm_int8_skip_modules": (None, []),
    "llm_int8_enable_fp32_cpu_offload": (False,),
    "llm_int8_has_fp16_weight": (False,),
}
"""Keys of `BitsAndBytesConfig` that have one legal value."""

_BNB_4BIT = ("bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant")
BNB = ("load_in_4bit", "load_in_8bit", *_BNB_4BIT)
"""Keys of `BitsAndBytesConfig` that are read; those it writes of itself begin with `_load_in_`."""


def read_lora(config: Mapping[str, object], notes: list[str]) -> AdapterConfig:
    """An AdapterConfig; keys that are absent have our defaults.

    Raises:
        ConfigError: A key or value that plain LoRA does not have.
    """
    changes: dict[str, Any] = {}
    for name, value in config.items():
        key = f"lora_config.{name}"
        if name in LORA:
            field, read = LORA[name]
            changes[field] = read(key, value)
            notes.append(f"{key}: adapter {field} {changes[field]!r}")
        elif name == "target_modules":
            changes["targets"] = _targets(key, value)
            notes.append(f"{key}: adapter targets {', '.join(changes['targets'])}")
        elif name in LORA_UNREAD:
            notes.append(f"{key}: not read; it changes nothing")
        else:
            fixed(key, value, LORA_FIXED, {*LORA, *LORA_UNREAD, "target_modules"}, "LoraConfig key")
            notes.append(f"{key}: as it always is here")
    return AdapterConfig(**changes)


def fixed(
    key: str, value: object, legal: Mapping[str, tuple[object, ...]], others: set[str], what: str
) -> None:
    """Accept a key that has one meaning here.

    Raises:
        ConfigError: There is no such key, or its value asks for something else.
    """
    name = key.rpartition(".")[2]
    if name not in legal:
        raise unknown(key, {*legal, *others}, what)
    meant = {"True": True, "False": False}.get(value, value) if isinstance(value, str) else value
    # A bool equals 0 or 1, and a list cannot be hashed, so neither a set nor `in` will do.
    if not any(meant == good and _kind(meant) == _kind(good) for good in legal[name]):
        shown = " or ".join(repr(good) for good in legal[name][:1])
        raise wrong(key, value, f"only {shown}, because nothing else is done here")


def _kind(value: object) -> str:
    return "number" if type(value) in (int, float) else "str" if isinstance(value, str) else "other"


def read_bnb(config: Mapping[str, object], notes: list[str]) -> dict[str, str]:
    """The fields of our ModelConfig that `bnb_config` changes: `quantization` and `dtype`.

    Raises:
        ConfigError: A key or value that our two quantizations do not have.
    """
    for name, value in config.items():
        if name not in BNB and not name.startswith("_load_in_"):
            fixed(f"bnb_config.{name}", value, BNB_FIXED, set(BNB), "BitsAndBytesConfig key")
            notes.append(f"bnb_config.{name}: as it always is here")
    four, eight = (flag(f"bnb_config.{n}", config.get(n, False)) for n in BNB[:2])
    if four and eight:
        raise wrong("bnb_config.load_in_8bit", True, "False beside load_in_4bit")
    changes: dict[str, str] = {}
    if config:
        changes["quantization"] = "4bit" if four else "8bit" if eight else "none"
        notes.append(f"bnb_config: quantization {changes['quantization']}")
    for name in _BNB_4BIT:
        if config.get(name) is not None:
            _read_4bit(name, config[name], changes, notes)
    return changes


def _read_4bit(name: str, value: object, changes: dict[str, str], notes: list[str]) -> None:
    """Check a `bnb_4bit_*` key in any case; it means something in 4 bits only."""
    key, used = f"bnb_config.{name}", changes["quantization"] == "4bit"
    if name == "bnb_4bit_compute_dtype":
        found = dtype(key, value)
        meaning = f"number format {found}"
        if used:
            changes["dtype"] = found
    elif name == "bnb_4bit_quant_type":
        choice("nf4")(key, value) if used else choice("nf4", "fp4")(key, value)
        meaning = "4 bits are NF4"
    else:
        flag(key, value)
        meaning = "4 bits are always quantized twice, which saves memory"
    notes.append(f"{key}: {meaning if used else 'no effect without load_in_4bit'}")


def _targets(key: str, value: object) -> tuple[str, ...]:
    if value is None or value == "all-linear":
        return AdapterConfig().targets
    names = sorted(value) if isinstance(value, (set, frozenset)) else value
    if isinstance(names, (list, tuple)) and names and all(n and isinstance(n, str) for n in names):
        return tuple(names)
    raise wrong(key, value, "'all-linear' or a list of layer names such as ['q_proj', 'v_proj']")
