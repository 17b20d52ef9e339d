"""`output_dir/model_type/vN-time`: a folder for each run, and runs that go on from an earlier one.

A resumed run has a folder of its own, as in 2023: the earlier one stays as it is. What the new one
begins with are the checkpoint and the history up to it; files are linked where the disk can.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from agent_finetune import artifacts, ending
from agent_finetune.errors import ConfigError

NO_ROOM = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
)
"""Errors of a disk, or of a path on it, that the user can mend."""
LAST = ("true", "last", "yes", "1")
_AGAIN = "--resume_from_ckpt true"
NEVER = ("false", "no", "0")
_VERSION = re.compile(r"v(\d+)-\d{8}-\d{6}")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A place to go on from."""

    run: Path
    path: Path
    step: int


def new_run(parent: Path, *, now: datetime) -> Path:
    """Make the next folder `vN-YYYYmmdd-HHMMSS`; two processes never get the same one.

    Raises:
        ConfigError: `parent` cannot be a folder.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output_dir: {parent}: {error.strerror}; give another") from error
    number = 1 + max((number for number, _ in runs(parent)), default=-1)
    while True:
        path = parent / f"v{number}-{now:%Y%m%d-%H%M%S}"
        try:
            path.mkdir()
            return path
        except FileExistsError:
            number += 1


def runs(parent: Path) -> Iterator[tuple[int, Path]]:
    """Number and folder of every run in a folder."""
    for path in parent.iterdir() if parent.is_dir() else ():
        if match := _VERSION.fullmatch(path.name):
            yield int(match[1]), path


@contextmanager
def taken_back(run: Path, resumed: Path | None, *, by: bool) -> Iterator[None]:
    """Remove the folder of a run that ends before it did anything of its own.

    Args:
        run: The folder, new.
        resumed: The checkpoint that its own ones are copies of, up to that one.
        by: Whether it is on this process to remove it.

    Raises:
        KeyboardInterrupt: As it came, with a line that says what there is to go on from.
    """
    try:
        yield
    except BaseException as error:
        if by:
            _take_back(run, resumed)
        if isinstance(error, KeyboardInterrupt):
            told = f"{ending.word(error)}{_left_behind(run, resumed)}"
            raise type(error)(told) from error
        raise


def _take_back(run: Path, resumed: Path | None) -> None:
    from agent_finetune.train import folder, history

    if resumed is None:
        with suppress(OSError):  # there is something in it, or it is gone
            run.rmdir()
        return
    lines = history.read(run / folder.HISTORY)
    result = [path for path in ("adapter", "model") if (run / path).exists()]
    if not result and all(line["step"] <= _step(resumed) for line in lines):
        shutil.rmtree(run)


def find_checkpoint(word: str, parent: Path) -> Checkpoint | None:
    """What `--resume_from_ckpt` names: a checkpoint, a run's newest, or that of the newest run.

    Raises:
        ConfigError: There is no such checkpoint, or it is not whole.
    """
    if word.lower() in NEVER:
        return None
    if word.lower() in LAST:
        found = [one for _, run in sorted(runs(parent)) for one in _whole(run)]
        if not found:
            raise ConfigError(
                f"--resume_from_ckpt {word}: no run in {parent} has a whole checkpoint; leave the "
                "flag out, or give a checkpoint's folder"
            )
        return found[-1]
    path = Path(word).expanduser().resolve()
    if not path.is_dir():
        raise ConfigError(f"--resume_from_ckpt {word}: no such folder; give a checkpoint-N folder")
    match = _CHECKPOINT.fullmatch(path.name)
    run = path.parents[1] if match else path
    whole = [one for one in _whole(run) if match is None or one.path == path]
    if whole:
        return whole[-1]
    legal = ", ".join(str(one.path) for one in _whole(run)) or "none in this run"
    raise ConfigError(f"--resume_from_ckpt {word}: not a whole checkpoint of a run; whole: {legal}")


def begin_from(checkpoint: Checkpoint, out: Path) -> None:
    """Put into a new run's folder what it needs to go on.

    Earlier checkpoints come along: a run that was killed behind its last one needs one before it.
    """
    from agent_finetune.train import folder, history

    for one in _whole(checkpoint.run):
        if one.step <= checkpoint.step:
            to = out / folder.CHECKPOINTS / one.path.name
            shutil.copytree(one.path, to, copy_function=_link_or_copy)
    lines = history.read(checkpoint.run / folder.HISTORY)
    upto = [json.dumps(line) for line in lines if line["step"] <= checkpoint.step]
    artifacts.write_text(out / folder.HISTORY, "".join(f"{line}\n" for line in upto))
    run: dict[str, Any] = {**(folder.read_run(checkpoint.run) or {}), "status": "running"}
    artifacts.write_json(out / folder.RUN, run)


def check_left(resumed: Path, steps: int) -> str:
    """Whether a run of so many steps has any left to take from a checkpoint.

    Returns:
        What to say where an earlier checkpoint must be taken; else nothing.

    Raises:
        ConfigError: The run ended there, and nothing is left to train.
    """
    from agent_finetune.train import folder

    if _step(resumed) < steps:
        return ""
    run = folder.read_run(resumed.parents[1])
    if run is not None and run["status"] != "finished":
        return f"{resumed} is at the last step, and its run was cut off: what led to it is repeated"
    raise ConfigError(
        f"--resume_from_ckpt: {resumed} is at step {_step(resumed)}, and the run ends at step "
        f"{steps}; raise --max_steps or --num_train_epochs to go on"
    )


def _left_behind(run: Path, resumed: Path | None) -> str:
    """What a run that was ended leaves, for the rest of its last line."""
    from agent_finetune.train import folder

    if (folder.read_run(run) or {}).get("status") == "finished":
        return f"; the run is whole, and was not measured: {run}"
    whole = _whole(run)
    newest = whole[-1].path if whole else resumed
    if newest is None:
        return " before the first checkpoint (--save_steps); nothing to go on from"
    return f"; to go on from {newest}, give the same command with {_AGAIN}"


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _whole(run: Path) -> list[Checkpoint]:
    """Whole checkpoints of a run, oldest first; none where the folder is no run."""
    from agent_finetune.train import folder

    if not (run / folder.RUN).is_file():
        return []
    return [
        Checkpoint(run=run, path=path, step=step) for step, path in folder.whole_checkpoints(run)
    ]


def _link_or_copy(source: str, target: str) -> str:
    """A second name for a file, which is never written again; a copy where there can be none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
