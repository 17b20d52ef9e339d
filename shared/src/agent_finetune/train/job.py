"""`run`: a whole training job, from a `RunConfig` to what it leaves on disk."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import PartialState

from agent_finetune import adapters, plugins, readers
from agent_finetune.config import DataConfig, ModelConfig, OverlongPolicy, RunConfig
from agent_finetune.contracts import LoadedModel, Settings, TrainJob, TrainResult
from agent_finetune.errors import DataError, RenderError
from agent_finetune.models import loaded_context
from agent_finetune.readers import ReadResult
from agent_finetune.records import BadRow, Example, Tokens
from agent_finetune.render import FitResult, Renderer
from agent_finetune.splits import tool_families
from agent_finetune.train import distributed, folder, judged
from agent_finetune.train.pairs import Rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """Examples as rows, and what became of those that did not fit."""

    rows: tuple[Tokens, ...]
    examples: tuple[Example, ...]
    """Those that gave at least one row."""
    trimmed: int
    """Examples that lost their oldest turns to the length limit."""
    dropped: int
    """Examples that are too long even so, or by policy."""
    split: int
    """Examples that became several rows, because a later prompt rewrites an earlier turn."""
    bad: tuple[BadRow, ...]
    """Examples that the chat template cannot express."""

    def counts(self) -> dict[str, int]:
        """For run.json."""
        return {
            "examples": len(self.examples),
            "rows": len(self.rows),
            "in_several_rows": self.split,
            "trimmed": self.trimmed,
            "too_long": self.dropped,
            "not_expressible": len(self.bad),
            "tokens": sum(len(row.ids) for row in self.rows),
            "trained_tokens": sum(sum(row.trained) for row in self.rows),
        }


Say = Callable[[str], None]


class Fits(Protocol):
    """Makes rows of an example, none too long; a `Renderer` does."""

    def fit(self, example: Example, max_length: int, policy: OverlongPolicy) -> FitResult: ...


RowsOf = Callable[[Renderer, int], Rows]
"""Makes rows with a model's renderer, of at most so many tokens each."""
Read = Callable[[RunConfig, Settings, Say], RowsOf]
"""Reads a run's data, before its model is loaded."""


def run(
    config: RunConfig,
    settings: Settings,
    *,
    report: Say,
    read: Read | None = None,
    chat_template: str | Callable[[Any], str] | None = None,
    callbacks: Sequence[Any] = (),
) -> TrainResult:
    """Read data, load the model, render, train, and write what the run leaves behind.

    Under torchrun every process calls this; process 0 reports and writes.

    Args:
        config: The whole run.
        settings: Cache, token and offline switch.
        report: Gets one line for each thing that was derived.
        read: Reads the data, where `config.data` alone does not say what it is; see `rows_of`.
        chat_template: What the model is rendered and served with instead of its own, or what makes
            that of its tokenizer.
        callbacks: `transformers.TrainerCallback`s that act beside the run's own.

    Raises:
        FinetuneError: Something the user must change; the message says what.
    """
    out = Path(config.out)
    folder.check(out, resume=config.train.resume)
    distributed.check(config)
    processes = PartialState(cpu=config.model.device == "cpu" or not torch.cuda.is_available())
    claim = folder.claimed(out, resume=config.train.resume)
    with claim if processes.is_main_process else nullcontext():
        return _run(config, settings, processes, report, read, chat_template, callbacks)


def _run(
    config: RunConfig,
    settings: Settings,
    processes: PartialState,
    report: Say,
    read: Read | None,
    chat_template: str | Callable[[Any], str] | None,
    callbacks: Sequence[Any],
) -> TrainResult:
    """`run`, in a folder that is ours."""
    say = report if processes.is_main_process else _say_nothing
    read = read or (_demonstrations if config.train.objective == "sft" else judged.read)
    make_rows = read(config, settings, say)
    loaded = adapters.open_model(placed(config.model, processes), settings, trainable=True)
    say(f"model: {loaded.resolved.name}, {loaded.dtype} on {loaded.device}")
    if loaded.config.adapter:
        say(f"adapter: {loaded.config.adapter} goes on training, with its own rank and targets")
    if callable(chat_template):
        chat_template = chat_template(loaded.tokenizer)
    if chat_template is not None:
        loaded.tokenizer.chat_template = chat_template
    renderer = Renderer(loaded.tokenizer, sections=config.data.sections)
    for reason in renderer.adaptation.reasons:
        say(f"chat template: {reason}")
    limit = config.data.max_length or loaded_context(loaded)
    rows = make_rows(renderer, limit)
    template = {
        "adaptations": list(renderer.adaptation.names),
        "reasons": list(renderer.adaptation.reasons),
    }
    job = TrainJob(
        config=config,
        loaded=_as_served(loaded, renderer),
        train_rows=rows.train,
        eval_rows=rows.evaluation,
        eval_examples=rows.eval_examples[: config.train.eval_generate],
        out=Path(config.out),
        callbacks=tuple(callbacks),
        facts={**rows.facts, "chat_template": template},
    )
    return plugins.train_adapter(job)


def _demonstrations(config: RunConfig, settings: Settings, say: Say) -> RowsOf:
    """Read what supervised training imitates, and answer what makes rows of it."""
    data = _read(config.data, config.data.data, settings, say)
    other = None
    if config.data.eval_data is not None:
        other = _read(config.data, config.data.eval_data, settings, say)
    training, held_out = _split(config, data, other, say)
    read = [data] if other is None else [data, other]
    return rows_of(training, held_out, read, config.data, say)


def rows_of(
    training: Sequence[Example],
    held_out: Sequence[Example],
    read: Sequence[ReadResult],
    config: DataConfig,
    say: Say,
) -> Callable[[Fits, int], Rows]:
    """What makes rows of examples, once the model is there, and reports what it cost.

    Args:
        training: Examples to train on.
        held_out: Examples to measure on.
        read: Where they are from, for run.json.
        config: Policies for bad and over-long examples.
        say: Gets a line for each thing that was lost.
    """

    def rows(renderer: Fits, limit: int) -> Rows:
        train = render(renderer, training, config, limit)
        evaluation = render(renderer, held_out, config, limit)
        _tell(say, train, evaluation, limit)
        return Rows(
            train=train.rows,
            evaluation=evaluation.rows,
            eval_examples=evaluation.examples,
            facts=_facts(read, train, evaluation, limit),
        )

    return rows


def _say_nothing(_: str) -> None:
    """What processes other than the first report."""


def _read(config: DataConfig, name: str, settings: Settings, say: Say) -> ReadResult:
    result = readers.read_configured(config, settings, name=name)
    found = "" if config.format != "auto" else " (found)"
    bad = f", {len(result.bad)} bad rows left out" if result.bad else ""
    left = "".join(f", {count} left out: {why}" for why, count in result.left_out.items())
    say(f"data: {name}, format {result.format}{found}, {len(result.examples)} examples{bad}{left}")
    return result


def _split(
    config: RunConfig, data: ReadResult, other: ReadResult | None, say: Say
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Examples to train on, and examples to measure on."""
    if other is not None:
        return data.examples, other.examples
    if not config.data.eval_share:
        return data.examples, ()
    training, held_out = hold_out_share(
        data.examples, share=config.data.eval_share, seed=config.train.seed
    )
    say(f"held out: {len(held_out)} examples, whose tools are in no example that is trained")
    return training, held_out


def hold_out_share(
    examples: Sequence[Example], *, share: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Split so that no tool of a held-out example is trained; example order is kept.

    Args:
        examples: Examples, with tools or without.
        share: Most of them that are held out, from 0 to 1.
        seed: Seed of the choice of tool families.

    Raises:
        DataError: Every family is larger than the share.
    """
    families = tool_families(examples)
    random.Random(seed).shuffle(families)
    room = round(share * len(examples))
    chosen: set[int] = set()
    for family in families:
        if len(family) <= room - len(chosen):
            chosen.update(id(example) for example in family)
    if not chosen:
        raise DataError(
            f"eval_share {share!r} of {len(examples)} examples holds out {room}, and the smallest "
            f"group that shares its tools has {min(map(len, families))}; raise eval_share, or "
            "give eval_data"
        )
    return (
        [example for example in examples if id(example) not in chosen],
        [example for example in examples if id(example) in chosen],
    )


def placed(config: ModelConfig, processes: PartialState) -> ModelConfig:
    """The same model on this process's own GPU, where torchrun started several."""
    if processes.num_processes == 1 or processes.device.type != "cuda":
        return config
    return replace(config, device=f"cuda:{processes.local_process_index}")


def render(renderer: Fits, examples: Sequence[Example], config: DataConfig, limit: int) -> Rendered:
    """Render every example, and count what is lost.

    Args:
        renderer: Of the model's tokenizer, or what makes rows in its place.
        examples: What to render.
        config: Policies for bad and over-long examples.
        limit: Most tokens in a row.

    Raises:
        DataError: Not one example is left, **or** one is too long and the policy is error.
        RenderError: One cannot be expressed and the policy for bad rows is stop.
    """
    rows: list[Tokens] = []
    kept: list[Example] = []
    bad: list[BadRow] = []
    trimmed = dropped = split = 0
    for example in examples:
        try:
            fitted = renderer.fit(example, limit, config.overlong)
        except (RenderError, DataError) as error:
            if config.on_bad_row == "stop" or config.overlong == "error":
                raise
            bad.append(BadRow(source=example.source, reason=str(error)))
            continue
        trimmed += fitted.trimmed > 0
        dropped += fitted.dropped > 0
        split += len(fitted.rows) > 1
        rows += fitted.rows
        if fitted.rows:
            kept.append(example)
    if examples and not rows:
        why = bad[0].reason if bad else f"all are longer than {limit} tokens; raise max_length"
        raise DataError(f"none of the {len(examples)} examples can be used: {why}")
    return Rendered(
        rows=tuple(rows),
        examples=tuple(kept),
        trimmed=trimmed,
        dropped=dropped,
        split=split,
        bad=tuple(bad),
    )


def _tell(say: Say, train: Rendered, evaluation: Rendered, limit: int) -> None:
    counts = train.counts()
    say(
        f"training: {counts['rows']} rows, {counts['tokens']} tokens, "
        f"{counts['trained_tokens']} of them trained"
    )
    if evaluation.rows:
        say(f"held out: {len(evaluation.rows)} rows")
    for name, what in (
        ("in_several_rows", "became several rows: later prompts rewrite earlier turns"),
        ("trimmed", f"lost their oldest turns to max_length {limit}"),
        ("too_long", f"left out: longer than max_length {limit}"),
        ("not_expressible", "left out: the chat template cannot express them"),
    ):
        if total := counts[name] + evaluation.counts()[name]:
            say(f"{total} examples {what}")


def _as_served(loaded: LoadedModel, renderer: Renderer) -> LoadedModel:
    """The model with the chat template that it was rendered with, and will be served with."""
    tokenizer = copy.copy(loaded.tokenizer)
    tokenizer.chat_template = renderer.adaptation.template
    return replace(loaded, tokenizer=tokenizer)


def _facts(
    read: Sequence[ReadResult], train: Rendered, evaluation: Rendered, limit: int
) -> dict[str, Any]:
    bad = [*(row for result in read for row in result.bad), *train.bad, *evaluation.bad]
    return {
        "data": {
            "sources": [
                {
                    "format": result.format,
                    "digest": result.digest,
                    "read": len(result.examples) + len(result.bad),
                    "left_out": dict(result.left_out),
                }
                for result in read
            ],
            "max_length": limit,
            "train": train.counts(),
            "eval": evaluation.counts(),
            "bad_rows": [{"source": row.source, "reason": row.reason} for row in bad],
        },
    }
