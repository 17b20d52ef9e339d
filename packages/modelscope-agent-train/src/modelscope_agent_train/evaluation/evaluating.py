"""Whoever answers, held against what examples say is right."""

from __future__ import annotations

from collections.abc import Sequence

from agent_finetune.contracts import LoadedModel
from agent_finetune.errors import DataError
from agent_finetune.evaluate import Answer, Step, asked, score, steps_of
from agent_finetune.records import Example
from modelscope_agent_train import legacy_metrics
from modelscope_agent_train.evaluation.answerers import Answerer, LocalAnswerer, Progress
from modelscope_agent_train.evaluation.free_runs import follow
from modelscope_agent_train.evaluation.report import Report


def run(
    answerer: Answerer,
    examples: Sequence[Example],
    *,
    free_run: bool = False,
    legacy: bool = False,
    on_progress: Progress | None = None,
) -> Report:
    """Let every step of every example be answered after the right history, and score it.

    Args:
        answerer: Makes the turns.
        examples: Held-out conversations. Every assistant turn of theirs is a step.
        free_run: Also let each conversation run on the model's own turns; see `free_runs`.
        legacy: Also give the numbers of 2023; see `legacy_metrics`.
        on_progress: Called with the number of steps done and of all; runs are not counted.

    Raises:
        DataError: There are no examples, or one says nowhere what is right.
    """
    if not examples:
        raise DataError("nothing to evaluate: there are no examples")
    steps = [step for example in examples for step in steps_of(example, "all")]
    found = answerer.answer([asked(step) for step in steps], on_progress=on_progress)
    return Report(
        answerer=answerer.name,
        steps=score(steps, found, examples=len(examples)),
        free=follow(answerer, examples) if free_run else None,
        legacy=numbers_of_2023(steps, found) if legacy else None,
    )


def evaluate_examples(
    loaded: LoadedModel,
    examples: Sequence[Example],
    *,
    batch_size: int = 16,
    max_new_tokens: int = 512,
    free_run: bool = False,
    legacy: bool = False,
    on_progress: Progress | None = None,
) -> Report:
    """`run` with a loaded model, greedy.

    Args:
        loaded: Model, with or without an adapter, and tokenizer; it is left as it was.
        examples: Held-out conversations.
        batch_size: Steps generated at once.
        max_new_tokens: Most tokens of an answer.
        free_run: As in `run`.
        legacy: As in `run`.
        on_progress: As in `run`.

    Raises:
        DataError: There are no examples, or one says nowhere what is right.
        RenderError: The chat template cannot express an example; the message names it.
    """
    answerer = LocalAnswerer(loaded=loaded, batch_size=batch_size, max_new_tokens=max_new_tokens)
    return run(answerer, examples, free_run=free_run, legacy=legacy, on_progress=on_progress)


def numbers_of_2023(steps: Sequence[Step], found: Sequence[Answer]) -> legacy_metrics.LegacyNumbers:
    """The numbers of 2023 for answers in any form, written in the form of 2023 first."""
    references = [legacy_metrics.written(step.calls, step.text or "") for step in steps]
    predictions = [legacy_metrics.written(one.turn.calls, one.turn.text) for one in found]
    return legacy_metrics.evaluate(references, predictions)
