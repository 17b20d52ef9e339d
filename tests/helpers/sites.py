"""Folders of installed packages, as pip leaves them, in which there is what a test says."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

HOSTS = ("autogen", "ag2", "pyautogen")
"""How the names of everything begin that brings AutoGen; `autogen_finetune` is let through."""


def without_hosts(folder: Path) -> Path:
    """Everything that is installed here but AutoGen."""
    folder.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(HOSTS) or entry.name.startswith("autogen_finetune"):
            (folder / entry.name).symlink_to(entry)
    return folder


def install(folder: Path, name: str, version: str, files: Mapping[str, str] | None = None) -> None:
    """A distribution: its metadata, and its files, which overwrite those that are there."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for path, text in (files or {}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()
        lines.append(f"{path},sha256={digest.rstrip('=')},{len(text)}\n")
    (info / "RECORD").write_text("".join(lines))


def python(folder: Path, code: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What a Python that has nothing but this folder does with some code; warnings are errors."""
    begin = f"import site; site.addsitedir({str(folder)!r})\n"
    return subprocess.run(
        [sys.executable, "-S", "-E", "-W", "error", "-c", begin + code],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=cwd or folder,
        env={**os.environ, "NO_COLOR": "1"},
        check=False,
    )
