"""Files written whole or not at all: a temporary name beside the target, fsync, then rename.

A reader never meets half a file, and what a finished call has written survives a power cut.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent_finetune.errors import ConfigError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file; its folder is made when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner reads; artifacts are as readable as any file.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder_entry(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file; its folder is made when missing."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON; keys keep their order, NaN is refused.

    Raises:
        ValueError: A number in it is not finite, which JSON cannot say.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Fill a temporary folder that becomes `path` when the block ends without an error.

    Args:
        path: The folder to make. Its parent is made when missing.
        replace: Put the new folder in the place of one that is there. The old one is set aside
            first and deleted last, so that one of the two is on disk at every moment.

    Yields:
        The temporary folder, on the same file system as `path`.

    Raises:
        ConfigError: `path` is there already, is not an empty folder, and `replace` is off.
    """
    if not replace and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path}: already there, and nothing is overwritten; give another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        sync_folder(temporary)
        _put_in_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder_entry(path.parent)


def sync_folder(folder: Path) -> None:
    """Make sure that every file below a folder has reached the disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            sync_folder_entry(path)
    sync_folder_entry(folder)


def _put_in_place(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
        return
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".old"))
    path.replace(aside)
    temporary.rename(path)
    shutil.rmtree(aside)


def sync_folder_entry(folder: Path) -> None:
    """Flush a folder's own entries, so that a rename in it is on disk too."""
    if os.name != "posix":  # Windows cannot open a folder, and flushes renames by itself
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    # The mask can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
