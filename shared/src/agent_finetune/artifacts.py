"""Files written whole or not at all: a temporary name beside the target, fsync, then rename.

A reader never meets half a file, and what a finished call has written survives a power cut. What
a killed process leaves beside a target (`.NAME.*.tmp`) is read by nobody, and removed when the
same target is written again.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from agent_finetune.errors import ConfigError, DiskError, FinetuneError

_HERE = -100
"""AT_FDCWD of Linux: paths are as for any other call."""
_EXCHANGE = 2
"""RENAME_EXCHANGE of Linux; Python has no name for it."""
_NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "it is larger than a file may be (ulimit -f)",
}
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")
"""How safetensors and tokenizers tell the system's error, in exceptions of their own."""
_TORCH_WRITER = re.compile(r"PytorchStreamWriter|inline_container|iostream error")
"""How `torch.save` fails when a file does not take what is written; it does not say why."""

T = TypeVar("T")


@contextmanager
def needing_room(path: Path) -> Iterator[None]:
    """Say in one line which file there was no room for, and how much there is.

    Args:
        path: What is written in the block: a file, or a folder.

    Raises:
        DiskError: The disk is full, or a quota or the largest size of a file is reached.
    """
    try:
        yield
    except FinetuneError:
        raise
    except Exception as error:
        why = _lack_of_room(error)
        if why is None:
            raise
        raise no_room(path, why) from error


def no_room(path: Path, why: str = _NO_ROOM[errno.ENOSPC]) -> DiskError:
    """The error for a file or folder that could not be written for lack of room."""
    return DiskError(
        f"{path}: no room to write it, {why}; {_free(path)}. Make room, or give another place; "
        "what was there before is kept"
    )


def lacks_room(error: OSError) -> bool:
    """Whether the system had no room for what was to be written."""
    return error.errno in _NO_ROOM


def _lack_of_room(error: Exception) -> str | None:
    """Why an error is one for lack of room; None where it is another."""
    if isinstance(error, OSError):
        return _NO_ROOM.get(error.errno or 0)
    if found := _RUST_ERROR.search(str(error)):
        return _NO_ROOM.get(int(found[1]))
    if isinstance(error, RuntimeError) and _TORCH_WRITER.search(str(error)):
        return "the disk takes no more"
    return None


def _free(path: Path) -> str:
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:  # the disk has gone
        return f"free space is not known ({error.strerror})"
    return f"{free / 2**20:.1f} MiB are free there"


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file; its folder is made when missing.

    Raises:
        DiskError: There is no room for it; what was there is still there.
    """
    with needing_room(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, content)


def _write(path: Path, content: bytes) -> None:
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


def read_json(path: Path, kind: type[T]) -> T:
    """Read a file of our own that `write_json` wrote: an object (dict) or a list.

    Raises:
        ConfigError: It is damaged: not JSON, or JSON of another kind.
        FileNotFoundError: It is not there.
    """
    return json_of(path.read_bytes(), kind, str(path))


def json_of(text: bytes, kind: type[T], place: str) -> T:
    """The same of bytes that were read; `place` names them.

    Raises:
        ConfigError: As `read_json`.
    """
    try:
        value = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: damaged, not JSON: {error}") from error
    if not isinstance(value, kind):
        raise ConfigError(
            f"{place}: damaged, holds a {type(value).__name__}; expected a {kind.__name__}"
        )
    return value


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Fill a temporary folder that becomes `path` when the block ends without an error.

    Args:
        path: The folder to make. Its parent is made when missing.
        replace: Put the new folder in the place of one that is there. On Linux the two change
            places in one step; elsewhere the old one is set aside first and deleted last, so that
            one of the two is on disk at every moment.

    Yields:
        The temporary folder, on the same file system as `path`.

    Raises:
        ConfigError: `path` is there already, is not an empty folder, and `replace` is off; it may
            have come while the block ran.
        DiskError: There is no room for it; what was there is still there.
    """
    if not replace and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise _taken(path)
    with needing_room(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        temporary, owned = _owned_folder(path)
        try:
            temporary.chmod(0o777 & ~_umask())
            yield temporary
            sync_folder(temporary)
            (_put_in_place if replace else _put_in_no_place)(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            if owned is not None:
                os.close(owned)
        sync_folder_entry(path.parent)


def remove_abandoned(path: Path) -> None:
    """Remove the folders that dead processes began for a target; those of the living stay."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        try:
            handle = _lock(folder)
        except OSError:  # somebody is at work in it, it is gone, or is a file
            continue
        if handle is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)


def put_back(path: Path) -> None:
    """Undo a replacement that a dead process did not finish; the caller alone may write `path`."""
    for aside in path.parent.glob(f".{glob.escape(path.name)}.*.old"):
        if not path.exists() and any(aside.iterdir()):
            aside.rename(path)
        else:
            shutil.rmtree(aside, ignore_errors=True)


def _owned_folder(path: Path) -> tuple[Path, int | None]:
    """A new temporary folder for a target, and what holds it until it is closed or we die."""
    while True:
        name = tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with suppress(BlockingIOError, FileNotFoundError):  # it was taken for abandoned
            handle = _lock(Path(name))
            if Path(name).exists():
                return Path(name), handle


def _lock(folder: Path) -> int | None:
    """Hold a folder; None where the system cannot tell who does.

    Raises:
        OSError: Another process holds it, or it is no folder.
    """
    if os.name != "posix":
        return None
    import fcntl

    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise
        return None  # a network disk without locks
    return handle


def sync_folder(folder: Path) -> None:
    """Make sure that every file below a folder has reached the disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            sync_folder_entry(path)
    sync_folder_entry(folder)


def _put_in_no_place(temporary: Path, path: Path) -> None:
    try:
        temporary.rename(path)  # refused where there is anything but an empty folder
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise _taken(path) from error


def _taken(path: Path) -> ConfigError:
    return ConfigError(f"{path}: already there, and nothing is overwritten; give another folder")


def _put_in_place(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
        return
    if _exchanged(temporary, path):
        shutil.rmtree(temporary, ignore_errors=True)  # the old one; somebody may be quicker
        return
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".old"))
    try:
        path.replace(aside)
        temporary.rename(path)
    except BaseException:
        if not path.exists():
            aside.rename(path)
        raise
    shutil.rmtree(aside)


def _exchanged(one: Path, other: Path) -> bool:
    """Let two paths change places, so that neither is ever missing; False where that cannot be."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:  # of another system, or a C library without it
        return False
    return bool(rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)


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
