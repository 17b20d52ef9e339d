"""Hold the base in 4 or 8 bits through bitsandbytes, on every device that it works on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from importlib.util import find_spec
from typing import Any

import torch

from agent_finetune.config import ModelConfig
from agent_finetune.contracts import ResolvedModel
from agent_finetune.errors import ModelError


def quantization_config(model: ModelConfig, dtype: torch.dtype, device: torch.device) -> Any:
    """The `BitsAndBytesConfig` of a quantization that was seen to work on this device, or None.

    4bit is that of QLoRA (arXiv 2305.14314): NF4 with double quantization unless the config says
    otherwise; 8bit is LLM.int8 (arXiv 2208.07339). A layer is quantized and run first, so that a
    device that cannot do it is told before a large model is read.

    Raises:
        ModelError: bitsandbytes is missing, or the device cannot do it.
    """
    wanted = model.quantization
    if wanted == "none":
        return None
    if find_spec("bitsandbytes") is None:
        raise ModelError(
            f"quantization {wanted!r} needs the package bitsandbytes, which is not installed; "
            'run pip install -e "shared[quantization]"'
        )
    import transformers

    # It warns at import that it may be faster, and at every layer of every forward pass that
    # bfloat16 is cast, as LLM.int8 must.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    _try_layer(model, dtype, device)
    config: Any = transformers.BitsAndBytesConfig  # carries no types
    if wanted == "8bit":
        return config(load_in_8bit=True)
    return config(
        load_in_4bit=True,
        bnb_4bit_quant_type=model.four_bit_type,
        bnb_4bit_use_double_quant=model.double_quantization,
        bnb_4bit_compute_dtype=dtype,
    )


@contextmanager
def answered() -> Iterator[None]:
    """Leave out what Transformers says of quantized files; `as_held` says it, or refuses."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You passed `quantization_config`", UserWarning)
        yield


def as_held(config: ModelConfig, model: Any, resolved: ResolvedModel) -> ModelConfig:
    """The config of a model that was loaded, with the quantization that its weights are held in.

    Files may be quantized already; they are then held as they are stored.

    Raises:
        ModelError: They are stored in another way than bitsandbytes', or than was asked for.
    """
    found = vars(model.config).get("quantization_config")
    if found is None:
        return config
    values = found if isinstance(found, dict) else found.to_dict()
    kind = values.get("quant_method")
    if kind != "bitsandbytes":
        name = kind.value if isinstance(kind, Enum) else kind
        raise ModelError(
            f"model {resolved.name!r}: its weights are stored quantized by {name!r}; legal are "
            "weights that are not, and those in 4 or 8 bits of bitsandbytes"
        )
    if values.get("load_in_8bit"):
        held = replace(config, quantization="8bit")
    else:
        held = replace(
            config,
            quantization="4bit",
            four_bit_type=values["bnb_4bit_quant_type"],
            double_quantization=bool(values["bnb_4bit_use_double_quant"]),
        )
    if config.quantization != "none" and config.held_as != held.held_as:
        raise ModelError(
            f"model {resolved.name!r}: its weights are stored as {held.held_as!r}, and asked for "
            f"is {config.held_as!r}; leave quantization out, or give a model that is not quantized"
        )
    return held


def keep_trainable(model: Any) -> None:
    """Make sure that a 4-bit model on a CPU can be trained after it has generated.

    On a CPU with AVX512-BF16, bitsandbytes repacks each 4-bit weight at the first forward pass in
    evaluation mode, into a form through which no gradient flows, and never goes back. A run that
    measures the model before training it would then train next to nothing, without an error.
    """
    from bitsandbytes.nn import Linear4bit  # type: ignore[attr-defined]

    for module in model.modules():
        if isinstance(module, Linear4bit):
            _never_repack(module)


def _never_repack(layer: Any) -> None:
    layer.support_avx512bf16_for_cpu = False


def _try_layer(model: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
    try:
        import bitsandbytes

        layers: Any = bitsandbytes.nn  # carries no types
        # The layer's random weights must not move the random numbers of the run.
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            if model.quantization == "4bit":
                layer = layers.Linear4bit(
                    64,
                    64,
                    compute_dtype=dtype,
                    quant_type=model.four_bit_type,
                    compress_statistics=model.double_quantization,
                )
                _never_repack(layer)
            else:
                layer = layers.Linear8bitLt(64, 64, has_fp16_weights=False)
            answer = layer.to(device)(torch.ones(2, 64, dtype=dtype, device=device))
        broken = not bool(torch.isfinite(answer).all())
        reason = "it computes values that are not finite"
    except Exception as error:  # any failure of a native library means the same to the user
        broken, reason = True, " ".join(str(error).split())[:300] or type(error).__name__
    if broken:
        raise ModelError(
            f"quantization {model.held_as!r} does not work on device {device} with {dtype}: "
            f"{reason}; use --quantization none or another device"
        )
