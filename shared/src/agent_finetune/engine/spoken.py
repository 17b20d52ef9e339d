"""What an adapter's name was attached to: a folder, or the store that its versions are in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Spoken:
    """A folder, and what was in it when it was looked at; equal as long as nothing changed."""

    folder: Path
    """What the user gave."""
    adapter: Path | None
    """The adapter's own folder; None where a store has no version yet, and the base speaks."""
    stamp: tuple[int, int] | None
    """Time and size of its weights; None where there are none."""

    @classmethod
    def now(cls, folder: Path) -> Spoken:
        """Look at a folder; a few calls of the file system, nothing is read but one line."""
        adapter: Path | None = folder
        if (folder / "versions").is_dir():
            from agent_finetune.versions import Versions

            versions = Versions(folder.parent, folder.name)
            number = versions.current()
            adapter = None if number is None else versions.adapter_dir(number)
        return cls(folder, adapter, None if adapter is None else _stamp(adapter))


def _stamp(adapter: Path) -> tuple[int, int] | None:
    weights = adapter / "adapter_model.safetensors"
    if not weights.is_file():
        return None
    stat = weights.stat()
    return stat.st_mtime_ns, stat.st_size
