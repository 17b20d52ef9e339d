"""Planner, caller and summarizer from one small model, against one model that does it all.

    nox -s multi_llm                               # one seed on SmolLM2-135M, under an hour
    nox -s multi_llm -- --seeds 0 1 2              # mean and spread
    nox -s multi_llm -- --seeds 3 --add            # one more seed, into the same file
    nox -s multi_llm -- --small                    # all of it in minutes, to see that it runs

Trajectories of the Berkeley Function Calling Leaderboard (benchmarks/multillm/trajectories.py):
requests with one tool, requests with several, and requests that no tool serves. They are split by
function name. Four ways to spend the same number of training tokens are compared on the held-out
ones, as in "Small LLMs Are Weak Tool Learners: A Multi-LLM Agent" (arXiv 2401.07324):

- single: one adapter, which thinks, calls and answers in one turn;
- multi-task: one adapter, taught the three roles;
- one stage: three adapters, each from the base, on its role's turns;
- two stages: one adapter on whole steps first, then three that go on from it.

Step by step each turn follows the right history; end to end the model follows its own.
The figures go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from multillm import costs, tables
from multillm.trajectories import Split, split, write

from agent_finetune.artifacts import write_json
from agent_finetune.config import AdapterConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
from agent_finetune.contracts import Settings
from agent_finetune.models import open_tokenizer
from agent_finetune.render import Renderer
from agent_finetune.roles.evaluation import evaluate_runs, evaluate_steps
from agent_finetune.roles.options import RolesConfig, RolesOptions, StageConfig
from agent_finetune.roles.recipe import RolesResult, train_roles
from agent_finetune.roles.team import open_team
from agent_finetune.settings import read_settings

RESULTS = Path(__file__).parent / "results"
MOST_TOKENS = 560
"""Of a trajectory as the base model's chat has it; longer ones are left out."""
TRAINING = TrainConfig(batch_size=4, learning_rate=1e-3)
ROLE_RATE = 5e-4
ARMS: Mapping[str, RolesOptions] = {
    "single": RolesOptions(layout="single"),
    "multi-task": RolesOptions(layout="multi-task"),
    "one stage": RolesOptions(stage_one=False),
    "two stages": RolesOptions(),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Train and measure every arm, print the table, write the figures."""
    options = arguments(argv)
    start = time.monotonic()
    settings = read_settings()
    if options.cost:
        print(json.dumps(asdict(costs.team_cost(options.cost, settings))))
        return 0
    parts = drawn(options, settings)
    with TemporaryDirectory() as scratch:
        folder = Path(options.out or scratch)
        write(parts.training, folder / "train.jsonl")
        write(parts.held_out, folder / "held_out.jsonl")
        seeds = {
            str(seed): one_seed(seed, parts, folder, options, settings) for seed in options.seeds
        }
        roles = folder / f"seed-{options.seeds[-1]}" / "two-stages"
        cost = cost_of(roles) if roles.exists() else {}
    target = options.json or RESULTS / "multi_llm-cpu.json"
    found = {
        "settings": facts(options, parts),
        "seeds": added(seeds, target, facts(options, parts)) if options.add else seeds,
        "cost": cost,
        "seconds": round(time.monotonic() - start, 1),
    }
    write_json(target, found)
    print(tables.whole(found))
    print(f"{target}, after {found['seconds'] / 60:.1f} minutes")
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="smollm2-135m-instruct", help="hub id, folder or GGUF file")
    add("--quantization", default="none", choices=("none", "4bit", "8bit"))
    add("--seeds", type=int, nargs="+", default=[0], help="training seeds")
    add("--arms", nargs="+", default=list(ARMS), choices=ARMS, help="what is trained")
    add("--add", action="store_true", help="to what the file of figures holds already")
    add(
        "--role-rate",
        type=float,
        default=ROLE_RATE,
        help="peak step size of stage two, which goes on from a trained adapter",
    )
    add("--tokens", type=int, default=80_000, help="training tokens of each arm")
    add("--training", type=int, default=160, help="trajectories to learn from")
    add("--held-out", type=int, default=16, help="held-out trajectories of each of three kinds")
    add("--answer", type=int, default=96, help="most tokens of one role's words")
    add("--small", action="store_true", help="a fraction of it all, which proves that it runs")
    add("--out", help="folder for data, adapters and answers; kept")
    add("--json", type=Path, help="where to write the figures")
    add("--cost", type=Path, metavar="FOLDER", help="only print what trained roles cost, as JSON")
    options = parser.parse_args(argv)
    if options.small:
        options.tokens, options.training, options.held_out, options.answer = 1_000, 8, 1, 8
    return options


def added(seeds: dict[str, Any], target: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What a file of figures holds, and what was found now.

    Raises:
        ValueError: It was found under other settings.
    """
    before = json.loads(target.read_text("utf-8"))
    for name, value in settings.items():
        if name not in ("date", "versions", "machine") and before["settings"][name] != value:
            raise ValueError(f"{target}: {name} was {before['settings'][name]!r}, is {value!r}")
    names = {*before["seeds"], *seeds}
    return {name: before["seeds"].get(name, {}) | seeds.get(name, {}) for name in sorted(names)}


def cost_of(folder: Path) -> dict[str, Any]:
    """Bytes and switches of three roles, in a process that has held no other tensor."""
    words = (sys.executable, __file__, "--cost", str(folder))
    told = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return found


def drawn(options: argparse.Namespace, settings: Settings) -> Split:
    """Both parts of the data, of what is short enough."""
    tokenizer = open_tokenizer(ModelConfig(model=options.model), settings)
    renderer = Renderer(tokenizer)
    return split(
        settings,
        training=options.training,
        held_out=options.held_out,
        fits=lambda e: bool(renderer.fit(e, MOST_TOKENS, "drop").rows),
    )


def one_seed(
    seed: int, parts: Split, folder: Path, options: argparse.Namespace, settings: Settings
) -> dict[str, Any]:
    """Every arm with one training seed, as JSON."""
    found = {}
    for name in options.arms:
        out = folder / f"seed-{seed}" / name.replace(" ", "-")
        tell(f"seed {seed}, {name}: training")
        trained = train_roles(
            recipe(ARMS[name], seed, folder, out, options), settings, report=indented
        )
        tell(f"seed {seed}, {name}: measuring")
        found[name] = measured(trained, parts, options.answer, settings)
        tell(tables.line(name, found[name]))
    return found


def recipe(
    arm: RolesOptions, seed: int, folder: Path, out: Path, options: argparse.Namespace
) -> RolesConfig:
    """One arm; what is held out is named once more, although its functions are in no lesson."""
    run = RunConfig(
        model=ModelConfig(model=options.model, quantization=options.quantization),
        data=DataConfig(data=str(folder / "train.jsonl")),
        lora=AdapterConfig(),
        train=replace(TRAINING, seed=seed),
        out=str(out),
    )
    slow = StageConfig(learning_rate=options.role_rate)
    goes_on = arm.layout == "roles" and arm.stage_one
    return RolesConfig(
        run=run,
        options=replace(arm, tokens=options.tokens, without=(str(folder / "held_out.jsonl"),)),
        stages=dict.fromkeys(("planner", "caller", "summarizer"), slow) if goes_on else {},
    )


def measured(
    trained: RolesResult, parts: Split, most_answer: int, settings: Settings
) -> dict[str, Any]:
    """What an arm cost and what it can do, as JSON."""
    start = time.monotonic()
    team = open_team(trained.folder, settings, max_new_tokens=most_answer)
    steps = evaluate_steps(team, parts.held_out, accepted=parts.alternatives)
    runs = evaluate_runs(team, parts.held_out, accepted=parts.alternatives)
    for engine in team.engines.values():
        engine.close()
    steps.write(trained.folder / "steps")
    runs.write(trained.folder / "runs")
    return {
        "stages": {
            stage.name: {
                "rows": stage.rows,
                "steps": stage.steps,
                "tokens": stage.train_tokens,
                "seconds": stage.seconds,
            }
            for stage in trained.stages
        },
        "tokens": trained.train_tokens,
        "training_seconds": round(sum(stage.seconds for stage in trained.stages), 1),
        "measuring_seconds": round(time.monotonic() - start, 1),
        "steps": {name: asdict(measure) for name, measure in steps.measures.items()},
        "runs": {name: asdict(measure) for name, measure in runs.measures.items()},
    }


def facts(options: argparse.Namespace, parts: Split) -> dict[str, Any]:
    """What was run."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {n: version(n) for n in ("agent-finetune", "torch", "transformers", "peft")},
        "machine": platform.machine(),
        "model": options.model,
        "quantization": options.quantization,
        "tokens": options.tokens,
        "trajectories": {"training": len(parts.training), "held_out": len(parts.held_out)},
        "training": asdict(TRAINING),
        "role_rate": options.role_rate,
        "small": options.small,
    }


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def indented(line: str) -> None:
    tell(f"  {line}")


if __name__ == "__main__":
    sys.exit(main())
