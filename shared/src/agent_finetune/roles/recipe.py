"""Global-to-local progressive fine-tuning: one backbone on everything, then a voice for each role.

The recipe of "Small LLMs Are Weak Tool Learners: A Multi-LLM Agent" (arXiv 2401.07324), with three
LoRA adapters on one base where the paper has three models: stage one trains an adapter on whole
steps, stage two goes on with copies of it, each on the turns of one role. The paper's baselines
are other layouts of the same recipe.

    OUT/backbone/      stage one, a run folder as `agent-finetune train` leaves it
    OUT/planner/       stage two, from where stage one ended; caller/ and summarizer/ likewise
    OUT/roles.json     who speaks with what; written last
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_finetune import readers
from agent_finetune.artifacts import write_json
from agent_finetune.config import RunConfig
from agent_finetune.errors import ConfigError, DataError
from agent_finetune.roles.data import RoleSets, role_sets, says_one_call
from agent_finetune.roles.options import RolesConfig
from agent_finetune.roles.prompts import ROLES, Part

if TYPE_CHECKING:
    from agent_finetune.contracts import Settings
    from agent_finetune.records import Example
    from agent_finetune.train.job import RowsOf, Say

ROLES_FILE = "roles.json"
PARTS: Mapping[str, tuple[Part, ...]] = {
    **{part.value: (part,) for part in Part},
    "multi-task": ROLES,
}
"""Whose turns a stage learns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageResult:
    """What one stage left behind."""

    name: str
    folder: Path
    rows: int
    steps: int
    train_tokens: int
    """Tokens in forward passes, padding not counted."""
    seconds: float
    metrics: Mapping[str, Any]
    """metrics.json of its run: `before` and `after`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RolesResult:
    """What the recipe left behind."""

    folder: Path
    stages: tuple[StageResult, ...]

    @property
    def train_tokens(self) -> int:
        """Tokens in forward passes over all stages."""
        return sum(stage.train_tokens for stage in self.stages)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Data:
    """The turns to learn and to be measured on, and what they were made of."""

    training: RoleSets
    held_out: RoleSets
    read: readers.ReadResult

    def of(self, name: str, sets: RoleSets) -> list[Example]:
        return [example for part in PARTS[name] for example in sets.sets[part]]


def train_roles(
    config: RolesConfig, settings: Settings, *, report: Callable[[str], None]
) -> RolesResult:
    """Train every stage, one after the other; with `resume` finished ones are left as they are.

    Args:
        config: The recipe. `run.data` holds trajectories in any format that the readers know.
        settings: Cache, token and offline switch.
        report: Gets one line for each thing that was derived.

    Raises:
        FinetuneError: Something the user must change; the message says what.
    """
    out = Path(config.run.out)
    if (out / ROLES_FILE).exists() and not config.run.train.resume:
        raise ConfigError(f"{out}: holds trained roles; give another out, or remove that folder")
    data = _read(config, settings, report)
    _check(config, data)
    epochs = _epochs(config, data, settings)
    results = []
    for place, name in enumerate(config.options.stages, start=1):
        report(f"[{place}/{len(config.options.stages)}] {name}")
        stage = _stage(config, name, epochs.get(name))
        result = _finished(stage, name) if config.run.train.resume else None
        if result is None:
            result = _train(stage, name, data, settings, lambda line: report(f"      {line}"))
        else:
            report(f"      finished before: {result.steps} steps")
        results.append(result)
    write_json(out / ROLES_FILE, _manifest(config))
    return RolesResult(folder=out, stages=tuple(results))


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `train_roles` says of a folder: layout, model, and the adapter of each part.

    Returns:
        `layout`, `method`, `model` (the fields of a ModelConfig) and `parts`, a folder's path by
        the part's name.

    Raises:
        ConfigError: There is none, or it is not ours.
    """
    path = folder / ROLES_FILE
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["version"] != 1:
            raise ConfigError(f"{path}: version {found['version']!r}; this release knows 1")
        if unknown := set(found["parts"]) - set(map(str, Part)):
            raise ConfigError(f"{path}: unknown parts {', '.join(sorted(unknown))}")
        found["parts"] = {part: folder / str(at) for part, at in found["parts"].items()}
        return {key: found[key] for key in ("layout", "method", "model", "parts")}
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; `agent-finetune roles train` writes it when all is trained"
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: not written by agent-finetune ({error!r})") from error


def _read(config: RolesConfig, settings: Settings, report: Callable[[str], None]) -> _Data:
    from agent_finetune.train.job import hold_out_share

    source = config.run.data
    found = readers.read_configured(source, settings)
    held_out: Sequence[Example] = ()
    training: Sequence[Example] = found.examples
    if source.eval_data is not None:
        held_out = readers.read_configured(source, settings, name=source.eval_data).examples
    elif source.eval_share:
        training, held_out = hold_out_share(
            training, share=source.eval_share, seed=config.run.train.seed
        )
    measured = {example.id for example in held_out if example.id}
    for name in config.options.without:
        measured |= {e.id for e in readers.read_configured(source, settings, name=name).examples}
    one_call = says_one_call(config.run.model, settings)
    sets = role_sets(training, without=measured, one_call=one_call)
    rows = ", ".join(f"{part.value} {len(rows)}" for part, rows in sets.sets.items())
    report(f"data: {source.data}, format {found.format}, {len(training)} trajectories; {rows}")
    for why, count in (*found.left_out.items(), *sets.left_out.items()):
        report(f"data: {count} left out: {why}")
    return _Data(training=sets, held_out=role_sets(held_out, one_call=one_call), read=found)


def _check(config: RolesConfig, data: _Data) -> None:
    """Refuse before anything is trained what a later stage would refuse.

    Raises:
        DataError: A stage has nothing to learn.
    """
    for name in config.options.stages:
        if not data.of(name, data.training):
            raise DataError(
                f"{config.run.data.data}: not one turn for the {name}; "
                + ("no trajectory ends in an answer" if name == "summarizer" else "see roles data")
            )


def _epochs(config: RolesConfig, data: _Data, settings: Settings) -> dict[str, float]:
    """By stage, how many passes spend the budget; empty without one."""
    budget = config.options.tokens
    if budget is None:
        return {}
    sizes = _sizes(config, data, settings)
    first = {"backbone": sizes.pop("backbone")} if "backbone" in sizes else {}
    if not sizes:
        return {"backbone": budget / first["backbone"]}
    share = config.options.stage_one_share if first else 0.0
    passes = {name: budget * share / size for name, size in first.items()}
    # As many passes for each role: their data differ in size, not in weight.
    return passes | dict.fromkeys(sizes, budget * (1 - share) / sum(sizes.values()))


def _sizes(config: RolesConfig, data: _Data, settings: Settings) -> dict[str, int]:
    """Tokens of each stage's data."""
    from agent_finetune.models import open_tokenizer
    from agent_finetune.models.context import UNLIMITED, context_length
    from agent_finetune.render import Renderer

    run = config.run
    renderer = Renderer(open_tokenizer(run.model, settings), sections=run.data.sections)
    limit = run.data.max_length or context_length(run.model, settings) or UNLIMITED
    sizes = {}
    for name in config.options.stages:
        fitted = (
            renderer.fit(example, limit, run.data.overlong)
            for example in data.of(name, data.training)
        )
        sizes[name] = sum(row.length for each in fitted for row in each.rows)
    return sizes


def _stage(config: RolesConfig, name: str, epochs: float | None) -> RunConfig:
    """The run that trains one stage."""
    run, out = config.run, Path(config.run.out)
    train = run.train if name not in config.stages else config.stages[name].over(run.train)
    if epochs is not None:
        train = replace(train, epochs=epochs)
    model = run.model
    if config.options.layout == "roles" and config.options.stage_one and name != "backbone":
        before = out / "backbone" / _written(run)
        full = run.train.method == "full"
        model = replace(model, model=str(before)) if full else replace(model, adapter=str(before))
    return replace(run, model=model, out=str(out / name), train=train)


def _written(run: RunConfig) -> str:
    return "model" if run.train.method == "full" else "adapter"


def _train(
    stage: RunConfig, name: str, data: _Data, settings: Settings, report: Callable[[str], None]
) -> StageResult:
    from agent_finetune.train import job

    def read(config: RunConfig, settings: Settings, say: Say) -> RowsOf:
        training = data.of(name, data.training)
        named = f"{data.read.digest} {name} {len(training)}".encode()
        # Only what became of these turns belongs into this run's record.
        made = replace(
            data.read,
            examples=tuple(training),
            digest=f"sha256:{hashlib.sha256(named).hexdigest()}",
        )
        return job.rows_of(training, data.of(name, data.held_out), [made], config.data, say)

    job.run(stage, settings, report=report, read=read)
    gc.collect()  # a trainer holds its model in a circle, and the next stage loads another
    result = _finished(stage, name)
    assert result is not None, stage.out  # it has just been written
    return result


def _finished(stage: RunConfig, name: str) -> StageResult | None:
    """What a stage left behind, if it is done.

    Raises:
        ConfigError: It was done under other settings.
    """
    from agent_finetune.train import folder

    out = Path(stage.out)
    run = folder.read_run(out)
    if run is None or run["status"] != "finished":
        return None
    wanted = json.loads(json.dumps(asdict(stage)))
    for group in ("model", "data", "lora", "train"):
        for key, value in wanted[group].items():
            before = run["config"][group].get(key)
            if before != value and key != "resume":
                raise ConfigError(
                    f"{out}: cannot resume, {key} was {before!r} and is now {value!r}; "
                    "put it back, or give another out"
                )
    return StageResult(
        name=name,
        folder=out,
        rows=run["data"]["train"]["rows"],
        steps=run["steps"],
        train_tokens=run["train_tokens"],
        seconds=run["seconds"],
        metrics=json.loads((out / folder.METRICS).read_text(encoding="utf-8")),
    )


def _manifest(config: RolesConfig) -> dict[str, Any]:
    written = _written(config.run)
    stages = config.options.stages
    if config.options.layout == "roles":
        stages = tuple(part.value for part in ROLES)
    return {
        "version": 1,
        "layout": config.options.layout,
        "method": config.run.train.method,
        "stage_one": config.options.layout == "roles" and config.options.stage_one,
        "model": asdict(config.run.model),
        "parts": {part.value: f"{name}/{written}" for name in stages for part in PARTS[name]},
    }
