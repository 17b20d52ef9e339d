"""Tools end to end: an AgentScope agent that calls real Python functions, before and after tuning.

    nox -s benchmark -- agentscope_tools                      # SmolLM2-135M, under 15 minutes
    nox -s benchmark -- agentscope_tools --tasks 10 --examples 60

50 requests (benchmarks/toolloop/tasks.jsonl) go through AgentScope's own loop of reasoning and
acting: the model calls, AgentScope executes the Python function, the model answers. A task is done
when exactly the expected calls were executed with right arguments, which the functions themselves
tell, and a final answer behind the results says what they gave.

The model is then fine-tuned through `FineTuner`, on conversations with result turns, and does the
tasks again. Half of these conversations are questions of the Berkeley Function Calling Leaderboard,
continued to a made-up result and an answer; half practise other Python functions, executed for
real. The 20 functions of the tasks are in none of them, by name or by another name of the same
words. Every conversation was laid out by the agent that is measured, so system prompt, schemas and
result turns are those of service.

Exits 1 when fewer than 40% of the tasks are done after tuning. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from toolloop import lessons
from toolloop.loop import Outcome, Task, attempt_all, make_agent, read_tasks

from agent_finetune import readers
from agent_finetune.artifacts import write_json, write_text
from agent_finetune.metrics import wilson
from agent_finetune.models import open_tokenizer
from agent_finetune.readers import chat
from agent_finetune.records import Row
from agent_finetune.render import Renderer
from agent_finetune.settings import read_settings
from agentscope_finetune import FineTuner, TransformersChatModel

RESULTS = Path(__file__).parent / "results"
LEAST = 0.4
"""Share of the tasks that must be done after tuning."""
MOST_TOKENS = 320
"""Of a training conversation; the leaderboard's longer ones are left out."""
MOST_ANSWER = 96
TRAINING = {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "save_strategy": "no"}
FAILURES = 6
"""That are shown."""
KINDS: Mapping[str, Callable[[Task], bool]] = {
    "one tool": lambda task: len(task.tools) == 1,
    "several tools": lambda task: len(task.tools) > 1,
    "two calls": lambda task: len(task.calls) > 1,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, tune, measure again, print; 1 when the bar is missed."""
    options = arguments(argv)
    logging.getLogger("as").setLevel(logging.ERROR)  # its warnings of each exhausted loop
    with TemporaryDirectory() as scratch:
        report = asyncio.run(run(options, Path(options.out or scratch)))
    print(table(report))
    print(failures(report))
    done = report["after"]["both"] / len(report["tasks"])
    passed = done >= LEAST
    print(f"{'PASS' if passed else 'FAIL'}  {done:.0%} done after tuning, at least {LEAST:.0%}")
    target = options.json or RESULTS / f"agentscope_tools-{report['settings']['device']}.json"
    write_json(target, report)
    print(f"{target}, after {report['seconds']['all']} seconds")
    return 0 if passed else 1


async def run(options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Everything that is measured, as JSON."""
    watch = Watch()
    tasks = read_tasks()[: options.tasks]
    settings = read_settings()
    model = TransformersChatModel(
        model=options.model,
        parameters=TransformersChatModel.Parameters(max_tokens=MOST_ANSWER, temperature=0),
        settings=settings,
    )
    tokenizer = open_tokenizer(model.model_config, settings)
    data, facts = await training_data(options, Renderer(tokenizer), out, settings)
    watch.lap("data", f"{facts['conversations']} conversations, {facts['tokens']} tokens")
    before = await attempt_all(tasks, model)
    watch.lap("before", f"{count(before)['both']} of {len(tasks)} done before tuning")
    tuner = FineTuner(make_agent(model, ()), on_progress=shown, settings=settings)
    result = await tuner.fine_tune(str(data), str(out), configuration(options))
    watch.lap("training", f"{result.steps} steps, loss {result.loss:.3f}")
    after = await attempt_all(tasks, model)
    watch.lap("after", f"{count(after)['both']} of {len(tasks)} done after tuning")
    info = model.engine.info()
    model.engine.close()
    return {
        "settings": {
            "date": datetime.now(UTC).date().isoformat(),
            "versions": {n: version(n) for n in ("agentscope", "torch", "transformers", "peft")},
            "device": info.device.partition(":")[0],
            "machine": platform.machine(),
            "dtype": info.dtype,
            "model": options.model,
            "seed": options.seed,
            "training": configuration(options),
        },
        "data": facts,
        "before": count(before),
        "after": count(after),
        "kinds": {name: kind(name, tasks, before, after) for name in KINDS},
        "tasks": [
            {"id": task.id, "request": task.request, "before": b.as_json(), "after": a.as_json()}
            for task, b, a in zip(tasks, before, after, strict=True)
        ],
        "seconds": watch.seconds(),
    }


async def training_data(
    options: argparse.Namespace, renderer: Renderer, out: Path, settings: Any
) -> tuple[Path, dict[str, Any]]:
    """Write the conversations to train on; answer the file, and what is in it."""

    def length(row: Mapping[str, Any]) -> int:
        example = chat.read_messages(Row(data=row, source="a conversation"))
        return sum(len(rendered.ids) for rendered in renderer.rows(example))

    examples = readers.read("bfcl", settings=settings).examples
    rows = await lessons.rows(
        options.examples, examples, fits=lambda row: length(row) <= MOST_TOKENS, seed=options.seed
    )
    path = out / "conversations.jsonl"
    write_text(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    offered = [set(lessons.offered_names(row)) for row in rows]
    practised = sum(names <= lessons.practised_names() for names in offered)
    return path, {
        "conversations": len(rows),
        "leaderboard": len(rows) - practised,
        "practised": practised,
        "functions": len(set().union(*offered)),
        "tokens": sum(map(length, rows)),
    }


def configuration(options: argparse.Namespace) -> dict[str, Any]:
    """What `fine_tune` is told; the adapter is its default, LoRA of rank 16 on all layers."""
    epochs = {"num_train_epochs": options.epochs, "seed": options.seed}
    return {"training_args": TRAINING | epochs, "max_seq_length": MOST_TOKENS}


class Watch:
    """Seconds of each part, told as they pass."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self._laps: dict[str, int] = {}

    def lap(self, name: str, found: str) -> None:
        now = time.monotonic()
        self._laps[name] = round(now - self._last)
        self._last = now
        print(f"{name}: {found}, {self._laps[name]} seconds", file=sys.stderr, flush=True)

    def seconds(self) -> dict[str, int]:
        return {**self._laps, "all": round(time.monotonic() - self._start)}


def shown(line: Mapping[str, Any]) -> None:
    """One line of training in ten."""
    if "loss" in line and line["step"] % 10 == 0:
        print(f"step {line['step']}  loss {line['loss']:.3f}", file=sys.stderr, flush=True)


def count(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How often each thing was right."""
    return {
        "right_call": sum(outcome.right_call for outcome in outcomes),
        "right_answer": sum(outcome.right_answer for outcome in outcomes),
        "both": sum(outcome.both for outcome in outcomes),
    }


def kind(
    name: str, tasks: Sequence[Task], before: Sequence[Outcome], after: Sequence[Outcome]
) -> dict[str, int]:
    """How many tasks of a kind there are and were done."""
    chosen = [place for place, task in enumerate(tasks) if KINDS[name](task)]
    return {
        "n": len(chosen),
        "before": sum(before[place].both for place in chosen),
        "after": sum(after[place].both for place in chosen),
    }


def table(report: Mapping[str, Any]) -> str:
    """Counts before and after, with 95% intervals."""
    n = len(report["tasks"])
    data, seconds = report["data"], report["seconds"]
    labels = {
        "right_call": "right calls executed, no other",
        "right_answer": "final answer says the result",
        "both": "both: the task is done",
    }
    lines = [f"{f'{n} tasks of functions never trained':38}{'before':>20}{'after':>20}"]
    for key, label in labels.items():
        cells = [share(report[when][key], n) for when in ("before", "after")]
        lines.append(f"{label:38}{cells[0]:>20}{cells[1]:>20}")
    for name, found in report["kinds"].items():
        if found["n"]:
            cells = [share(found[when], found["n"]) for when in ("before", "after")]
            lines.append(f"{f'done, {name}':38}{cells[0]:>20}{cells[1]:>20}")
    lines.append(
        f"trained on {data['conversations']} conversations ({data['leaderboard']} of the "
        f"leaderboard, {data['practised']} practised), {data['functions']} functions, "
        f"{data['tokens']} tokens; seconds: "
        + ", ".join(f"{name} {spent}" for name, spent in seconds.items())
    )
    return "\n".join(lines)


def share(hits: int, n: int) -> str:
    low, high = wilson(hits, n)
    return f"{hits}/{n} ({low:.0%}-{high:.0%})"


def failures(report: Mapping[str, Any]) -> str:
    """Some tasks that were not done after tuning, with what was said."""
    failed = [task for task in report["tasks"] if not task["after"]["both"]]
    lines = [f"\n{len(failed)} not done after tuning, of which:"]
    for task in failed[:FAILURES]:
        lines += [f"  {task['id']}: {task['request']}", f"    {task['after']['said'][:300]}"]
    return "\n".join(lines) + "\n"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--tasks", type=int, default=50, help="the first so many tasks")
    parser.add_argument("--examples", type=int, default=480, help="conversations to train on")
    parser.add_argument("--epochs", type=float, default=1.0, help="passes over them")
    parser.add_argument("--seed", type=int, default=0, help="of the data and the training")
    parser.add_argument("--out", type=Path, help="where data and adapter stay")
    parser.add_argument("--json", type=Path, help="where the results go")
    options = parser.parse_args(argv)
    if options.tasks < 1 or options.examples < 4:
        parser.error("--tasks must be at least 1, --examples 4")
    return options


if __name__ == "__main__":
    sys.exit(main())
