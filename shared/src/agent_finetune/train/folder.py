"""The folder of a run: who may write into it, which checkpoints are whole, what may go on.

`run.json` is there from the first moment: `status` is `running` until all else is written, then
`finished`. A run that was stopped (Ctrl-C, SIGTERM) is `interrupted`, one that ended with an error
is `failed`, and one that was killed is still `running`: nobody could say otherwise. A checkpoint
counts once the file `whole` is in it, which is written last.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent_finetune import artifacts
from agent_finetune.errors import ConfigError
from agent_finetune.train import lock

RUN = "run.json"
HISTORY = "history.jsonl"
METRICS = "metrics.json"
PLOT = "loss.png"
CHECKPOINTS = "checkpoints"
_OURS = (RUN, HISTORY, METRICS, PLOT, CHECKPOINTS, "adapter", "model")
_WHOLE = "whole"


@contextmanager
def claimed(out: Path, *, resume: bool) -> Iterator[None]:
    """Hold a run's folder against every other process; the system frees it when we die.

    Raises:
        ConfigError: Another run is writing into it, or `check` refuses it.
    """
    check(out, resume=resume)
    with lock.held(out):
        check(out, resume=resume)  # nobody can change the answer any more
        yield


def check(out: Path, *, resume: bool) -> None:
    """Refuse a folder whose results would be lost.

    Raises:
        ConfigError: It holds a run and `resume` is off, somebody is writing it just now, or it is
            no folder.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: a file; out must be a folder")
    found = [name for name in _OURS if (out / name).exists()]
    if resume or not found:
        return
    lock.check(out)
    run = read_run(out)
    if run is None:
        raise ConfigError(f"{out}: has {found[0]!r} of something else; give another out")
    state, way = (
        ("a finished", "remove it") if run["status"] == "finished" else ("an unfinished", "resume")
    )
    raise ConfigError(
        f"{out}: holds {state} run of {run['config']['model']['model']!r}; give another out, or "
        + ("remove that folder" if way == "remove it" else "go on with it with --resume")
    )


def read_run(out: Path) -> dict[str, Any] | None:
    """run.json of the run that a folder holds, None when it holds none.

    Raises:
        ConfigError: There is a run.json that is not ours.
    """
    path = out / RUN
    if not path.exists():
        return None
    try:
        run = artifacts.read_json(path, dict)
    except ConfigError as error:
        raise ConfigError(f"{error}; give another out") from error
    if not _is_ours(run):
        raise ConfigError(f"{path}: not written by agent-finetune; give another out")
    return run


def _is_ours(run: Mapping[str, Any]) -> bool:
    config, must_stay = run.get("config"), run.get("must_stay")
    return (
        "status" in run
        and isinstance(must_stay, dict)
        and isinstance(config, dict)
        and all(isinstance(config.get(name), dict) for name in ("model", "train"))
        and "model" in config["model"]
    )


def check_same(out: Path, run: Mapping[str, Any], must_stay: Mapping[str, Any]) -> None:
    """Refuse to go on with a run under settings that would change its losses.

    Raises:
        ConfigError: One of the settings differs; it is named with both values.
    """
    for name, value in must_stay.items():
        before = run["must_stay"].get(name, value)  # an older version looked at other things
        if before != value:
            raise ConfigError(
                f"{out}: cannot resume, {name} was {before!r} and is now {value!r}; "
                "put it back, or give another out"
            )


def check_resumable(out: Path, run: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that kept no optimizer to go on with.

    Raises:
        ConfigError: Its checkpoints hold the weights alone.
    """
    if run["config"]["train"].get("save_only_model"):
        raise ConfigError(
            f"{out}: cannot resume, save_only_model was on and its checkpoints hold the weights "
            "alone; give another out"
        )


def mark_whole(checkpoint: Path) -> None:
    """Say that a checkpoint is complete, once all its files are on the disk."""
    artifacts.sync_folder(checkpoint)
    artifacts.write_text(checkpoint / _WHOLE, "")


def whole_checkpoints(out: Path) -> list[tuple[int, Path]]:
    """Step and folder of every whole checkpoint, oldest first."""
    found = []
    for path in (out / CHECKPOINTS).glob("checkpoint-*"):
        step = path.name.removeprefix("checkpoint-")
        if step.isdecimal() and (path / _WHOLE).exists():
            found.append((int(step), path))
    return sorted(found)


def drop(checkpoint: Path) -> None:
    """Delete a checkpoint, whole or half; one that is not there is fine."""
    (checkpoint / _WHOLE).unlink(missing_ok=True)  # first, so that half of it never counts as whole
    if checkpoint.exists():
        shutil.rmtree(checkpoint)


def clear(out: Path) -> None:
    """Remove what a killed run left half done; the caller holds the folder."""
    for name in (*_OURS, lock.HOLDER):
        artifacts.put_back(out / name)
        artifacts.remove_abandoned(out / name)
        for path in out.glob(f".{name}.*.tmp"):
            if path.is_file():
                path.unlink()
    if not (out / RUN).exists():  # then no checkpoint is ours
        return
    whole = {path for _, path in whole_checkpoints(out)}
    for path in (out / CHECKPOINTS).glob("checkpoint-*"):
        if path not in whole and path.name.removeprefix("checkpoint-").isdigit():
            drop(path)


def prune(out: Path, *, keep: int, best: str | None) -> None:
    """Delete whole checkpoints but the newest `keep` and the best one."""
    for _, path in whole_checkpoints(out)[:-keep]:
        if best is None or path.resolve() != Path(best).resolve():
            drop(path)
