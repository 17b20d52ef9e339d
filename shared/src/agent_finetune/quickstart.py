"""The main job on a real model, from nothing: measure, fine-tune, measure again.

Every step is an ordinary command of `agent-finetune`, over functions that anyone can call. Data is
split by tool: no function of a held-out question is ever offered in training.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_finetune import readers, train
from agent_finetune.adapters import open_model
from agent_finetune.artifacts import write_json, write_text
from agent_finetune.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from agent_finetune.errors import ConfigError
from agent_finetune.evaluate import Report, evaluate, progress
from agent_finetune.render import Renderer
from agent_finetune.splits import hold_out_tools

if TYPE_CHECKING:
    from agent_finetune.contracts import LoadedModel, Settings, TrainResult
    from agent_finetune.records import Example

SPLIT_SEED = 0
"""The held-out questions are the same for every training seed."""
TRAINING = TrainConfig(batch_size=4, learning_rate=1e-3, epochs=2.0)
"""Found on the training half; smaller batches take more steps in the same time."""
PROBE_STEPS = 4
"""Steps of the trial run that tells how fast this machine trains; the first is not counted."""
LABELS = {
    "name_accuracy": "right tool name",
    "exact_match": "call fully right",
    "argument_f1": "argument F1",
    "valid_json": "calls that parse",
    "hallucinated": "unknown tool called",
    "missing": "no call made",
}
"""Metrics of the table, in its order, by their names in `agent_finetune.metrics`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuickstartConfig:
    """What `agent-finetune quickstart` may be told."""

    model: str = "smollm2-135m-instruct"
    """Hub id, folder or GGUF file to train instead."""
    minutes: float = 9.0
    """Time for everything after installation; fewer steps are trained on a slow machine."""
    out: str = "runs/quickstart"
    """Folder for data, adapter, reports and plot."""
    seed: int = 0
    """Seed of the training."""
    per_kind: int = 32
    """Held-out questions that offer one tool, and as many that offer several."""
    max_length: int = 560
    """Most tokens of a question with its answer; longer ones are left out, and counted."""
    max_new_tokens: int = 128
    """Most tokens of an answer to a held-out question."""

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise ConfigError(f"minutes is {self.minutes!r}; it must be greater than 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Questions to train on and to measure on, also as files in the leaderboard's format."""

    train: Path
    held_out: Path
    one: tuple[Example, ...]
    """Held-out questions that offer one tool."""
    several: tuple[Example, ...]
    trained: int
    too_long: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A model's reports on the two kinds of held-out questions."""

    one: Report
    several: Report
    seconds: float

    def rate(self, metric: str) -> str:
        """A metric over both kinds, with one and with several tools, as cells of a table."""
        kinds = (self.one, self.several)
        measures = [r.measures[metric] for r in kinds if metric in r.measures]
        n = sum(m.n for m in measures)
        if not n:
            return "-"
        if all(m.hits is not None for m in measures):
            return f"{sum(m.hits or 0 for m in measures)} of {n}"
        return f"{sum(m.value * m.n for m in measures) / n:.2f}"

    def row(self, example_id: str) -> Mapping[str, Any]:
        """What was answered to one question."""
        return next(r for r in (*self.one.rows, *self.several.rows) if r["id"] == example_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuickstartResult:
    """What the quickstart found."""

    before: Measured
    after: Measured
    training: TrainResult
    seconds: float
    """From the first line to the last, installation not counted."""


def run(
    config: QuickstartConfig, settings: Settings, *, report: Callable[[str], None]
) -> QuickstartResult:
    """Measure a model on held-out tool calls, fine-tune it, and measure it again.

    Args:
        config: Model, time and place.
        settings: Token and cache.
        report: Receives each line for the reader.

    Raises:
        FinetuneError: The model or the data cannot be had, or `out` holds another run.
    """
    start = time.monotonic()
    out = Path(config.out)
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out}: is not empty; give another --out, or remove it")
    model = ModelConfig(model=config.model)
    report(f"[1/5] Model: {config.model}")
    loaded = open_model(model, settings)
    report(f"      loaded on {loaded.device} in {loaded.dtype}")
    split = split_leaderboard(loaded, out / "data", settings, config)
    report(
        f"[2/5] Data: Berkeley Function Calling Leaderboard, {split.trained} questions to train "
        f"on, {len(split.one)} + {len(split.several)} held out (one tool + several);\n      no "
        f"tool is on both sides; {split.too_long} longer than {config.max_length} tokens left out"
    )
    report("[3/5] Before: the model answers the held-out questions")
    before = measure(loaded, split, out / "before", config.max_new_tokens)
    report(f"      right tool name: {before.rate('name_accuracy')}")
    del loaded  # training loads its own copy
    report(f"[4/5] Train: first {PROBE_STEPS} steps as a trial, to see how fast this machine is")
    job = run_config(config, model, split, out)
    left = config.minutes * 60 - (time.monotonic() - start) - before.seconds
    job = fit_into(job, split.trained, left, settings, report)
    training = train.run(job, settings, report=lambda line: report(f"      {line}"))
    report("[5/5] After: the adapted model answers the same questions")
    adapted = open_model(replace(model, adapter=str(training.adapter_dir)), settings)
    after = measure(adapted, split, out / "after", config.max_new_tokens)
    result = QuickstartResult(
        before=before, after=after, training=training, seconds=time.monotonic() - start
    )
    write_json(out / "quickstart.json", _as_json(result))
    report(summary(config, split, result))
    return result


def split_leaderboard(
    loaded: LoadedModel, out: Path, settings: Settings, config: QuickstartConfig
) -> Split:
    """Split the leaderboard's single-call questions by tool, and write both parts as jsonl.

    Args:
        loaded: Its tokenizer tells which questions fit into `config.max_length`.
        out: Receives train.jsonl and held_out.jsonl, rows as the leaderboard has them, each with
            its ground truth.
        settings: Cache of the download.
        config: How long a question may be, and how many are held out.
    """
    source = readers.open_source("bfcl", settings)
    examples = readers.read("bfcl", settings=settings).examples
    renderer = Renderer(loaded.tokenizer)
    fitting = [e for e in examples if renderer.fit(e, config.max_length, "drop").rows]
    training, held_out = hold_out_tools(
        fitting, one_tool=config.per_kind, several_tools=config.per_kind, seed=SPLIT_SEED
    )
    rows = {str(row.data["id"]): row.data for row in source.rows}
    paths = (out / "train.jsonl", out / "held_out.jsonl")
    for path, part in zip(paths, (training, held_out), strict=True):
        lines = (json.dumps(rows[example.id], ensure_ascii=False) for example in part)
        write_text(path, "".join(f"{line}\n" for line in lines))
    return Split(
        train=paths[0],
        held_out=paths[1],
        one=tuple(held_out[: config.per_kind]),
        several=tuple(held_out[config.per_kind :]),
        trained=len(training),
        too_long=len(examples) - len(fitting),
    )


def measure(loaded: LoadedModel, split: Split, out: Path, max_new_tokens: int) -> Measured:
    """Let a model answer the held-out questions, and write every answer under `out`."""
    start = time.monotonic()
    reports = []
    for name, part in (("one tool", split.one), ("several tools", split.several)):
        with progress(f"      {name}") as on_progress:
            found = evaluate(loaded, part, max_new_tokens=max_new_tokens, on_progress=on_progress)
        found.write(out / name.replace(" ", "_"))
        reports.append(found)
    return Measured(one=reports[0], several=reports[1], seconds=time.monotonic() - start)


def fit_into(
    config: RunConfig,
    rows: int,
    seconds: float,
    settings: Settings,
    report: Callable[[str], None],
) -> RunConfig:
    """The run with as many steps as fit into some seconds, after a trial of a few steps.

    Args:
        config: The run as it would be with all the time it wants.
        rows: Rows of its data.
        seconds: Time there is; what the trial itself takes is part of it.
        settings: Token and cache.
        report: Receives the estimate.
    """
    start = time.monotonic()
    wanted = max(1, round(rows * config.train.epochs / config.train.batch_size))
    with tempfile.TemporaryDirectory() as folder:
        trial = replace(
            config,
            out=folder,
            train=replace(config.train, max_steps=PROBE_STEPS, warmup=0.0),
        )
        result = train.run(trial, settings, report=lambda _: None)
        lines = [
            json.loads(line)
            for line in (Path(folder) / "history.jsonl").read_text("utf-8").splitlines()
        ]
    timed = [line["seconds"] for line in lines if "loss" in line]
    per_step = (timed[-1] - timed[0]) / (len(timed) - 1)
    overhead = time.monotonic() - start - per_step * (PROBE_STEPS - 1)
    left = seconds - (time.monotonic() - start) - overhead
    steps = max(PROBE_STEPS, min(wanted, int(left / per_step)))
    speed = result.train_tokens / PROBE_STEPS / per_step
    report(
        f"      {speed:.0f} tokens/s: {steps} steps of {config.train.batch_size} questions fit, in "
        f"about {steps * per_step / 60:.1f} minutes (all {wanted} would take "
        f"{wanted * per_step / 60:.1f})"
    )
    return replace(config, train=replace(config.train, max_steps=steps))


def summary(config: QuickstartConfig, split: Split, result: QuickstartResult) -> str:
    """The table, one question with both answers, and what to type next."""
    before, after = result.before, result.after
    lines = ["", f"{'held-out questions':32}{'before':>12}{'after':>12}"]
    lines += [f"{label:32}{before.rate(m):>12}{after.rate(m):>12}" for m, label in LABELS.items()]
    for kind, part in (("one tool", "one"), ("several tools", "several")):
        cells = [
            f"{m.hits} of {m.n}"
            for m in (getattr(found, part).measures["name_accuracy"] for found in (before, after))
        ]
        lines.append(f"{f'right tool name, {kind}':32}{cells[0]:>12}{cells[1]:>12}")
    adapter = result.training.adapter_dir
    program, base = _program(), f"--model {config.model}"
    return "\n".join(
        [
            *lines,
            "",
            *_sample(split, result),
            "",
            f"Done in {result.seconds / 60:.1f} minutes. The adapter lies in {adapter}",
            "",
            "Try next:",
            f"  {program} chat {base} --adapter {adapter}",
            f"  {program} inspect {base} --data {split.train}",
            f"  {program} train {base} --data YOUR.jsonl --out runs/mine",
        ]
    )


def _program() -> str:
    """The command as it can be typed from here, on the search path or not."""
    if shutil.which("agent-finetune"):
        return "agent-finetune"
    path = Path(sys.executable).parent / "agent-finetune"
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _sample(split: Split, result: QuickstartResult) -> Sequence[str]:
    """A question that came right, or the first one if none did."""
    example = next(
        (e for e in (*split.several, *split.one) if result.after.row(e.id)["exact"]), split.one[0]
    )
    lines = [f"For example ({', '.join(example.tool_names)}):"]
    answers = (result.before.row(example.id), result.after.row(example.id))
    question = next(m.text for m in reversed(example.messages) if m.role == "user")
    shown = {"asked": question, "before": answers[0]["answer"], "after": answers[1]["answer"]}
    for label, text in shown.items():
        lines.append(f"  {label + ':':8}{_shortened(text)}")
    return lines


def _shortened(text: str, most: int = 150) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[:most]} ..."


def run_config(config: QuickstartConfig, model: ModelConfig, split: Split, out: Path) -> RunConfig:
    """The training as it would be with all the time it wants."""
    return RunConfig(
        model=model,
        data=DataConfig(data=str(split.train), max_length=config.max_length, overlong="drop"),
        train=replace(TRAINING, seed=config.seed),
        out=str(out),
    )


def _as_json(result: QuickstartResult) -> dict[str, Any]:
    return {
        "seconds": round(result.seconds, 1),
        "steps": result.training.steps,
        "train_tokens": result.training.train_tokens,
        **{
            when: {"one_tool": found.one.metrics, "several_tools": found.several.metrics}
            for when, found in (("before", result.before), ("after", result.after))
        },
    }
