"""Versions of named adapters on disk, and which one of each is in use.

    STORE/NAME/versions/0001/adapter/       what PEFT wrote
    STORE/NAME/versions/0001/version.json   when, from which version, and all else that is known
    STORE/NAME/current                      one line: the number that is in use
    STORE/NAME/previous.json                numbers that were in use before, the oldest first
    STORE/NAME/.staging/                    versions that are being made

A version appears by one rename and never changes. Killed at any moment, a process leaves whole
versions and at most a folder in `.staging`, which nobody reads and the next `begin` removes.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from agent_finetune import artifacts
from agent_finetune.errors import ConfigError, ModelError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FACTS = "version.json"
_ADAPTER = "adapter"
_KEPT = 100
"""Numbers in `previous.json`."""
_PATIENCE = 60.0
"""Seconds to wait for the lock; it is held for renames and for removing what the dead left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionInfo:
    """One version, for lists."""

    number: int
    created: str
    """ISO 8601, UTC."""
    parent: int | None
    """The version that it was trained from; None is the base."""
    current: bool
    facts: Mapping[str, Any]
    """All of version.json."""


class Versions:
    """The versions of one adapter. Making this object reads and writes nothing.

    Any number of processes and threads may use it at once.

    Args:
        store: Folder of all adapters.
        name: The adapter's name: up to 64 letters, digits, dots, dashes and underscores, the
            first a letter or a digit.

    Raises:
        ConfigError: The name is not legal.
    """

    def __init__(self, store: Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"adapter name is {name!r}; legal are up to 64 letters, digits, '.', '-' and '_', "
                "the first a letter or a digit"
            )
        self.name = name
        self.folder = store.absolute() / name
        self._versions = self.folder / "versions"
        self._staging = self.folder / ".staging"
        self._current = self.folder / "current"
        self._previous = self.folder / "previous.json"

    @staticmethod
    def names(store: Path) -> Sequence[str]:
        """Names of the adapters in a store, sorted; none when there is no such folder.

        Raises:
            ConfigError: `store` is a file.
        """
        if store.exists() and not store.is_dir():
            raise ConfigError(f"{store}: a file; a store of adapters is a folder")
        found = (path.parent.name for path in store.glob("*/versions"))
        return sorted(name for name in found if _NAME.fullmatch(name))

    @contextmanager
    def begin(self) -> Iterator[Path]:
        """Hold a folder in which to make a version; `commit` takes it.

        What was not committed when the block ends is deleted, and so is what dead processes left.

        Yields:
            An empty folder; the adapter belongs into its subfolder `adapter`.
        """
        self._staging.mkdir(parents=True, exist_ok=True)
        with self._lock():
            self._remove_abandoned()
            room = Path(tempfile.mkdtemp(dir=self._staging))
            alive = _owner(room)
            alive.acquire()  # the system frees it when we die
        try:
            folder = room / "version"
            folder.mkdir()  # readable as any folder; the room is its owner's alone
            artifacts.write_json(folder / _FACTS, {"parent": self.current()})
            yield folder
        finally:
            with self._lock():
                alive.release()
                shutil.rmtree(room)

    def commit(self, staging: Path, facts: Mapping[str, Any]) -> int:
        """Make what was staged the newest version. Which version is in use does not change.

        Args:
            staging: The folder that `begin` gave.
            facts: Metrics, digests of what it was trained on, revision: JSON. Beside them,
                `created` and `parent`, the version that was in use at `begin`, are noted, unless
                they are among the facts.

        Returns:
            Its number, from 1 on; numbers are not used twice.

        Raises:
            ConfigError: `begin` did not give this folder, or it was committed before.
            ModelError: It holds no adapter.
            ValueError: A fact cannot be said in JSON.
        """
        if staging.absolute().parent.parent != self._staging or not staging.is_dir():
            raise ConfigError(f"{staging}: not a folder that begin gave for {self.name!r}")
        if not (staging / _ADAPTER / "adapter_config.json").is_file():
            raise ModelError(f"{staging / _ADAPTER}: no adapter_config.json; nothing to commit")
        begun = json.loads((staging / _FACTS).read_text(encoding="utf-8"))
        created = datetime.now(UTC).isoformat(timespec="seconds")
        artifacts.write_json(staging / _FACTS, {"created": created, **begun, **facts})
        artifacts.sync_folder(staging)
        with self._lock():
            number = self._next()
            self._versions.mkdir(exist_ok=True)
            staging.rename(self._path(number))
            artifacts.sync_folder_entry(self._versions)
            artifacts.sync_folder_entry(self.folder)
        return number

    def list(self) -> Sequence[VersionInfo]:
        """Every version, the oldest first."""
        current = self.current()
        return [self._info(number, current) for number in self._numbers()]

    def current(self) -> int | None:
        """Number of the version in use; None before the first `use`.

        One read of one small file, some 20 microseconds, so that an engine may ask before every
        request; a file's time stamp would be no cheaper, and can miss a change.

        Raises:
            ConfigError: The file does not hold a number.
        """
        try:
            line = self._current.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        try:
            return int(line)
        except ValueError:
            raise ConfigError(
                f"{self._current}: holds {line[:40]!r}; expected the number of a version"
            ) from None

    def changed_since(self, number: int | None) -> bool:
        """Whether another version is in use than the one that `current` answered before."""
        return self.current() != number

    def adapter_dir(self, number: int) -> Path:
        """The PEFT folder of a version.

        Raises:
            ConfigError: There is no such version.
        """
        return self._found(number) / _ADAPTER

    def facts(self, number: int) -> Mapping[str, Any]:
        """All of a version's version.json.

        Raises:
            ConfigError: There is no such version.
        """
        path = self._found(number) / _FACTS
        try:
            return artifacts.read_json(path, dict)
        except FileNotFoundError:
            raise ConfigError(f"{path}: not there; this version is damaged") from None

    def info(self, number: int) -> VersionInfo:
        """One version.

        Raises:
            ConfigError: There is no such version.
        """
        return self._info(number, self.current())

    def use(self, number: int) -> None:
        """Put a version to use; engines that look at `current` change over.

        Raises:
            ConfigError: There is no such version.
        """
        self._found(number)
        with self._lock():
            current, previous = self.current(), self._read_previous()
            if current == number:
                return
            if current is not None:
                # First what was before: killed between the two, the last of them is the current
                # one, and reading leaves it out.
                artifacts.write_json(self._previous, [*previous, current][-_KEPT:])
            artifacts.write_text(self._current, f"{number:04d}\n")

    def rollback(self) -> int:
        """Go back to the version that was in use before; twice goes back twice.

        Returns:
            The number that is in use now.

        Raises:
            ConfigError: None was in use before.
        """
        if self.current() is None:
            raise ConfigError(f"{self.folder}: no version is in use")
        with self._lock():
            previous = self._read_previous()
            while previous and not self._path(previous[-1]).is_dir():
                previous = previous[:-1]
            if not previous:
                raise ConfigError(
                    f"{self.folder}: version {self.current()} is in use, and none was before it"
                )
            artifacts.write_text(self._current, f"{previous[-1]:04d}\n")
            artifacts.write_json(self._previous, previous[:-1])
            return previous[-1]

    def _info(self, number: int, current: int | None) -> VersionInfo:
        facts = self.facts(number)
        return VersionInfo(
            number=number,
            created=str(facts.get("created", "")),
            parent=facts.get("parent"),
            current=number == current,
            facts=facts,
        )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        lock = FileLock(self.folder / ".lock", timeout=_PATIENCE)
        try:
            lock.acquire()
        except Timeout:
            raise ConfigError(
                f"{self.folder}: another process has held it for {_PATIENCE:.0f} s; try again"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _path(self, number: int) -> Path:
        return self._versions / f"{number:04d}"

    def _numbers(self) -> Sequence[int]:
        return sorted(int(p.name) for p in self._versions.glob("*") if p.name.isdecimal())

    def _next(self) -> int:
        # Also those that are gone by hand: an engine that serves 7 must not meet another 7.
        known = [*self._numbers(), self.current() or 0, *self._read_previous()]
        return max(known, default=0) + 1

    def _found(self, number: int) -> Path:
        path = self._path(number)
        if not path.is_dir():
            known = ", ".join(map(str, self._numbers())) or "none"
            raise ConfigError(f"{self.folder}: no version {number!r}; there are {known}")
        return path

    def _read_previous(self) -> Sequence[int]:
        """Numbers in use before the current one, the oldest first."""
        if not self._previous.exists():
            return []
        previous = artifacts.read_json(self._previous, list)
        if not all(type(number) is int for number in previous):
            raise ConfigError(f"{self._previous}: damaged; expected numbers of versions")
        return previous[:-1] if previous[-1:] == [self.current()] else previous

    def _remove_abandoned(self) -> None:
        """Remove what dead processes left; we hold the lock."""
        for path in self.folder.glob(".*.tmp"):  # files are written under the lock only
            path.unlink()
        for room in self._staging.glob("*"):
            try:
                with _owner(room):
                    shutil.rmtree(room)
            except Timeout:  # somebody is at work in it
                continue


def _owner(room: Path) -> FileLock:
    # Whichever thread ends the block frees it.
    return FileLock(room / "owner.lock", timeout=0, thread_local=False)
