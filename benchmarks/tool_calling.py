"""How much better a model calls tools it has never seen: three seeds, at least 200 questions.

Splits the leaderboard's questions by tool (no tool is on both sides), measures the base, then
trains and measures once per seed with the quickstart's own settings. One tool offered and several
are reported apart, as counts with 95% intervals, and the quickstart's bar is derived: the mean
share of right names over the seeds minus two standard deviations, never below 75%.

    nox -s benchmark -- tool_calling
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from agent_finetune import quickstart, train
from agent_finetune.adapters import open_model
from agent_finetune.artifacts import write_json
from agent_finetune.config import ModelConfig
from agent_finetune.evaluate import Report
from agent_finetune.metrics import wilson
from agent_finetune.settings import read_settings

LEAST_BAR = 0.75


def main() -> None:
    """Run all seeds, print a table, write the JSON."""
    options = _options()
    settings = read_settings()
    model = ModelConfig(model=options.model)
    with TemporaryDirectory() as scratch:
        out = Path(scratch)
        loaded = open_model(model, settings)
        config = quickstart.QuickstartConfig(
            model=options.model, per_kind=options.held_out // 2, out=scratch
        )
        split = quickstart.split_leaderboard(loaded, out / "data", settings, config)
        before = quickstart.measure(loaded, split, out / "before", config.max_new_tokens)
        device, dtype = loaded.device, loaded.dtype
        del loaded
        runs = [
            _run(replace(config, seed=seed), split, out / f"seed{seed}", options.steps)
            for seed in (0, 1, 2)
        ]
    found = _summary(before, runs) | {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": _machine(device, dtype),
        "model": options.model,
        "steps": options.steps,
        "training": asdict(quickstart.TRAINING),
        "questions": {
            "trained": split.trained,
            "one_tool": len(split.one),
            "several_tools": len(split.several),
            "too_long": split.too_long,
        },
    }
    write_json(options.json, found)
    print(_table(found))
    print(f"written to {options.json}")


def _run(
    config: quickstart.QuickstartConfig, split: quickstart.Split, out: Path, steps: int
) -> dict[str, Any]:
    model = ModelConfig(model=config.model)
    job = quickstart.run_config(config, model, split, out)
    job = replace(job, train=replace(job.train, max_steps=steps))
    start = time.monotonic()
    result = train.run(job, read_settings(), report=lambda line: print(line, file=sys.stderr))
    trained = time.monotonic() - start
    adapted = open_model(replace(model, adapter=str(result.adapter_dir)), read_settings())
    after = quickstart.measure(adapted, split, out / "after", config.max_new_tokens)
    return {
        "seed": config.seed,
        "train_seconds": round(trained),
        "train_tokens": result.train_tokens,
        **_figures(after),
    }


def _figures(measured: quickstart.Measured) -> dict[str, Any]:
    return {"one_tool": _rates(measured.one), "several_tools": _rates(measured.several)}


def _rates(report: Report) -> dict[str, Any]:
    names, exact = report.measures["name_accuracy"], report.measures["exact_match"]
    return {
        "n": names.n,
        "names": names.hits,
        "exact": exact.hits,
        "argument_f1": round(report.metrics["argument_f1"], 4),
    }


def _summary(before: quickstart.Measured, runs: list[dict[str, Any]]) -> dict[str, Any]:
    shares = [
        (run["one_tool"]["names"] + run["several_tools"]["names"])
        / (run["one_tool"]["n"] + run["several_tools"]["n"])
        for run in runs
    ]
    mean, deviation = statistics.mean(shares), statistics.stdev(shares)
    return {
        "before": _figures(before),
        "after": runs,
        "names": {"mean": mean, "deviation": deviation},
        "bar": max(LEAST_BAR, mean - 2 * deviation),
    }


def _table(found: dict[str, Any]) -> str:
    lines = [f"{'':16}{'one tool':>34}{'several tools':>34}", f"{'':16}" + 2 * _HEAD]
    rows = [("before", found["before"])]
    rows += [(f"after, seed {run['seed']}", run) for run in found["after"]]
    lines += [f"{name:16}{_cells(f['one_tool'])}{_cells(f['several_tools'])}" for name, f in rows]
    names = found["names"]
    lines.append(
        f"right names, mean of seeds {names['mean']:.1%}, deviation {names['deviation']:.1%}; "
        f"the quickstart's bar is {found['bar']:.1%}"
    )
    return "\n".join(lines)


_HEAD = f"{'right name (95%)':>22}{'all right':>12}"


def _cells(rates: dict[str, Any]) -> str:
    low, high = wilson(rates["names"], rates["n"])
    name = f"{rates['names']}/{rates['n']} ({low:.0%}-{high:.0%})"
    right = f"{rates['exact']}/{rates['n']}"
    return f"{name:>22}{right:>12}"


def _machine(device: str, dtype: str) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return {
        "device": gpu or platform.machine(),
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "torch": torch.__version__,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--steps", type=int, default=110, help="optimizer steps of each seed")
    parser.add_argument("--held-out", type=int, default=208, help="questions, half of each kind")
    parser.add_argument(
        "--json", type=Path, default=Path(__file__).parent / "results" / "tool_calling.json"
    )
    options = parser.parse_args()
    if options.held_out < 2:
        parser.error("--held-out must be at least 2")
    return options


if __name__ == "__main__":
    main()
