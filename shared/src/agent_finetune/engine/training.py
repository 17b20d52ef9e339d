"""A whole training run beside the live model, in a process of its own."""

from __future__ import annotations

import heapq
import json
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from agent_finetune import readers
from agent_finetune.config import RunConfig
from agent_finetune.contracts import Settings, TrainResult
from agent_finetune.engine import process
from agent_finetune.engine.served import Served
from agent_finetune.engine.worker import Worker
from agent_finetune.errors import DataError, RenderError
from agent_finetune.models import hardware
from agent_finetune.models.adapter_folders import read_config, with_base
from agent_finetune.records import Example
from agent_finetune.train import fits, folder, handed

Progress = Callable[[Mapping[str, Any]], None]

_LONG_ANSWER = 4096
"""Tokens of a judged answer with its prompt, to make room for where max_length is not set."""


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
    room = _room(worker, config, settings)
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


def _room(worker: Worker, config: RunConfig, settings: Settings) -> fits.Room:
    """Whether a copy of the model fits beside it, with what its training takes."""
    tokens = _largest_batch(worker, config, settings)

    def estimate(served: Served) -> fits.Room:
        model = served.loaded.model
        return fits.estimate(
            model,
            trained=_trained(model, config),
            tokens=tokens,
            device=hardware.pick_device(config.model.device),
        )

    return worker.call(estimate)


def _largest_batch(worker: Worker, config: RunConfig, settings: Settings) -> int:
    """Tokens of the longest rows there are, rendered by the tokenizer that serves."""
    rows = config.train.batch_size
    limit = config.data.max_length or worker.call(lambda served: served.info().context)
    if config.train.objective != "sft":
        return 2 * rows * min(limit, _LONG_ANSWER)
    examples = readers.read_configured(config.data, settings, name=config.data.data).examples
    lengths: list[int] = []
    for example in heapq.nlargest(rows, examples, key=_characters):
        try:
            steps = worker.call(partial(_steps, example=example))
        except (RenderError, DataError):  # whether that matters is for the run to say
            steps = [_characters(example)]
        lengths += (min(length, limit) for length in steps)
    return sum(heapq.nlargest(rows, lengths))


def _steps(served: Served, example: Example) -> list[int]:
    return [row.length for row in served.base.renderer.rows(example)]


def _characters(example: Example) -> int:
    said = sum(len(turn.text) + len(str(turn.tool_calls)) for turn in example.messages)
    return said + sum(len(str(tool)) for tool in example.tools)


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
