"""What the process that trains does: measure, train, measure again.

It has a base of its own, because trainers rewrite the model that they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from peft import PeftModel

from agent_finetune import adapters, artifacts, plugins
from agent_finetune.config import DataConfig, Objective, RunConfig
from agent_finetune.contracts import LoadedModel, Retention, Settings, TrainJob, TrainResult
from agent_finetune.evaluate import log_probabilities
from agent_finetune.records import Tokens
from agent_finetune.render import Renderer
from agent_finetune.train.job import placed
from agent_finetune.update.gate import Measures, Scores
from agent_finetune.update.general import Said
from agent_finetune.update.job import ADAPTER, Outcome, Rows, UpdateJob


def train(folder: Path, settings: Settings) -> None:
    """Do the job that lies in a folder, and leave the adapter and the outcome there.

    Under torchrun every process calls this, and the first one writes.
    """
    job = UpdateJob.read(folder)
    processes = PartialState(cpu=job.model.device == "cpu")
    job = replace(job, model=placed(job.model, processes))
    loaded = _open(job, settings)
    before = _measure(loaded, job)
    base_loss = before.general  # a new adapter changes nothing
    if job.model.adapter is not None:
        base_loss = _loss(loaded, job.general, adapter=False)
    phases = []
    for objective, rows in job.rows.phases:
        result = plugins.train_adapter(_train_job(job, loaded, objective, rows, folder))
        phases.append(_facts(objective, len(rows), result))
    outcome = Outcome(
        before=before, after=_measure(loaded, job), base_loss=base_loss, phases=tuple(phases)
    )
    if processes.is_main_process:
        with artifacts.new_folder(folder / ADAPTER) as target:
            adapters.save(loaded.model, loaded.tokenizer, target)
        outcome.write(folder)


def _open(job: UpdateJob, settings: Settings) -> LoadedModel:
    """The base with the version that is live, or with an adapter that changes nothing yet."""
    loaded = adapters.open_model(job.model, settings, trainable=True)
    if not isinstance(loaded.model, PeftModel):
        model = adapters.attach(loaded, job.lora, seed=job.train.seed)
        loaded = replace(loaded, model=model)
    loaded.tokenizer.chat_template = Renderer(loaded.tokenizer).adaptation.template
    return loaded


def _train_job(
    job: UpdateJob, loaded: LoadedModel, objective: Objective, rows: Sequence[Any], folder: Path
) -> TrainJob:
    config = RunConfig(
        model=job.model,
        data=DataConfig(data="feedback"),
        out=str(folder / objective),
        lora=job.lora,
        train=replace(job.train, objective=objective),
    )
    retained = [_as_row(prompt, said) for prompt, said in job.retained]
    return TrainJob(
        config=config,
        loaded=loaded,
        train_rows=rows,
        out=folder / objective,
        retention=Retention(rows=retained, weight=job.retention) if job.retention else None,
    )


def _as_row(prompt: Sequence[int], said: Sequence[int]) -> Tokens:
    """An answer as a row in which it is what is looked at."""
    ids = (*prompt, *said)
    trained = (False,) * len(prompt) + (True,) * len(said)
    return Tokens(ids=ids, trained=trained, sections=(None,) * len(ids))


def _facts(objective: str, rows: int, result: TrainResult) -> dict[str, Any]:
    return {
        "objective": objective,
        "rows": rows,
        "steps": result.steps,
        "loss": result.loss,
        "seconds": result.seconds,
        "tokens": result.train_tokens,
    }


def _measure(loaded: LoadedModel, job: UpdateJob) -> Measures:
    return Measures(
        trained=_scores(loaded, job.rows),
        general=_loss(loaded, job.general, adapter=True),
        trusted=_scores(loaded, job.trusted) if job.trusted else None,
    )


def _loss(loaded: LoadedModel, said: Sequence[Said], *, adapter: bool) -> float:
    """Nats per token on answers."""
    found = log_probabilities(loaded, said, adapter=adapter)
    return -sum(each.total for each in found) / sum(each.tokens for each in found)


def _scores(loaded: LoadedModel, rows: Rows) -> Scores:
    """Log-probability per token of both sides of everything that was judged."""
    good = [(row.prompt, row.completion) for row in rows.verdicts if row.good]
    bad = [(row.prompt, row.completion) for row in rows.verdicts if not row.good]
    liked = [(row.prompt, row.chosen) for row in rows.pairs] + good + list(rows.demonstrated)
    disliked = [(row.prompt, row.rejected) for row in rows.pairs] + bad
    found = [each.mean for each in log_probabilities(loaded, [*liked, *disliked], adapter=True)]
    likes, dislikes = found[: len(liked)], found[len(liked) :]
    pairs = len(rows.pairs)
    return Scores(
        liked=(*likes, *(None for _ in bad)),
        disliked=(*dislikes[:pairs], *(None for _ in likes[pairs:]), *dislikes[pairs:]),
    )
