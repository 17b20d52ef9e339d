"""Folders that get full: caches, what a run writes into, and how much room is left."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent_finetune.contracts import Finding

_SECONDS = 2.0
"""For measuring one folder."""
_LITTLE = 2 * 1024**3
"""Bytes: less is too little for a small model or a run's checkpoints."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A folder that something of ours or a host's is written into."""

    title: str
    path: Path
    bytes: int | None
    """What lies in it, links not followed; None where it does not exist yet."""
    whole: bool
    """False where measuring took too long: there is more."""
    free: int
    """Bytes that are free on its disk."""
    writable: bool


def examine(title: str, path: Path, *, seconds: float = _SECONDS) -> Place:
    """Measure a folder, for as long as that is reasonable."""
    size, whole = measure(path, seconds) if path.is_dir() else (None, True)
    # What does not exist yet is made in the nearest folder that does.
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    return Place(
        title=title,
        path=path,
        bytes=size,
        whole=whole,
        free=shutil.disk_usage(there).free,
        writable=there.is_dir() and os.access(there, os.W_OK | os.X_OK),
    )


def measure(folder: Path, seconds: float) -> tuple[int, bool]:
    """Bytes of all files under a folder, and whether all were counted in time."""
    deadline = time.monotonic() + seconds
    total = 0
    waiting = [os.fspath(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:  # gone since, or not ours to read
            continue
        if time.monotonic() > deadline:
            return total, not waiting
    return total, True


def hub_cache() -> Path | None:
    """Where huggingface_hub keeps what it fetches; None where it cannot be imported."""
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except Exception:  # whatever is wrong with it, its import is another finding
        return None
    return Path(HF_HUB_CACHE)


def logged_in() -> bool:
    """Whether `hf auth login` has left a token on this disk, which huggingface_hub then uses."""
    try:
        from huggingface_hub.constants import HF_TOKEN_PATH
    except Exception:  # as above
        return False
    return Path(HF_TOKEN_PATH).is_file()


def findings(found: tuple[Place, ...]) -> Iterator[Finding]:
    """Where nothing can be written, or little."""
    for place in found:
        if not place.writable:
            yield Finding(
                what=f"nothing can be written to {place.path} ({place.title})",
                why="it is no folder, or this user may not write there",
                mend=f"chown or chmod it, or name another place: {place.path}",
                broken=True,
            )
        elif place.free < _LITTLE:
            yield Finding(
                what=f"{place.free / 1024**3:.1f} GiB are free for {place.path} ({place.title})",
                why="models and checkpoints of a run take more",
                mend="make room, or name a place on another disk",
                broken=False,
            )
