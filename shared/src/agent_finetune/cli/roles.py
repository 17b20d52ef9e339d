"""`roles`: a planner, a caller and a summarizer from one small model (arXiv 2401.07324)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import App, Group, Parameter

from agent_finetune.cli.options import (
    NO_OUTPUT,
    RESULT,
    AdapterFlags,
    DataFlags,
    ModelFlags,
    OutputFlags,
    TrainFlags,
    log,
)
from agent_finetune.cli.table import table
from agent_finetune.config import AdapterConfig, ModelConfig, RunConfig, TrainConfig
from agent_finetune.errors import DataError
from agent_finetune.records import Example
from agent_finetune.roles.options import RolesConfig, RolesOptions, StageConfig
from agent_finetune.roles.reports import RolesReport, RunsReport
from agent_finetune.roles.team import Team

roles = App(
    name="roles",
    help="Train and measure a planner, a caller and a summarizer from one small model.",
    version_flags=[],
)
ROLES = Group("Roles", sort_key=4)
STAGE = Group("Stages: --STAGE.FLAG, in TOML a table for each", sort_key=5)
RolesFlags = Annotated[RolesOptions, Parameter(name="*", group=ROLES)]
StageFlags = Annotated[StageConfig, Parameter(group=STAGE)]

DEFAULT_ADAPTER = AdapterConfig()
DEFAULT_TRAIN = TrainConfig()
DEFAULT_OPTIONS = RolesOptions()
AS_ALL = StageConfig()
"""A stage that does as the others do."""
TITLES = {"steps": "Step by step, behind the right history", "runs": "End to end"}


@roles.command
def train(
    *,
    model: ModelFlags,
    data: DataFlags,
    out: Annotated[str, Parameter(group=RESULT)],
    options: RolesFlags = DEFAULT_OPTIONS,
    lora: AdapterFlags = DEFAULT_ADAPTER,
    train: TrainFlags = DEFAULT_TRAIN,
    backbone: StageFlags = AS_ALL,
    planner: StageFlags = AS_ALL,
    caller: StageFlags = AS_ALL,
    summarizer: StageFlags = AS_ALL,
    output: OutputFlags = NO_OUTPUT,
) -> int:
    """Tune one backbone on everything, then each role on its own turns.

    Args:
        out: Folder that receives a run folder for each stage, and roles.json.
    """
    config = RolesConfig(
        run=RunConfig(model=model, data=data, out=out, lora=lora, train=train),
        options=options,
        stages=_stages(backbone=backbone, planner=planner, caller=caller, summarizer=summarizer),
    )

    from agent_finetune.roles.recipe import train_roles
    from agent_finetune.settings import read_settings

    try:
        result = train_roles(config, read_settings(), report=log)
    except KeyboardInterrupt:
        log(f"interrupted; the same command with --resume goes on in {out}")
        return 130
    lines = [
        (
            *(stage.name, stage.rows, stage.steps, stage.train_tokens, f"{stage.seconds:.0f} s"),
            *(_loss(stage.metrics[when]) for when in ("before", "after")),
        )
        for stage in result.stages
    ]
    heads = ("stage", "rows", "steps", "tokens", "time", "loss before", "after")
    return output.answer(asdict(result), f"{table(heads, lines, empty='')}\n{result.folder}")


@roles.command(name="data")
def write_data(
    *,
    data: DataFlags,
    out: Annotated[str, Parameter(group=RESULT)],
    without: Annotated[tuple[str, ...], Parameter(group=ROLES)] = (),
    output: OutputFlags = NO_OUTPUT,
) -> int:
    """Write what each role learns from trajectories: backbone, planner, caller and summarizer.

    Args:
        out: Folder that receives a jsonl file for each.
        without: Data whose examples are left out by their ids.
    """
    from agent_finetune import readers
    from agent_finetune.roles.data import role_sets, write_sets
    from agent_finetune.settings import read_settings

    settings = read_settings()
    read = readers.read_configured(data, settings)
    ids = {
        example.id
        for name in without
        for example in readers.read_configured(data, settings, name=name).examples
    }
    sets = role_sets(read.examples, without=ids)
    write_sets(sets, Path(out))
    for why, count in (*read.left_out.items(), *sets.left_out.items()):
        log(f"{count} left out: {why}")
    counts = {part.value: len(rows) for part, rows in sets.sets.items()}
    return output.answer(
        {"out": out, "rows": counts, "left_out": dict(sets.left_out)},
        f"{table(('set', 'rows'), list(counts.items()), empty='')}\n{out}",
    )


@roles.command(name="eval")
def evaluate(
    *,
    folder: Annotated[str, Parameter(group=RESULT)],
    data: DataFlags,
    out: Annotated[str | None, Parameter(group=RESULT)] = None,
    limit: Annotated[int | None, Parameter(group=RESULT)] = None,
    max_new_tokens: Annotated[int, Parameter(group=RESULT)] = 128,
    output: OutputFlags = NO_OUTPUT,
) -> int:
    """Measure trained roles on trajectories: step by step behind the right history, and end to end.

    Args:
        folder: What `roles train` left behind.
        out: Folder for the metrics and one JSON line for each step and run.
        limit: Trajectories at most.
        max_new_tokens: Most tokens of each role's words.
    """
    from agent_finetune import readers
    from agent_finetune.roles.data import one_by_one, says_one_call
    from agent_finetune.roles.recipe import read_manifest
    from agent_finetune.roles.team import open_team
    from agent_finetune.settings import read_settings

    settings = read_settings()
    model = ModelConfig(**read_manifest(Path(folder))["model"])
    examples = readers.read_configured(data, settings).examples[:limit]
    if says_one_call(model, settings):
        examples = tuple(map(one_by_one, examples))
    team = open_team(Path(folder), settings, max_new_tokens=max_new_tokens)
    reports = _measured(team, examples)
    for name, found in reports.items():
        for why, count in found.left_out.items():
            log(f"{name}: {count} left out: {why}")
        if out is not None:
            found.write(Path(out, name))
    if out is not None:
        log(f"one line for each step and run: {out}")
    values = {
        name: {key: asdict(measure) for key, measure in found.measures.items()}
        for name, found in reports.items()
    }
    text = "\n\n".join(f"{TITLES[name]}\n{found.table()}" for name, found in reports.items())
    return output.answer(values, text)


def _measured(team: Team, examples: Sequence[Example]) -> dict[str, RolesReport | RunsReport]:
    """Both reports; single steps alone where no trajectory is whole."""
    from agent_finetune import evaluate as evaluation
    from agent_finetune.roles.evaluation import evaluate_runs, evaluate_steps

    with evaluation.progress("steps") as on_progress:
        steps = evaluate_steps(team, examples, on_progress=on_progress)
    try:
        with evaluation.progress("end to end") as on_progress:
            runs = evaluate_runs(team, examples, on_progress=on_progress)
    except DataError as error:
        log(f"end to end: {error}")
        return {"steps": steps}
    return {"steps": steps, "runs": runs}


def _stages(**stages: StageConfig) -> dict[str, StageConfig]:
    """Those stages of which something was said."""
    return {name: said for name, said in stages.items() if said != AS_ALL}


def _loss(metrics: dict[str, float]) -> str:
    """The held-out loss, or that of training where nothing was held out."""
    value = metrics.get("eval_loss", metrics.get("train_loss"))
    return "-" if value is None else f"{value:.3f}"
