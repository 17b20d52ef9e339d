"""How fast we train, beside TRL on the same examples, adapter and steps.

    nox -s benchmark -- train_speed             # SmolLM2-135M on BFCL, about 10 minutes
    nox -s benchmark -- train_speed --model MODEL --steps 20 --profile

Each way trains in a process of its own, so that peak memory is its own:

    trl         TRL's SFTTrainer at its defaults (bf16 autocast, gradient checkpointing)
    trl-bf16    the same with the base in bfloat16 and without gradient checkpointing
    ours        agent_finetune.train.fit

Same rows in the same order, LoRA on all linear layers, AdamW, linear schedule without warmup. A
token is one that is not padding. A step is timed from its first forward pass to the end of the
optimizer's step; loading and saving are not in it. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from agent_finetune.artifacts import write_json

WAYS = ("trl", "trl-bf16", "ours")
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure each way, print a table, write the JSON."""
    options = arguments()
    if options.way:
        print(json.dumps(work(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        scratch = prepare(options, Path(folder))
        found = {way: measure(options, way, scratch) for way in WAYS}
        report = {"settings": describe(options, scratch), "results": found, "ratios": ratios(found)}
        print(table(found, report["ratios"]))
        if options.profile:
            report["profile"] = measure(options, "profile", scratch)
            print("\nwhere our time goes (self time of operators, two steps)")
            for name, share in report["profile"].items():
                print(f"  {share:6.1%}  {name}")
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"train_speed-{report['settings']['device']}.json"
    write_json(target, report)
    print(f"\n{target}")


def arguments() -> argparse.Namespace:
    """The command line; its hidden options are for the processes that measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--data", default="bfcl")
    parser.add_argument("--rows", type=int, default=96, help="examples to train on")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--profile", action="store_true", help="say what our time goes to")
    parser.add_argument("--way", choices=(*WAYS, "profile"), help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def prepare(options: argparse.Namespace, scratch: Path) -> Path:
    """Write the rows and the model that all ways train, `rows.json` and `model/`."""
    from agent_finetune import adapters, readers
    from agent_finetune.config import ModelConfig
    from agent_finetune.render import Renderer
    from agent_finetune.settings import read_settings

    settings = read_settings()
    loaded = adapters.open_model(ModelConfig(model=options.model), settings)
    renderer = Renderer(loaded.tokenizer)
    rows: list[dict[str, Any]] = []
    for example in readers.read(options.data, settings=settings).examples:
        for row in renderer.fit(example, 1024, "drop").rows:
            labels = [i if t else -100 for i, t in zip(row.ids, row.trained, strict=True)]
            rows.append({"input_ids": row.ids, "labels": labels})
        if len(rows) >= options.rows:
            break
    (scratch / "rows.json").write_text(json.dumps(rows[: options.rows]))
    # A GGUF file or a hub id becomes a folder, so that TRL can read the same weights.
    loaded.model.save_pretrained(scratch / "model")
    loaded.tokenizer.save_pretrained(scratch / "model")
    return scratch


def measure(options: argparse.Namespace, way: str, scratch: Path) -> dict[str, Any]:
    """One way, in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--model", str(scratch / "model")]
    command += ["--scratch", str(scratch), "--steps", str(options.steps)]
    command += ["--batch-size", str(options.batch_size), "--rank", str(options.rank)]
    command += ["--learning-rate", str(options.learning_rate)]
    print(f"{way} ...", file=sys.stderr, flush=True)
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return answer


def work(options: argparse.Namespace) -> dict[str, Any]:
    """What one process does: train, and say how it went."""
    import torch

    rows = json.loads((options.scratch / "rows.json").read_text())
    cuda = torch.cuda.is_available()
    if options.way == "profile":
        return profiled(options, rows)
    train = train_ours if options.way == "ours" else train_trl
    seconds, tokens, losses = train(options, rows)
    peak = (
        torch.cuda.max_memory_allocated()
        if cuda
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return {
        "tokens_per_second": sum(tokens) / sum(seconds),
        "tokens_per_second_without_first_step": sum(tokens[1:]) / sum(seconds[1:]),
        "peak_gib": peak / 2**30,
        "final_loss": losses[-1],
        "mean_loss": sum(losses) / len(losses),
        "step_seconds": seconds,
        "losses": losses,
    }


Steps = tuple[list[float], list[int], list[float]]
"""Seconds, tokens that are not padding, and loss of each step."""


def train_trl(options: argparse.Namespace, rows: list[dict[str, Any]]) -> Steps:
    """TRL, as its documentation starts it."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - self.began)

    short = options.way == "trl-bf16"
    changed = {"bf16": True, "gradient_checkpointing": False} if short else {}
    trainer = SFTTrainer(
        options.model,
        SFTConfig(
            output_dir=str(options.scratch / options.way),
            use_cpu=not torch.cuda.is_available(),  # it refuses to start without
            model_init_kwargs={"dtype": "bfloat16"} if short else None,
            per_device_train_batch_size=options.batch_size,
            max_steps=options.steps,
            learning_rate=options.learning_rate,
            seed=0,
            data_seed=0,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **changed,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(options.model),
        peft_config=LoraConfig(
            r=options.rank, lora_alpha=2 * options.rank, target_modules="all-linear"
        ),
        callbacks=[Clock()],
    )
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    return seconds, differences([line["num_tokens"] for line in lines]), [x["loss"] for x in lines]


def train_ours(options: argparse.Namespace, rows: list[dict[str, Any]]) -> Steps:
    """Ours, by the function that `agent-finetune train` ends in."""
    from agent_finetune import adapters, train
    from agent_finetune.config import AdapterConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
    from agent_finetune.contracts import TrainJob
    from agent_finetune.records import Tokens
    from agent_finetune.settings import read_settings

    config = RunConfig(
        model=ModelConfig(model=options.model),
        data=DataConfig(data="rows.json"),
        out=str(options.scratch / options.way),
        lora=AdapterConfig(rank=options.rank, alpha=2 * options.rank),
        train=TrainConfig(
            max_steps=options.steps,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            warmup=0.0,
            save_steps=options.steps + 1,
        ),
    )
    job = TrainJob(
        config=config,
        loaded=adapters.open_model(config.model, read_settings(), trainable=True),
        train_rows=[
            Tokens(
                ids=tuple(row["input_ids"]),
                trained=tuple(label != -100 for label in row["labels"]),
                sections=(None,) * len(row["labels"]),
            )
            for row in rows
        ],
        out=Path(config.out),
    )
    train.fit(job)
    lines = [json.loads(line) for line in (job.out / "history.jsonl").read_text().splitlines()]
    tokens = differences([line["tokens"] for line in lines])
    seconds = [n / line["tokens_per_second"] for n, line in zip(tokens, lines, strict=True)]
    return seconds, tokens, [line["loss"] for line in lines]


def profiled(options: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Share of the self time of each operator in a short run of ours, the largest first."""
    import torch

    options.steps = 2
    kind = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    with torch.profiler.profile() as profile:
        train_ours(options, rows)
    times = {event.key: float(getattr(event, kind)) for event in profile.key_averages()}
    total = sum(times.values())
    largest = sorted(times, key=lambda name: -times[name])[:12]
    return {name: times[name] / total for name in largest}


def differences(sums: list[float]) -> list[int]:
    """What each step added to a running sum."""
    return [int(after - before) for before, after in pairwise([0, *sums])]


def ratios(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Ours against the better of TRL's two; losses against each.

    The mean loss over the steps is what is compared: the loss of one batch at the end differs by
    some per cent between TRL's own two, which round differently.
    """
    ours, theirs = found["ours"], [found["trl"], found["trl-bf16"]]

    def against(name: str, better: Any) -> float:
        return float(ours[name] / better(way[name] for way in theirs))

    return {
        "speed": against("tokens_per_second", max),
        "speed_without_first_step": against("tokens_per_second_without_first_step", max),
        "memory": against("peak_gib", min),
        **{
            f"{loss}_to_{way}": float(ours[loss] / found[way][loss])
            for loss in ("mean_loss", "final_loss")
            for way in ("trl", "trl-bf16")
        },
    }


def describe(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """On what and with what it was measured."""
    import torch

    lengths = [len(row["input_ids"]) for row in json.loads((scratch / "rows.json").read_text())]
    cuda = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU"
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
        "device": "cuda" if cuda else "cpu",
        "device_name": name,
        "threads": torch.get_num_threads(),
        "model": options.model,
        "data": options.data,
        "rows": len(lengths),
        "mean_tokens": sum(lengths) / len(lengths),
        "steps": options.steps,
        "batch_size": options.batch_size,
        "rank": options.rank,
        "learning_rate": options.learning_rate,
    }


def table(found: dict[str, dict[str, Any]], ratio: dict[str, float]) -> str:
    """For people."""
    lines = [
        f"{'':10}{'tokens/s':>10}{'after step 1':>14}{'peak GiB':>10}"
        f"{'mean loss':>11}{'final loss':>12}"
    ]
    for way, result in found.items():
        lines.append(
            f"{way:10}{result['tokens_per_second']:>10.0f}"
            f"{result['tokens_per_second_without_first_step']:>14.0f}"
            f"{result['peak_gib']:>10.2f}{result['mean_loss']:>11.4f}{result['final_loss']:>12.4f}"
        )
    lines.append(
        f"{'ours':10}{ratio['speed']:>9.2f}x{ratio['speed_without_first_step']:>13.2f}x"
        f"{ratio['memory']:>9.2f}x   of the better of TRL's two"
    )
    lines += [
        f"ours, mean loss {ratio[f'mean_loss_to_{way}']:.3f}x and final loss "
        f"{ratio[f'final_loss_to_{way}']:.3f}x those of {way}"
        for way in ("trl", "trl-bf16")
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
