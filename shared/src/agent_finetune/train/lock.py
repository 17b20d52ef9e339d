"""One run in a folder at a time: who holds it says so, and the system frees it when they die.

Several processes of one run (torchrun) are one holder: process 0 holds the folder for all.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from agent_finetune import artifacts
from agent_finetune.errors import ConfigError

_LOCK = ".lock"
HOLDER = ".holder.json"
_PATIENCE = 0.2
"""Seconds in which a holder that has just got the lock will have written who it is."""


class _Mine(threading.local):
    """The folders that this thread holds."""

    def __init__(self) -> None:
        self.folders: set[Path] = set()


_mine = _Mine()


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Hold a folder, made when missing; a thread that holds it already simply goes on.

    A folder that was made for this and got nothing else in it is gone afterwards.

    Raises:
        ConfigError: Another process or thread holds it; the message says which, and since when.
    """
    key = out.resolve()
    if key in _mine.folders:
        yield
        return
    lock, made = _acquired(out)
    _mine.folders.add(key)
    try:
        artifacts.write_json(out / HOLDER, {"pid": os.getpid(), "since": _now()})
        yield
    finally:
        _mine.folders.discard(key)
        (out / HOLDER).unlink(missing_ok=True)
        if made:
            _remove_if_empty(out)
        lock.release()


def check(out: Path) -> None:
    """Refuse a folder that somebody else holds; it is not changed.

    Raises:
        ConfigError: Another process or thread holds it.
    """
    if out.resolve() in _mine.folders or not (out / _LOCK).exists():
        return
    try:
        with FileLock(out / _LOCK, timeout=0):
            return
    except Timeout:
        raise _refusal(out) from None


def _acquired(out: Path) -> tuple[FileLock, bool]:
    """The lock, held, and whether the folder was made for it."""
    while True:
        made = not out.exists()
        lock = FileLock(out / _LOCK, timeout=0)
        try:
            out.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise _refusal(out) from None
        except (FileExistsError, FileNotFoundError):
            if out.is_file():
                raise
            continue  # whoever failed here has just removed the folder that it made
        if (out / _LOCK).exists():
            return lock, made
        lock.release()  # of a file that has just been removed, which keeps nobody out


def _refusal(out: Path) -> ConfigError:
    who = _holder(out)
    return ConfigError(
        f"{out}: another run is writing here{f' ({who})' if who else ''}; wait for its end, or "
        "give another out"
    )


def _holder(out: Path) -> str:
    """Who holds a folder; empty where it does not say."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads((out / HOLDER).read_text(encoding="utf-8"))
            pid, since = int(found["pid"]), str(found["since"])
            if _alive(pid):  # else it was killed, and the file is not yet the next holder's
                return f"process {pid}, since {since}"
        time.sleep(0.01)
    return ""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _remove_if_empty(out: Path) -> None:
    """Remove a folder in which nothing but the lock is left; we hold it."""
    with suppress(OSError):
        if [path.name for path in out.iterdir()] == [_LOCK]:
            (out / _LOCK).unlink()
            out.rmdir()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
