"""What an adapter's folder holds, and whether it is LoRA or DoRA that fits a base.

PEFT's own classes say what its config means. Everything is checked by the file's header before a
weight is read. What would compute something else than LoRA (arXiv 2106.09685) or DoRA (arXiv
2402.09353) on linear layers is refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from transformers import Conv1D

from agent_finetune.errors import ModelError
from agent_finetune.models.adapter_folders import ADAPTER_CONFIG, read_config
from agent_finetune.models.foreign import told

WEIGHTS = "adapter_model.safetensors"
MAGNITUDE = "magnitude_vector"
TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_(A\.weight|B\.weight|magnitude_vector)")

# Fields of PEFT's LoraConfig that say what is in the file, how the adapter was trained or where it
# comes from. Any other field that is set, one that a later PEFT adds as well, may change what the
# adapter computes, and is refused.
SHAPE = (
    *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "use_dora"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
)
HARMLESS = frozenset(
    (
        *SHAPE,
        *("peft_type", "peft_version", "task_type", "auto_mapping", "inference_mode"),
        *("base_model_name_or_path", "revision", "lora_dropout", "runtime_config"),
        # How the base lays out its weights; A and B are the same either way, and PEFT corrects it.
        "fan_in_fan_out",
        # Details of starts and of kinds that have a switch of their own.
        *("init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
        *("megatron_core", "qalora_group_size", "ensure_weight_tying"),
    )
)
PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Ways to start the training of an adapter that leave the weights of the base as they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A linear layer of the base that an adapter changes."""

    name: str
    """Path of the module in the base."""
    module: Any
    """`torch.nn.Linear`, one of bitsandbytes' among them, or `transformers.Conv1D`."""
    rank: int
    scale: float
    """Of the product B A."""
    dora: bool
    """Whether the adapter says how long each row of the changed weight is."""


class AdapterFile:
    """An adapter's open file, seen to fit its base; made by `open_adapter`."""

    def __init__(self, path: Path, targets: tuple[Target, ...], file: Any) -> None:
        self.targets = targets
        self._path = path
        self._file = file

    def matrices(self, target: Target, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """A of shape (rank, in) and B with the scale in it, (out, rank), on the CPU.

        They may hang on the file itself; copy them before it closes.

        Raises:
            ModelError: A weight is NaN, or has no finite value in this number format.
        """
        down = self._read(target, "A", 1.0, dtype)
        # The scale goes in in float32, before the cast, so that it costs no digits.
        if not target.dora:
            return down, self._read(target, "B", target.scale, dtype)
        up = self._read(target, "B", target.scale, torch.float32) * self._gain(target)[:, None]
        return down, self._finite(up.to(dtype), target, "B", dtype)

    def stretch(self, target: Target) -> torch.Tensor | None:
        """By how much more than 1 DoRA multiplies each feature, (out,), float32; None: it is LoRA.

        Raises:
            ModelError: A magnitude is NaN or infinite, or belongs to a row of zeros.
        """
        return self._gain(target) - 1 if target.dora else None

    def _gain(self, target: Target) -> torch.Tensor:
        """Magnitude over the length of each row of the changed weight, on the CPU."""
        magnitude = self._read(target, MAGNITUDE, 1.0, torch.float32)
        module = target.module
        weight = dequantize_module_weight(module).detach().float()
        if isinstance(module, Conv1D):
            weight = weight.t()
        up = self._read(target, "B", target.scale, torch.float32).to(weight.device)
        down = self._read(target, "A", 1.0, torch.float32).to(weight.device)
        length = torch.addmm(weight, up, down).norm(dim=1).cpu()
        return self._finite(magnitude / length, target, MAGNITUDE, torch.float32)

    def _read(self, target: Target, which: str, scale: float, dtype: torch.dtype) -> torch.Tensor:
        with told(str(self._path)):
            stored: torch.Tensor = self._file.get_tensor(_key(target.name, which))
        return self._finite((stored.float() * scale).to(dtype), target, which, dtype)

    def _finite(
        self, tensor: torch.Tensor, target: Target, which: str, dtype: torch.dtype
    ) -> torch.Tensor:
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(
                f"{self._path}: lora_{which} of {target.name} holds NaN, or numbers too large for "
                f"{str(dtype).removeprefix('torch.')}; this adapter cannot be served"
            )
        return tensor


@contextmanager
def open_adapter(folder: Path, model: Any) -> Iterator[AdapterFile]:
    """Open an adapter in PEFT's format, and see that it is LoRA or DoRA for this base.

    Args:
        folder: Holds adapter_config.json and adapter_model.safetensors.
        model: `transformers.PreTrainedModel`, quantized or not, without PEFT.

    Raises:
        ModelError: It cannot be read, is of another kind, or does not fit.
    """
    config = _plain_config(folder)
    path = folder / WEIGHTS
    try:
        with told(str(path)):
            file = safe_open(path, framework="pt", device="cpu")
    except ModelError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise ModelError(f"{path}: not there; adapters are read from this file only") from None
        raise
    with file:
        with told(str(path)):
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in list(file.keys())}
        with told(str(folder / ADAPTER_CONFIG), "cannot be understood"):
            targets = _targets(model, config, shapes, folder)
        yield AdapterFile(path, targets, file)


def _plain_config(folder: Path) -> LoraConfig:
    described = read_config(folder)
    where = folder / ADAPTER_CONFIG
    if described.get("peft_type") != "LORA":
        raise ModelError(f"{where}: a {described.get('peft_type')!r} adapter; only LORA is known")
    odd = [
        f"{name} is {value!r}"
        for name, value in described.items()
        if name not in HARMLESS and value and (name, value) != ("bias", "none")
    ]
    start = described.get("init_lora_weights")
    if start not in PLAIN_STARTS:
        odd.append(f"init_lora_weights is {start!r}, which changes the base")
    if odd:
        raise ModelError(f"{where}: not a plain LoRA adapter: {'; '.join(odd)}; {_way_out(folder)}")
    with told(str(where), "cannot be understood"):
        return LoraConfig(**{name: described[name] for name in SHAPE if name in described})


def _targets(
    model: Any, config: LoraConfig, shapes: Mapping[str, tuple[int, ...]], folder: Path
) -> tuple[Target, ...]:
    """The layers that the file has matrices for: all that its config means, and no others."""
    where = folder / WEIGHTS
    matches = [(name, TENSOR.fullmatch(name)) for name in shapes]
    if odd := [name for name, match in matches if not match or _is_odd(match, config)]:
        raise ModelError(f"{where}: holds what is not plain LoRA: {_some(odd)}; {_way_out(folder)}")
    held = {match[1] for _, match in matches if match}
    modules = dict(model.named_modules())
    if strange := held - modules.keys():
        raise ModelError(
            f"{where}: the base has no layers {_some(strange)}: the adapter was made for another "
            f"base, or Transformers has since renamed or fused them; {_way_out(folder)}"
        )
    head = model.get_output_embeddings()
    for name in sorted(held):
        if not _features(modules[name]) or modules[name] is head or "experts" in name.split("."):
            raise ModelError(
                f"{where}: {name} is {type(modules[name]).__name__}; adapters go live on linear "
                f"layers that see every token, not on heads, embeddings or experts; "
                f"{_way_out(folder)}"
            )
    meant = {
        name
        for name, module in modules.items()
        if _features(module) and config.target_modules and check_target_module_exists(config, name)
    }
    if held != meant or not held:
        raise ModelError(
            f"{where}: does not hold what {ADAPTER_CONFIG} says; missing: "
            f"{_some(meant - held)}; not expected: {_some(held - meant)}"
        )
    return tuple(_target(name, modules[name], config, shapes, where) for name in sorted(held))


def _is_odd(match: re.Match[str], config: LoraConfig) -> bool:
    return match[2] == MAGNITUDE and not config.use_dora


def _target(
    name: str, module: Any, config: LoraConfig, shapes: Mapping[str, tuple[int, ...]], where: Path
) -> Target:
    """A layer's rank and scale, as PEFT would have them; the file's matrices must agree."""
    rank = _own(config.rank_pattern, name, config.r)
    alpha = _own(config.alpha_pattern, name, config.lora_alpha)
    features = _features(module) or (0, 0)
    expected: list[tuple[str, tuple[int, ...]]] = [
        ("A", (rank, features[0])),
        ("B", (features[1], rank)),
    ]
    if config.use_dora:
        expected.append((MAGNITUDE, features[1:]))
    for which, shape in expected:
        found = shapes.get(_key(name, which))
        if found != shape or 0 in shape:
            raise ModelError(
                f"{where}: lora_{which} of {name} has shape {found}; on this base and with a rank "
                f"of {rank!r}, as {ADAPTER_CONFIG} says, it must be {shape}"
            )
    scale = alpha / (math.sqrt(rank) if config.use_rslora else rank)
    if config.use_dora and type(module.weight).__name__ == "Int8Params":  # of bitsandbytes
        raise ModelError(f"{where}: DoRA on a base in 8 bits is not known; use 4bit or none")
    return Target(name=name, module=module, rank=rank, scale=scale, dora=bool(config.use_dora))


def _own(patterns: dict[str, Any] | None, name: str, default: Any) -> Any:
    """A layer's own value where a pattern names the layer."""
    patterns = patterns or {}
    return patterns.get(get_pattern_key(list(patterns), name), default)


def _features(module: Any) -> tuple[int, int] | None:
    """How many features a linear layer takes and gives; None for any other module."""
    if isinstance(module, torch.nn.Linear):  # those of bitsandbytes are, too
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return None


def _key(name: str, which: str) -> str:
    return f"base_model.model.{name}.lora_{which}" + ("" if which == MAGNITUDE else ".weight")


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if ordered[3:] else ""
    return (", ".join(ordered[:3]) or "none") + more


def _way_out(folder: Path) -> str:
    return f"agent-finetune merge --adapter {folder} --out NEW writes a model that can be served"
