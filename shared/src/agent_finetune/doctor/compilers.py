"""What DeepSpeed compiles its extensions with, when one of them is first used."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from agent_finetune.contracts import Finding
from agent_finetune.doctor.packages import There


def findings(there: There) -> Iterator[Finding]:
    """What an installed DeepSpeed lacks."""
    if "deepspeed" not in there:
        return
    headers = Path(sysconfig.get_path("include"), "Python.h")
    lacking = {
        "a C++ compiler": not (shutil.which("c++") or shutil.which("g++")),
        "ninja": "ninja" not in there and not shutil.which("ninja"),
        "Python's headers": not headers.is_file(),
    }
    if any(lacking.values()):
        yield Finding(
            what="DeepSpeed cannot compile its optimizers for weights kept on the CPU",
            why=f"what is missing: {', '.join(name for name, lacks in lacking.items() if lacks)}",
            mend="install them (pip install ninja; a compiler comes with the system's packages)",
            broken=False,
        )
