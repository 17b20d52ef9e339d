"""What this machine can do: device, number format and attention."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

from agent_finetune.config import Attention, Dtype
from agent_finetune.errors import ModelError

_CPU_INFO = Path("/proc/cpuinfo")
_BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})


def pick_device(wanted: str) -> torch.device:
    """`cpu` or `cuda:N` for `auto`, `cpu`, `cuda` or `cuda:N`.

    `auto` and `cuda` take the process's current GPU, which is the first one unless a launcher
    such as torchrun set another.

    Raises:
        ModelError: The device does not exist here; the message names those that do.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted == "auto" and not count):
        return torch.device("cpu")
    legal = ", ".join(["auto", "cpu", *(["cuda"] if count else []), *_gpus(count)])
    if wanted in ("auto", "cuda") and count:
        return torch.device("cuda", torch.cuda.current_device())
    number = wanted.removeprefix("cuda:")
    if number.isascii() and number.isdigit() and int(number) < count:
        return torch.device("cuda", int(number))
    here = f"{count} GPU{'s' if count != 1 else ''}" if count else "no GPU that torch can use"
    raise ModelError(f"device is {wanted!r}, this machine has {here}; legal here: {legal}")


def _gpus(count: int) -> list[str]:
    return [f"cuda:{number}" for number in range(count)]


def pick_dtype(wanted: Dtype, device: torch.device) -> torch.dtype:
    """The number format; `auto` is bfloat16 where the hardware computes in it.

    On a GPU without bfloat16 `auto` is float16, on a CPU without it float32.
    """
    if wanted != "auto":
        return {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        }[wanted]
    if device.type == "cuda":
        with torch.cuda.device(device):
            # Emulated bfloat16 (before Ampere) is slower than float16.
            good = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if good else torch.float16
    return torch.bfloat16 if cpu_is_good_at_bf16() else torch.float32


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or a CPU.

    torch has no class of its own for memory that a CPU lacks.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def cpu_is_good_at_bf16(cpu_info: Path = _CPU_INFO) -> bool:
    """Whether the CPU multiplies bfloat16 matrices in hardware (AMX or AVX512-BF16).

    Read from the kernel's list of CPU flags, because torch's own (`torch.cpu.get_capabilities`)
    is missing from some versions that we admit. Where there is no such list, the answer is no.
    """
    try:
        lines = cpu_info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return not _BF16_FLAGS.isdisjoint(flags.split())


def pick_attention(wanted: Attention, device: torch.device) -> str | None:
    """The name that Transformers knows; None for `auto`: sdpa where the model has it, else eager.

    Raises:
        ModelError: flash_attention_2 without a GPU or without its package.
    """
    if wanted == "auto":
        return None
    if wanted == "flash_attention_2":
        if device.type != "cuda":
            raise ModelError(
                f"attention {wanted!r} needs a GPU, the device is {device}; use 'sdpa'"
            )
        if find_spec("flash_attn") is None:
            raise ModelError(
                f"attention {wanted!r} needs the package flash-attn, which is not installed; "
                "`pip install flash-attn`, or use 'sdpa'"
            )
    return wanted
