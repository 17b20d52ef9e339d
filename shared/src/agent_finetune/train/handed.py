"""A run that another process asked for: its settings, reports and result as files in a folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from accelerate import PartialState

from agent_finetune import artifacts
from agent_finetune.config import RunConfig
from agent_finetune.contracts import Settings, TrainResult
from agent_finetune.train import job

_CONFIG, _REPORT, _RESULT = "config.json", "report.jsonl", "result.json"


def ask(folder: Path, config: RunConfig) -> None:
    """Write what is to be run."""
    artifacts.write_json(folder / _CONFIG, asdict(config))


def run(folder: Path, settings: Settings) -> None:
    """Do the run, and leave its reports and result in the folder.

    Under torchrun every process calls this, and the first one writes.
    """
    config = RunConfig.from_dict(json.loads((folder / _CONFIG).read_text("utf-8")))
    with (folder / _REPORT).open("a", encoding="utf-8", buffering=1) as file:
        result = job.run(config, settings, report=lambda line: print(json.dumps(line), file=file))
    if PartialState().is_main_process:
        text = json.dumps(asdict(result), default=str)  # with the NaN that a metric may be
        artifacts.write_text(folder / _RESULT, text)


def reports(folder: Path) -> list[str]:
    """The lines that were reported so far."""
    return [json.loads(line) for line in whole_lines(folder / _REPORT)]


def result(folder: Path) -> TrainResult:
    """What came of it."""
    found = json.loads((folder / _RESULT).read_text("utf-8"))
    return TrainResult(**{**found, "adapter_dir": Path(found["adapter_dir"])})


def whole_lines(path: Path) -> list[str]:
    """Lines of a file that another process writes; empty while there is none."""
    if not path.is_file():
        return []
    lines = path.read_text("utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]
