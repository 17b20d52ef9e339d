"""What the live engine spares, beside plain `generate` on the same prompts, in one run.

    nox -s benchmark -- live_engine             # SmolLM2-135M on BFCL's tools, under 8 minutes
    nox -s benchmark -- live_engine --model MODEL --dtype float32

Measured, and held to a bar where one is named:

    first token   a conversation with tools; seconds from messages to the first token of each turn.
                  Ours finds the conversation's beginning computed; its repeats are of fresh
                  conversations. At the last turn at least 3 times as fast.
    agents        8 agents with the same tools, each with its own question; tokens per second of
                  all at once beside one after another, counted over the tokens that each way
                  really generated, since answers may end early. With one LoRA adapter at least 3
                  times as fast, with one for each agent 2 times. Batches padded on the left and
                  Transformers' continuous batching stand beside, without an adapter.
    memory        tensor bytes of this process with three adapters and with one: at most 1.1 times
    fidelity      greedy tokens in float32, all prompts at once, against each alone by `generate`:
                  all identical. In bfloat16: how many are, and how many of padded batches.

Both sides greedy, with the same stops and the model in the same number format; `generate` has a
model of its own with the attention it comes with. Adapters are random, rank 16 on all linear
layers. Exits 1 when a bar is missed. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from live import measures, ways, workload

from agent_finetune.artifacts import write_json
from agent_finetune.config import ModelConfig
from agent_finetune.settings import read_settings

RESULTS = Path(__file__).parent / "results"
SMALL: dict[str, int] = {
    "turns": 3,
    "agents": 3,
    "tokens": 8,
    "fidelity_tokens": 6,
    "repeats": 1,
    "no_bars": True,
}
LEAST = {"first_token": 3.0, "one_adapter": 3.0, "an_adapter_each": 2.0}
MOST_MEMORY = 1.1


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print tables and bars, write the JSON; 1 when a bar is missed."""
    start = time.monotonic()
    options = arguments(argv)
    settings = read_settings()
    asked = workload.read(options.data, max(options.turns, options.agents), settings)
    config = ModelConfig(model=options.model, dtype=options.dtype)
    with TemporaryDirectory() as folder:
        folders = ways.write_adapters(config, options.agents, Path(folder), settings)
        task = measures.Task(options=options, work=asked, folders=folders, settings=settings)
        report = measures.speed(task, config)
        report["fidelity"] = {
            dtype: measures.fidelity(task, ModelConfig(model=options.model, dtype=dtype))
            for dtype in ("float32", "bfloat16")
        }
    report = {"settings": describe(options, report.pop("engine")), **report}
    report["seconds"] = round(time.monotonic() - start)
    found = bars(report)
    report["bars"] = {name: {"passed": passed, "found": text} for name, passed, text in found}
    print(tables(report))
    for name, passed, text in found:
        print(f"{'PASS' if passed else 'FAIL'}  {name}: {text}")
    target = options.json or RESULTS / f"live_engine-{report['settings']['device']}.json"
    target.parent.mkdir(exist_ok=True)
    write_json(target, report)
    print(f"\n{target}, after {report['seconds']} seconds")
    return 0 if options.no_bars or all(passed for _, passed, _ in found) else 1


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; `--small` changes the sizes that are not given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="auto", help="number format of the speed part")
    parser.add_argument("--data", default="bfcl", help="questions, one tool and one call each")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64, help="most tokens of an agent's answer")
    parser.add_argument("--fidelity-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3, help="conversations; medians are told")
    parser.add_argument("--small", action="store_true", help="to try the script; no bars")
    parser.add_argument("--no-bars", action="store_true", help="exit 0 whatever was measured")
    parser.add_argument("--json", type=Path, help="where the results go")
    small, _ = parser.parse_known_args(argv)
    if small.small:
        parser.set_defaults(**SMALL)
    options = parser.parse_args(argv)
    if options.agents < measures.ADAPTERS:
        parser.error(f"--agents must be at least {measures.ADAPTERS}")
    return options


def bars(report: dict[str, Any]) -> list[tuple[str, bool, str]]:
    """Each bar: its name, whether it is reached, and what was found."""
    agents, exact = report["agents"], report["fidelity"]["float32"]["ours"]
    ratios = {"first_token": report["first_token"][-1]["ratio"], **agents["ratios"]}
    found = [
        (name, ratios[name] >= least, f"{ratios[name]:.2f}x, at least {least:g}x")
        for name, least in LEAST.items()
    ]
    memory = report["memory"]["ratio"]
    found.append(("memory", memory <= MOST_MEMORY, f"{memory:.3f}x, at most {MOST_MEMORY:g}x"))
    same, all_ = exact["identical"], exact["of"]
    found.append(("fidelity", same == all_, f"{same} of {all_} identical in float32"))
    return found


def tables(report: dict[str, Any]) -> str:
    """For people."""
    lines = [f"{'turn':>4}{'prompt':>8}{'cached':>8}{'generate':>11}{'ours':>10}{'':>8}"]
    lines += [
        f"{turn['turn']:>4}{turn['prompt_tokens']:>8}{turn['cached_tokens']:>8}"
        f"{turn['generate']:>10.3f}s{turn['ours']:>9.3f}s{turn['ratio']:>7.1f}x"
        for turn in report["first_token"]
    ]
    heads = list(measures.KINDS)
    lines += ["", f"{'tokens/s':24}" + "".join(f"{head.replace('_', ' '):>18}" for head in heads)]
    for way, row in report["agents"]["tokens_per_second"].items():
        lines.append(f"{way:24}" + "".join(f"{cell(row.get(head)):>18}" for head in heads))
    ratios = report["agents"]["ratios"]
    shown = "".join(f"{ratios[head]:>17.2f}x" for head in heads)
    lines += [f"{'ours / one by one':24}{shown}", ""]
    memory = report["memory"]
    lines.append(
        f"tensors with one adapter {memory['one'] / 2**20:.0f} MiB, with three "
        f"{memory['three'] / 2**20:.0f} MiB"
    )
    for dtype, ways_ in report["fidelity"].items():
        for way, same in ways_.items():
            if same["first_differences"]:
                apart = statistics.median(same["first_differences"])
                where = f"; the others differ from token {apart:g} on (median)"
            else:
                where = ""
            lines.append(f"{dtype}, {way}: {same['identical']} of {same['of']} identical{where}")
    return "\n".join(lines) + "\n"


def cell(value: float | str | None) -> str:
    """A speed, or why there is none."""
    return f"{value:.1f}" if isinstance(value, float) else value or "-"


def describe(options: argparse.Namespace, engine: dict[str, str]) -> dict[str, Any]:
    """On what and with what it was measured."""
    cuda = engine["device"].startswith("cuda")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "device": "cuda" if cuda else "cpu",
        "device_name": torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "dtype": engine["dtype"],
        **{k: v for k, v in vars(options).items() if k not in ("json", "no_bars", "dtype")},
    }


if __name__ == "__main__":
    sys.exit(main())
