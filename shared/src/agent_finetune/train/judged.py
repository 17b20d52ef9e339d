"""Feedback from a file as rows: what `train` with objective dpo or kto learns from."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent_finetune.config import RunConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError, DataError, RenderError
from agent_finetune.feedback import Learning, align, read_feedback_file
from agent_finetune.records import BadRow, Preference, Verdict
from agent_finetune.render import Renderer
from agent_finetune.train.pairs import Rows, digest

Judged = Preference | Verdict


def read(
    config: RunConfig, settings: Settings, say: Callable[[str], None]
) -> Callable[[Renderer, int], Rows]:
    """Read feedback, and answer what makes rows of it once there is a model.

    Prompts must be in the data: a file knows no engine whose log they could be found in.

    Args:
        config: The whole run; objective is dpo or kto.
        settings: Cache, token and offline switch.
        say: Gets one line for each thing that was derived.

    Raises:
        ConfigError: Tool calls were to be scored, and feedback holds no right ones.
        DataError: The data cannot be read, or nothing in it serves the objective.
    """
    if config.train.eval_generate:
        raise ConfigError(
            f"eval_generate is {config.train.eval_generate!r} and objective is "
            f"{config.train.objective!r}; feedback has no right calls to score"
        )
    training, bad = _usable(config, config.data.data, settings, say)
    held_out: list[Judged] = []
    if config.data.eval_data is not None:
        held_out, more = _usable(config, config.data.eval_data, settings, say)
        bad += more
    elif config.data.eval_share:
        random.Random(config.train.seed).shuffle(training)
        count = round(len(training) * config.data.eval_share)
        training, held_out = training[count:], training[:count]
    return partial(_rows, config, training, held_out, bad, say)


def _usable(
    config: RunConfig, name: str, settings: Settings, say: Callable[[str], None]
) -> tuple[list[Judged], list[BadRow]]:
    policy = config.data.on_bad_row
    shapes = read_feedback_file(name, settings=settings, split=config.data.split, on_bad=policy)
    learning = align(shapes, on_bad=policy)
    found = _serving(config.train.objective, learning)
    unused = len(learning) - len(learning.preferences)
    if config.train.objective == "kto":
        unused = len(learning.demonstrations)
    say(
        f"data: {name}, {len(learning.preferences)} pairs, {len(learning.verdicts)} verdicts, "
        f"{len(learning.demonstrations)} demonstrations; {unused} of these are not for objective "
        f"{config.train.objective}, and {len(learning.dropped)} rows were left out"
    )
    if not found:
        kinds = "pairs" if config.train.objective == "dpo" else "pairs or verdicts"
        raise DataError(f"{name}: objective {config.train.objective!r} needs {kinds}; none found")
    return found, list(learning.dropped)


def _serving(objective: str, learning: Learning) -> list[Judged]:
    """What an objective learns from; for kto a pair is a good answer and a bad one."""
    if objective == "dpo":
        return list(learning.preferences)
    sides = [
        Verdict(
            prompt=pair.prompt,
            completion=turn,
            good=good,
            tools=pair.tools,
            id=pair.id,
            source=pair.source,
        )
        for pair in learning.preferences
        for good, turn in ((True, pair.chosen), (False, pair.rejected))
    ]
    return [*learning.verdicts, *sides]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rendered:
    rows: tuple[Any, ...]
    too_long: int
    bad: tuple[BadRow, ...]

    def counts(self) -> dict[str, int]:
        """For run.json."""
        return {
            "rows": len(self.rows),
            "too_long": self.too_long,
            "not_expressible": len(self.bad),
        }


def _rows(
    config: RunConfig,
    training: Sequence[Judged],
    held_out: Sequence[Judged],
    bad: Sequence[BadRow],
    say: Callable[[str], None],
    renderer: Renderer,
    limit: int,
) -> Rows:
    train, evaluation = (
        _render(config, records, renderer, limit) for records in (training, held_out)
    )
    if not train.rows:
        raise DataError(
            f"none of the {len(training)} records can be used: {train.too_long} are longer than "
            f"{limit} tokens, {len(train.bad)} cannot be rendered"
        )
    say(f"training: {len(train.rows)} rows; held out: {len(evaluation.rows)} rows")
    if lost := train.too_long + evaluation.too_long:
        say(f"{lost} records left out: longer than max_length {limit}; these are never trimmed")
    left_out = [*bad, *train.bad, *evaluation.bad]
    return Rows(
        train=train.rows,
        evaluation=evaluation.rows,
        facts={
            "data": {
                "sources": [
                    {"format": "feedback", "name": name}
                    for name in (config.data.data, config.data.eval_data)
                    if name is not None
                ],
                "digest": digest(train.rows),
                "max_length": limit,
                "train": train.counts(),
                "eval": evaluation.counts(),
                "bad_rows": [{"source": row.source, "reason": row.reason} for row in left_out],
            }
        },
    )


def _render(
    config: RunConfig, records: Sequence[Judged], renderer: Renderer, limit: int
) -> _Rendered:
    rows: list[Any] = []
    bad: list[BadRow] = []
    too_long = 0
    for record in records:
        try:
            row = (
                renderer.pair(record)
                if isinstance(record, Preference)
                else renderer.verdict(record)
            )
        except (RenderError, DataError) as error:
            if config.data.on_bad_row == "stop":
                raise
            bad.append(BadRow(source=record.source, reason=str(error)))
            continue
        if row.length > limit:
            if config.data.overlong == "error":
                raise DataError(
                    f"{record.source}: {row.length} tokens; at most {limit} fit (max_length)"
                )
            too_long += 1
        else:
            rows.append(row)
    return _Rendered(rows=tuple(rows), too_long=too_long, bad=tuple(bad))
