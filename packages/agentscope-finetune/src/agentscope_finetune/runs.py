"""Folders of runs: how they are named, what lies in them, and that one thing is trained once.

A run is the kernel's (`adapter/` or `model/`, run.json, history.jsonl, metrics.json, checkpoints/)
in a folder named as the 2024 example named its own, with that example's `log_history.json` beside.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from agent_finetune import artifacts
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError, ModelError, TrainError
from agent_finetune.models import SHIPPED
from agent_finetune.models.adapter_folders import ADAPTER_CONFIG, read_config, with_base
from agentscope_finetune.folders2024 import is_folder_2024, open_folder_2024

DEFAULT_OUTPUT = "runs"
"""Where runs go unless asked otherwise, under the folder in which the program runs."""
LOG_HISTORY = "log_history.json"
_POLL = 0.2
"""Seconds between looks at a lock that another process holds."""


def claim(output: Path, name: str) -> Path:
    """Make a new folder `sft_{name}_{time}`, with `_2` and so on where that is taken.

    Raises:
        ConfigError: The place cannot be written to.
    """
    stem = f"sft_{name}_{datetime.now():%Y-%m-%d_%H-%M-%S}"
    number = 1
    while True:
        folder = output / (stem if number == 1 else f"{stem}_{number}")
        try:
            output.mkdir(parents=True, exist_ok=True)
            folder.mkdir()  # fails if it is there: one of two that come at once gets it
        except FileExistsError:
            if not output.is_dir():
                raise ConfigError(f"output_dir is {str(output)!r}, which is no folder") from None
            number += 1
        except OSError as error:
            raise ConfigError(f"output_dir is {str(output)!r}: {error}; give another") from error
        else:
            return folder


def give_up(folder: Path) -> None:
    """Remove a claimed folder in which no run has begun; one that has begun can be resumed."""
    if not (folder / "run.json").exists():
        shutil.rmtree(folder, ignore_errors=True)


def base_name(config: ModelConfig) -> str:
    """The name that a model's runs carry: the last part of what the user typed.

    A model that such a run left behind passes on the name that it was trained from.
    """
    name = config.model
    if name not in SHIPPED:
        path = Path(name).expanduser()
        if (started := _read_json(path.parent / "run.json")) and path.name == "model":
            return base_name(ModelConfig(model=started["config"]["model"]["model"]))
        name = path.stem if path.suffix == ".gguf" else (path.name or path.resolve().name)
    return name or "model"


def find_model(pretrained: str | None, local: str | None, settings: Settings) -> ModelConfig:
    """What `pretrained_model_name_or_path` and `local_model_path` mean, as 2024's `load_model`.

    A local path may be a model folder, a GGUF file, an adapter's folder, the folder of a run, or
    an output folder of the 2024 example, which may first have to be put together: it blocks.
    With both, weights are local and `pretrained` is the base that a local adapter stands on.

    Raises:
        ConfigError: Neither is given.
        ModelError: There is nothing usable at the local path.
    """
    if local is None:
        if not pretrained:
            raise ConfigError("give pretrained_model_name_or_path, local_model_path, or both")
        return ModelConfig(model=pretrained)
    path = Path(local).expanduser()
    if not path.exists():
        raise ModelError(
            f"local_model_path is {str(local)!r}, which does not exist; legal are a model folder, "
            "a GGUF file, an adapter folder, and the folder of a run"
        )
    path = _inside_run(path)
    if is_folder_2024(path):
        return open_folder_2024(path, pretrained, settings)
    if (path / ADAPTER_CONFIG).is_file():
        read_config(path)
        if pretrained:
            return ModelConfig(model=pretrained, adapter=str(path))
        return with_base(ModelConfig(model=str(path)))
    return ModelConfig(model=str(path))


def _inside_run(path: Path) -> Path:
    """The adapter or the model in a run's folder; any other path as it is.

    Raises:
        ModelError: The run has not come to its end.
    """
    for name, mark in (("adapter", ADAPTER_CONFIG), ("model", "config.json")):
        if (path / name / mark).is_file():
            return path / name
    run = _read_json(path / "run.json")
    if run is not None and not (path / "config.json").exists():
        raise ModelError(
            f"{path}: holds a run that has not finished, {run.get('status')!r}; give a finished "
            "one, or fine-tune again"
        )
    return path


def write_log_history(folder: Path) -> None:
    """Write `log_history.json` from the run's own history, in the shape of 2024's trainer.

    A list with one object per logged step (`loss`, `grad_norm`, `learning_rate`, `epoch`, `step`)
    and per evaluation, and a last one with the run's totals.
    """
    lines = [
        json.loads(line)
        for line in (folder / "history.jsonl").read_text("utf-8").splitlines()
        if line
    ]
    unlike = ("tokens", "tokens_per_second", "seconds")
    logged = [{key: line[key] for key in line if key not in unlike} for line in lines]
    losses = [line["loss"] for line in lines if "loss" in line]
    last = lines[-1]
    totals = {
        "train_runtime": last["seconds"],
        "train_loss": sum(losses) / len(losses),
        "epoch": last["epoch"],
        "step": last["step"],
    }
    artifacts.write_json(folder / LOG_HISTORY, [*logged, totals])


def finished(folder: Path) -> dict[str, Any] | None:
    """run.json of a run that has finished, None if there is none."""
    run = _read_json(folder / "run.json")
    return run if run is not None and run.get("status") == "finished" else None


def key_of(model: ModelConfig, data_digest: str, settings: Mapping[str, Any]) -> str:
    """A digest of what is trained, on what, and how: equal keys would be trained alike."""
    path = Path(model.model).expanduser()
    name = str(path.resolve()) if model.model not in SHIPPED and path.exists() else model.model
    adapter = None if model.adapter is None else str(Path(model.adapter).expanduser().resolve())
    same = replace(model, model=name, adapter=adapter, device="auto", attention="auto")
    told = {"model": asdict(same), "data": data_digest, "settings": settings}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextmanager
def alone(output: Path, key: str, stop: threading.Event) -> Iterator[None]:
    """Wait until nobody else, in any process, trains what the key stands for.

    The system frees the lock of a process that dies.

    Raises:
        TrainError: `stop` was set meanwhile.
        ConfigError: The place cannot be written to.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output_dir is {str(output)!r}: {error}; give another") from error
    lock = FileLock(output / f".sft_{key}.lock")
    while True:
        if stop.is_set():
            raise TrainError("stopped while another process trained the same")
        try:
            lock.acquire(timeout=_POLL)
            break
        except Timeout:
            continue
    try:
        yield
    finally:
        lock.release()


def once(output: Path, key: str, train: Callable[[], Path], stop: threading.Event) -> Path:
    """The finished run of a key: one that is there, or the one that `train` makes now.

    Which run it was is written last, so that one that was killed does not count.
    """
    note = output / f".sft_{key}.json"
    with alone(output, key, stop):
        told = _read_json(note)
        if told is not None and finished(output / told["folder"]) is not None:
            return output / str(told["folder"])
        folder = train()
        artifacts.write_json(note, {"folder": folder.name})
    return folder


def _read_json(path: Path) -> dict[str, Any] | None:
    """An object from a file; None if it is not there or is not one."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
