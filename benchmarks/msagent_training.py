"""What the training script makes of a model: tool calls in MSAgent form, before and after.

Writes the Berkeley Function Calling Leaderboard as rows of MSAgent-Bench, split so that no tool of
a held-out row is offered in a training row, and runs the commands of the ModelScope plugin's
README on them: `eval`, `sft`, `eval`.

    nox -s benchmark -- msagent_training
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agent_finetune.artifacts import write_json

PROGRAM = str(Path(sys.executable).with_name("modelscope-agent-train"))
MODEL = "smollm2-135m-instruct"
CONVERT = (
    "convert --dataset bfcl --output train.jsonl --test_output held_out.jsonl --test_ratio 0.22 "
    "--split_by tools --max_chars 2400"
)
SFT = (
    f"sft --model_type {MODEL} --sft_type lora --output_dir runs --dataset train.jsonl "
    "--dataset_sample 600 --dataset_test_ratio 0 --max_length 640 --dtype bf16 "
    "--lora_target_modules ALL --lora_rank 16 --lora_alpha 32 --lora_dropout_p 0 --batch_size 4 "
    "--gradient_accumulation_steps 1 --gradient_checkpoint false --learning_rate 5e-4 "
    "--lr_scheduler_type linear --warmup_ratio 0.03 --weight_decay 0"
)
EVAL = "eval --dataset held_out.jsonl --batch_size 16 --max_new_tokens 128"
SHOWN = ("name_accuracy", "exact_match", "argument_f1", "schema_valid", "missing", "hallucinated")
BAR = 0.70
"""Least share of right tool names after training."""


def main() -> int:
    """Run the four commands, print a table, write the JSON; fail below the bar."""
    options = _options()
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _run(CONVERT, folder)
        before = _measure(f"{EVAL} --model_type {MODEL} --output_dir before", folder / "before")
        start = time.monotonic()
        _run(SFT, folder)
        seconds = time.monotonic() - start
        run = max((folder / "runs" / MODEL).iterdir())
        after = _measure(f"{EVAL} --ckpt_dir {run} --output_dir after", folder / "after")
        told = json.loads((run / "run.json").read_text("utf-8"))
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {told['model']['device_name']}",
        "commands": [CONVERT, SFT, EVAL],
        "training": {"steps": told["steps"], "seconds": round(seconds, 1), **told["data"]["train"]},
        "before": before,
        "after": after,
    }
    write_json(options.json, found)
    print(_table(before, after))
    print(f"sft took {seconds:.0f} s; written to {options.json}")
    return 0 if after["metrics"]["name_accuracy"]["value"] >= BAR else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    results = Path(__file__).parent / "results" / "msagent_training-cpu.json"
    parser.add_argument("--json", type=Path, default=results, help="where to write the figures")
    return parser.parse_args()


def _run(command: str, folder: Path) -> None:
    print(f"$ modelscope-agent-train {command}", flush=True)
    subprocess.run([PROGRAM, *command.split()], cwd=folder, check=True)


def _measure(command: str, folder: Path) -> dict[str, Any]:
    _run(command, folder.parent)
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text("utf-8"))
    del found["answerer"]  # the folder that the run was in, which is gone
    return found


def _table(before: dict[str, Any], after: dict[str, Any]) -> str:
    steps = f"{after['counts']['steps']} held-out steps"
    lines = [f"{steps:32}{'before':>10}{'after':>10}"]
    lines += [f"{name:32}{_cell(before, name)}{_cell(after, name)}" for name in SHOWN]
    return "\n".join(lines)


def _cell(found: dict[str, Any], name: str) -> str:
    measure = found["metrics"].get(name)
    return f"{'-':>10}" if measure is None else f"{measure['value']:>10.1%}"


if __name__ == "__main__":
    sys.exit(main())
