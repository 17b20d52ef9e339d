"""Adapters as ModelScope's scripts of 2023 ask for them, made by PEFT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent_finetune.config import AdapterConfig
from agent_finetune.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

TUNED = "_agent_train_tuned"
"""Where a base model keeps the `PeftModel` that was put on it."""

_OF_PEFT = {
    "r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "targets",
    "use_rslora": "rslora",
    "use_dora": "dora",
}
_UNSAID = ("peft_type", "task_type", "inference_mode", "auto_mapping", "peft_version", "revision")
"""Fields of PEFT that say nothing of what is trained, or that are ours to set."""


@dataclass(kw_only=True)
class LoRAConfig:
    """A LoRA adapter in the words of `modelscope.swift` (2023)."""

    replace_modules: Sequence[str] | str = ("all-linear",)
    """Names of the layers that get an adapter."""
    rank: int = 8
    lora_alpha: float = 32
    lora_dropout: float = 0.1


class Swift:
    """`modelscope.swift.Swift`, as far as the scripts of 2023 used it."""

    @staticmethod
    def prepare_model(model: nn.Module, config: Any, **unknown: Any) -> nn.Module:
        """Put a new adapter on a model, which is changed in place, and freeze the rest.

        Args:
            model: A causal language model of Transformers.
            config: `LoRAConfig`, `peft.LoraConfig`, or a mapping of such.
            unknown: Legal is none; `adapter_name` and others had effects that are not here.

        Returns:
            The `peft.PeftModel`. A script that goes on with `model` means the same.
        """
        from peft import LoraConfig, get_peft_model

        from agent_finetune import adapters

        if unknown:
            raise ConfigError(f"Swift.prepare_model: {', '.join(unknown)} not known; give config")
        wanted = adapter_config(config)
        everything = "all-linear" in wanted.targets
        lora = LoraConfig(
            task_type="CAUSAL_LM",
            r=wanted.rank,
            lora_alpha=wanted.alpha,  # type: ignore[arg-type]  # PEFT takes any number
            lora_dropout=wanted.dropout,
            target_modules="all-linear" if everything else list(wanted.targets),
            use_rslora=wanted.rslora,
            use_dora=wanted.dora,
        )
        with adapters.quiet():
            tuned = get_peft_model(model, lora)
        model.__dict__[TUNED] = tuned  # past nn.Module, which would take it for a part of itself
        return tuned


def is_tuned(model: Any) -> bool:
    """Whether an adapter of PEFT's is on a model, put there by `Swift` or otherwise."""
    from peft import PeftModel

    return isinstance(model, PeftModel) or TUNED in getattr(model, "__dict__", {})


def adapter_config(given: Any) -> AdapterConfig:
    """The adapter that `efficient_tuners` asks for.

    Args:
        given: `LoRAConfig`, `peft.LoraConfig`, `AdapterConfig`, a mapping with the names of any of
            them, or a mapping that holds one of these under a name of its own.

    Raises:
        ConfigError: It is something else, several, or sets what is not done here.
    """
    if isinstance(given, AdapterConfig):
        return given
    if isinstance(given, LoRAConfig):
        return AdapterConfig(
            rank=given.rank,
            alpha=given.lora_alpha,
            dropout=given.lora_dropout,
            targets=_names(given.replace_modules),
        )
    if isinstance(given, Mapping):
        return _of_mapping(given)
    from peft import LoraConfig

    if isinstance(given, LoraConfig):
        return _of_peft(given)
    raise ConfigError(f"efficient_tuners is {given!r}; legal are LoRAConfig and peft.LoraConfig")


def _of_mapping(given: Mapping[str, Any]) -> AdapterConfig:
    inner = list(given.values())
    if len(inner) == 1 and not isinstance(inner[0], (str, int, float, list, tuple)):
        return adapter_config(inner[0])
    names = {"replace_modules": "targets", **_OF_PEFT}
    values = {names.get(key, key): value for key, value in given.items()}
    if "targets" in values:
        values["targets"] = _names(values["targets"])
    known = AdapterConfig.__dataclass_fields__
    if wrong := sorted(values.keys() - known.keys()):
        raise ConfigError(
            f"efficient_tuners has {', '.join(map(repr, wrong))}; legal are {', '.join(known)}"
        )
    return AdapterConfig(**values)


def _of_peft(given: Any) -> AdapterConfig:
    from peft import LoraConfig

    plain, asked = LoraConfig().to_dict(), given.to_dict()
    for name, value in asked.items():
        if name not in _OF_PEFT and name not in _UNSAID and value != plain[name]:
            raise ConfigError(
                f"efficient_tuners: {name} is {value!r}; put such an adapter on the model with "
                "peft.get_peft_model, and give that model"
            )
    values = {ours: asked[theirs] for theirs, ours in _OF_PEFT.items()}
    values["targets"] = _names(values["targets"] or ("all-linear",))
    return AdapterConfig(**values)


def _names(given: Sequence[str] | set[str] | str) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(sorted(given))
