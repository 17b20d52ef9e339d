"""Let a model answer steps of examples, and hold each answer against what was right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from agent_finetune import metrics
from agent_finetune.contracts import LoadedModel
from agent_finetune.errors import ConfigError
from agent_finetune.evaluate.answers import Answer, Asked, answers
from agent_finetune.evaluate.report import Report
from agent_finetune.evaluate.steps import Step, Steps, steps_of
from agent_finetune.records import Example


def evaluate(
    loaded: LoadedModel,
    examples: Sequence[Example],
    *,
    steps: Steps = "last",
    batch_size: int = 16,
    max_new_tokens: int = 256,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Generate the turn that each example ends with, and score it.

    Right is what `Example.accepted` says, else the calls of the last assistant turn, else its
    words. The prompt is all that comes before that turn; an example with `accepted` that ends in
    no assistant turn is a prompt as a whole. Metrics are defined in `agent_finetune.metrics`;
    added are those of `score`.

    Args:
        loaded: Model, with or without an adapter, and tokenizer.
        examples: What to be measured on.
        steps: `last`, or `all` for every assistant turn of the model's own, each after the right
            history rather than the model's.
        batch_size: Steps generated at once.
        max_new_tokens: Most tokens of an answer.
        on_progress: Called with the number of steps done and of all.

    Raises:
        ConfigError: `steps` is neither of the two.
        DataError: An example says nowhere what is right.
        RenderError: The chat template cannot express an example; the message names it.
    """
    if steps not in get_args(Steps):
        raise ConfigError(f"steps is {steps!r}; legal values are {', '.join(get_args(Steps))}")
    todo = [step for example in examples for step in steps_of(example, steps)]
    found = answers(
        loaded,
        [asked(step) for step in todo],
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        on_progress=on_progress,
    )
    return score(todo, found, examples=len(examples))


def asked(step: Step) -> Asked:
    """What a step asks of a model."""
    return Asked(
        messages=step.prompt, tools=step.example.tools, source=step.example.source or "example"
    )


def score(steps: Sequence[Step], found: Sequence[Answer], *, examples: int) -> Report:
    """Hold answers against what was right.

    Beside the metrics of tool calls there are `rouge_l`, over the steps where words are wanted,
    and `cut_off`, the answers that reached the most tokens before they ended.

    Args:
        steps: What was asked.
        found: One answer to each.
        examples: How many examples the steps are of.
    """
    scores, rows = [], []
    for step, answer in zip(steps, found, strict=True):
        one = metrics.score_step(
            answer.turn.calls,
            step.calls,
            broken=len(answer.turn.broken),
            tools=step.example.tools,
        )
        scores.append(one)
        rows.append(_about(step, answer) | _answered(answer) | _scored(step, answer, one))
    return Report(measures=_measures(scores, rows), rows=tuple(rows), examples=examples)


def _about(step: Step, answer: Answer) -> dict[str, Any]:
    right = [
        {
            "name": call.name,
            "arguments": {key: list(values) for key, values in call.arguments.items()},
            "optional": sorted(call.optional),
        }
        for call in step.calls
    ]
    return {
        "id": step.example.id,
        "source": step.example.source,
        "step": step.place,
        "prompt_tokens": answer.prompt_tokens,
        "prompt_end": answer.prompt_end,
        "right_calls": right,
        "right_text": step.text,
    }


def _answered(answer: Answer) -> dict[str, Any]:
    calls = answer.turn.calls
    return {
        "answer": answer.said,
        "answer_tokens": answer.tokens,
        "calls": [{"name": call.name, "arguments": dict(call.arguments)} for call in calls],
        "broken": list(answer.turn.broken),
        "cut_off": answer.cut_off,
    }


def _scored(step: Step, answer: Answer, one: metrics.StepScore) -> dict[str, Any]:
    return {
        "names": one.names,
        "exact": one.exact,
        "argument_f1": one.argument_f1,
        "missing": one.missing,
        "spurious": one.spurious,
        "hallucinated": one.hallucinated > 0,
        "hallucinated_arguments": one.hallucinated_arguments > 0,
        "schema_valid": one.schema_valid,
        "rouge_l": None if step.text is None else metrics.rouge_l(answer.turn.text, step.text),
    }


def _measures(
    scores: Sequence[metrics.StepScore], rows: Sequence[Mapping[str, Any]]
) -> dict[str, metrics.Measure]:
    found: dict[str, metrics.Measure | None] = dict(metrics.summarize(scores))
    found["rouge_l"] = metrics.mean([r["rouge_l"] for r in rows if r["rouge_l"] is not None])
    found["cut_off"] = metrics.rate(sum(row["cut_off"] for row in rows), len(rows))
    return {name: measure for name, measure in found.items() if measure is not None}
