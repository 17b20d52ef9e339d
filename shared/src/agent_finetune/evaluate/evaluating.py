"""Let a model answer steps of examples, and hold each answer against what was right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from agent_finetune import metrics
from agent_finetune.contracts import LoadedModel
from agent_finetune.errors import ConfigError, DataError, RenderError
from agent_finetune.evaluate.report import Report
from agent_finetune.generate import complete
from agent_finetune.records import AcceptedCall, Example, Message
from agent_finetune.render import Renderer
from agent_finetune.toolcalls import ParsedTurn

Steps = Literal["last", "all"]
PROMPT_END = 300
"""Characters of the prompt's end that a report shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """One assistant turn to be made, and what would be right."""

    example: Example
    place: int
    """Number of messages before it."""
    calls: tuple[AcceptedCall, ...]
    text: str | None
    """The right words, where words are wanted and known."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        return self.example.messages[: self.place]


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
    added are `rouge_l`, over the steps where words are wanted, and `cut_off`, the answers that
    reached `max_new_tokens` before they ended.

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
    renderer = Renderer(loaded.tokenizer)
    todo = [step for example in examples for step in _steps(example, steps)]
    prompts = [_prompt_ids(renderer, step) for step in todo]
    answers = complete(
        loaded,
        prompts,
        stop_ids=renderer.stop_ids,
        stop_strings=renderer.stop_strings,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        on_progress=on_progress,
    )
    scores, rows = [], []
    for step, prompt, ids in zip(todo, prompts, answers, strict=True):
        tools = step.example.tools
        turn = renderer.parse(ids, tools)
        score = metrics.score_step(turn.calls, step.calls, broken=len(turn.broken), tools=tools)
        scores.append(score)
        rows.append(
            _about(loaded.tokenizer, step, prompt)
            | _answered(renderer, loaded.tokenizer, ids, turn, max_new_tokens)
            | _scored(step, turn, score)
        )
    return Report(measures=_measures(scores, rows), rows=tuple(rows), examples=len(examples))


def _about(tokenizer: Any, step: _Step, prompt: Sequence[int]) -> dict[str, Any]:
    end = tokenizer.decode(list(prompt[-PROMPT_END:]))[-PROMPT_END:]
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
        "prompt_tokens": len(prompt),
        "prompt_end": end,
        "right_calls": right,
        "right_text": step.text,
    }


def _answered(
    renderer: Renderer, tokenizer: Any, ids: Sequence[int], turn: ParsedTurn, most: int
) -> dict[str, Any]:
    answer = tokenizer.decode(list(ids))
    ended = any(id_ in renderer.stop_ids for id_ in ids[-1:])
    ended = ended or any(stop in answer for stop in renderer.stop_strings)
    return {
        "answer": answer,
        "answer_tokens": len(ids),
        "calls": [{"name": call.name, "arguments": dict(call.arguments)} for call in turn.calls],
        "broken": list(turn.broken),
        "cut_off": len(ids) >= most and not ended,
    }


def _scored(step: _Step, turn: ParsedTurn, score: metrics.StepScore) -> dict[str, Any]:
    return {
        "names": score.names,
        "exact": score.exact,
        "argument_f1": score.argument_f1,
        "missing": score.missing,
        "spurious": score.spurious,
        "hallucinated": score.hallucinated > 0,
        "rouge_l": None if step.text is None else metrics.rouge_l(turn.text, step.text),
    }


def _measures(
    scores: Sequence[metrics.StepScore], rows: Sequence[Mapping[str, Any]]
) -> dict[str, metrics.Measure]:
    found: dict[str, metrics.Measure | None] = dict(metrics.summarize(scores))
    found["rouge_l"] = metrics.mean([r["rouge_l"] for r in rows if r["rouge_l"] is not None])
    found["cut_off"] = metrics.rate(sum(row["cut_off"] for row in rows), len(rows))
    return {name: measure for name, measure in found.items() if measure is not None}


def _steps(example: Example, which: Steps) -> Iterator[_Step]:
    places = [i for i, m in enumerate(example.messages) if m.role == "assistant" and m.trained]
    end = len(example.messages)
    last = end - 1 if example.messages[-1].role == "assistant" else end
    if example.accepted is None and not places:
        raise DataError(
            f"{example.source or 'example'}: no assistant turn and no accepted calls, so nothing "
            "says what is right"
        )
    if example.accepted is not None:
        places = [place for place in places if place < last] + [last]
    for place in places if which == "all" else places[-1:]:
        if place == last and example.accepted is not None:
            calls = example.accepted
        else:
            calls = tuple(map(metrics.accepted_call, example.messages[place].tool_calls))
        text = example.messages[place].text if place < end and not calls else None
        yield _Step(example=example, place=place, calls=calls, text=text)


def _prompt_ids(renderer: Renderer, step: _Step) -> tuple[int, ...]:
    try:
        return renderer.prompt_ids(renderer.said_messages(step.prompt), step.example.tools)
    except RenderError as error:
        raise RenderError(f"{step.example.source or 'example'}: {error}") from error
