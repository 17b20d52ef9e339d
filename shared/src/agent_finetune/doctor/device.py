"""What can be computed with here: processor, memory, GPUs, and what torch makes of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent_finetune.contracts import Finding
from agent_finetune.doctor import probe

_CPU_INFO = Path("/proc/cpuinfo")
_MEMORY_INFO = Path("/proc/meminfo")
_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
_PATIENCE = 180.0
"""Seconds to wait for torch, which takes one or two from a warm disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """A GPU as torch sees it."""

    name: str
    total: int
    """Bytes."""
    free: int | None
    """Bytes; None where the GPU could not be asked, as when it is full."""
    capability: str
    """NVIDIA's number such as `9.0`."""
    failure: str | None
    """Why torch has no code for it, or could not ask it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Torch:
    """What torch says; it was imported in another process."""

    version: str
    build: str
    """`cpu`, `cuda 13.0` or `rocm 6.4`."""
    gpus: tuple[Gpu, ...]
    device: str
    """What the device `auto` is here."""
    dtype: str
    """What the dtype `auto` is on that device."""
    attention: str
    """Why flash attention can or cannot be asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Processor, memory and driver, as the system says."""

    processor: str
    cores: int
    """That this process may use."""
    flags: tuple[str, ...]
    """Of those that matter: what it multiplies matrices with."""
    memory: int
    """Bytes, or the limit of this container where that is less."""
    free: int
    """Bytes that a process may still take."""
    driver: str | None
    """NVIDIA's driver, whether or not torch can use it."""


def machine() -> Machine:
    """Ask the system, and not torch."""
    info = _fields(_CPU_INFO)
    memory = _fields(_MEMORY_INFO)
    total, free = (_kilobytes(memory.get(name)) for name in ("MemTotal", "MemAvailable"))
    limit = _read(_GROUP_LIMIT).strip()
    if limit.isdigit() and int(limit) < total:
        used = _read(_GROUP_LIMIT.with_name("memory.current")).strip()
        total = int(limit)
        free = min(free, total - int(used or 0))
    flags = info.get("flags", "").split()
    driver = _read(_NVIDIA_DRIVER).splitlines()
    return Machine(
        processor=info.get("model name", "unknown"),
        cores=len(os.sched_getaffinity(0)),
        flags=tuple(flag for flag in _FLAGS if flag in flags),
        memory=total,
        free=free,
        driver=driver[0].partition(":")[2].strip() if driver else None,
    )


def _fields(path: Path) -> dict[str, str]:
    """`name : value` of each line; the first of a name counts."""
    found: dict[str, str] = {}
    for line in _read(path).splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not on this system
        return ""


def _kilobytes(value: str | None) -> int:
    return int(value.split()[0]) * 1024 if value else 0


def ask_torch() -> probe.Outcome:
    """Import torch in another process, and let it say what it has; the answer is a `Torch`."""
    (outcome,) = probe.run([("torch", _torch)], seconds=_PATIENCE)
    return outcome


def _torch() -> Torch:
    import torch

    from agent_finetune.errors import ModelError
    from agent_finetune.models import hardware

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind = torch.version.hip and f"rocm {torch.version.hip}"
    device = hardware.pick_device("auto")
    try:
        hardware.pick_attention("flash_attention_2", device)
        attention = "flash_attention_2 can be asked for"
    except ModelError as error:
        attention = str(error)
    return Torch(
        version=torch.__version__,
        build=kind or (f"cuda {torch.version.cuda}" if torch.version.cuda else "cpu"),
        gpus=tuple(_gpu(number) for number in range(count)),
        device=str(device),
        dtype=str(hardware.pick_dtype("auto", device)).removeprefix("torch."),
        attention=attention,
    )


def _gpu(number: int) -> Gpu:
    import torch

    known = torch.cuda.get_device_properties(number)
    free, failure = None, None
    try:
        free = torch.cuda.mem_get_info(number)[0]
        # A build without code for this GPU says so only when it computes.
        torch.ones(2, device=f"cuda:{number}").sum().item()
    except RuntimeError as error:
        failure = " ".join(str(error).split())[:200]
    return Gpu(
        name=known.name,
        total=known.total_memory,
        free=free,
        capability=f"{known.major}.{known.minor}",
        failure=failure,
    )


def findings(here: Machine, outcome: probe.Outcome, visible: str | None) -> Iterator[Finding]:
    """Why torch, or a GPU, cannot be used.

    Args:
        here: What the system says.
        outcome: Of `ask_torch`.
        visible: CUDA_VISIBLE_DEVICES, where it is set.
    """
    found: Torch | None = outcome.answer
    if found is None:
        yield Finding(
            what="torch cannot be used: nothing loads, trains or answers",
            why=str(outcome.failure),
            mend="pip install --force-reinstall --no-deps torch, of the build for this machine",
            broken=True,
        )
        return
    for number, gpu in enumerate(found.gpus):
        if gpu.failure is not None:
            yield Finding(
                what=f"GPU {number} ({gpu.name}, capability {gpu.capability}) cannot be used",
                why=gpu.failure,
                mend="free its memory, or install a build of torch for it; device=cpu works",
                broken=True,
            )
    if found.gpus or (here.driver is None and found.build == "cpu"):
        return
    if here.driver is not None and visible is not None:
        why, mend = f"CUDA_VISIBLE_DEVICES is {visible!r}", "unset CUDA_VISIBLE_DEVICES"
    elif here.driver is not None and found.build == "cpu":
        why, mend = "this torch is built for the CPU alone", "install a CUDA build of torch"
    elif here.driver is not None:
        why = f"torch is built for {found.build}, the driver is {here.driver}"
        mend = "update the driver, or install a build of torch for an older CUDA"
    else:
        why, mend = f"torch is built for {found.build}, and there is no driver", "none needed"
    yield Finding(
        what="no GPU is used; everything runs on the CPU", why=why, mend=mend, broken=False
    )
