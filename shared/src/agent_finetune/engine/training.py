"""A whole training run beside the live model, in a process of its own."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from agent_finetune.config import RunConfig
from agent_finetune.contracts import Settings, TrainResult
from agent_finetune.engine import process
from agent_finetune.engine.served import Served
from agent_finetune.engine.worker import Worker
from agent_finetune.models import hardware
from agent_finetune.models.adapter_folders import read_config, with_base
from agent_finetune.train import folder, handed
from agent_finetune.update import fits

Progress = Callable[[Mapping[str, Any]], None]

_LONG_ROW = 4096
"""Tokens of the longest row to make room for where max_length is not set: today's contexts are far
longer than what people train on, and would send every model away."""


def train(
    worker: Worker,
    config: RunConfig,
    settings: Settings,
    *,
    on_progress: Progress | None,
    report: Callable[[str], None] | None,
    stop: threading.Event | None,
    processes: int,
) -> TrainResult:
    """See `LocalEngine.train`."""
    folder.check(Path(config.out), resume=config.train.resume)  # before anything is moved
    room = worker.call(lambda served: _room(served, config))
    told = _Told(Path(config.out) / folder.HISTORY, on_progress, report)
    with tempfile.TemporaryDirectory(prefix="agent-finetune-") as name:
        place = Path(name)
        handed.ask(place, config)
        if report is not None:
            report(f"memory: {room}")
        with nullcontext() if room.enough else worker.away():
            process.train(
                "run",
                place,
                settings,
                processes=processes,
                poll=lambda: told.look(place),
                stop=stop,
            )
        return handed.result(place)


def _room(served: Served, config: RunConfig) -> fits.Room:
    """Whether a copy of the model fits beside it, with what its training takes."""
    model = served.loaded.model
    longest = config.data.max_length or min(served.info().context, _LONG_ROW)
    answers = 1 if config.train.objective == "sft" else 2
    return fits.estimate(
        model,
        trained=_trained(model, config),
        tokens=answers * config.train.batch_size * longest,
        device=hardware.pick_device(config.model.device),
    )


def _trained(model: Any, config: RunConfig) -> int:
    if config.train.method == "full":
        return int(sum(weight.numel() for weight in model.parameters()))
    adapter = with_base(config.model).adapter
    if adapter is None:
        return fits.lora_weights(model, config.lora.rank, config.lora.targets)
    shape = read_config(Path(adapter))  # it goes on with its own
    targets = shape.get("target_modules") or "all-linear"
    names = (targets,) if isinstance(targets, str) else tuple(targets)
    return fits.lora_weights(model, int(shape.get("r", config.lora.rank)), names)


class _Told:
    """What has been handed on of a run's history and reports.

    Args:
        history: The run's file. One that is there before belongs to an interrupted run, which
            puts a file of its own in its place when it goes on.
        on_progress: Gets its lines.
        report: Gets the reports.
    """

    def __init__(
        self,
        history: Path,
        on_progress: Progress | None,
        report: Callable[[str], None] | None,
    ) -> None:
        self._history = history
        self._before = _identity(history)
        self._on_progress = on_progress
        self._report = report
        self._lines = self._reports = 0

    def look(self, place: Path) -> None:
        """Hand on what has come since the last time."""
        if self._report is not None:
            for line in handed.reports(place)[self._reports :]:
                self._reports += 1
                self._report(line)
        if self._on_progress is not None and _identity(self._history) != self._before:
            for text in handed.whole_lines(self._history)[self._lines :]:
                self._lines += 1
                self._on_progress(json.loads(text))


def _identity(path: Path) -> int | None:
    return path.stat().st_ino if path.is_file() else None
