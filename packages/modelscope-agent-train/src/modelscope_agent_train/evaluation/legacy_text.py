"""Steps in the raw text of 2023, each after the recorded words and results before it.

The prompt ends with the assistant's header, as it is served; in 2023 the model had to write that
itself, and for the numbers of 2023 it is put before what it says again. An answer ends with the end
of sequence, behind a call, or with the literal `</s>` of checkpoints of 2023, which never learned
to end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from agent_finetune import metrics, toolcalls
from agent_finetune.contracts import LoadedModel
from agent_finetune.errors import DataError
from agent_finetune.evaluate import Answer, Step, score
from agent_finetune.generate import complete
from agent_finetune.records import Example, ToolCall
from agent_finetune.toolcalls import ParsedTurn
from agent_finetune.toolcalls.reading import read_calls
from modelscope_agent_train import legacy, legacy_metrics
from modelscope_agent_train.evaluation.answerers import Progress
from modelscope_agent_train.evaluation.report import Report
from modelscope_agent_train.formats.repair import load_call

LITERAL_END = "</s>"
_THOUGHT = re.compile(r"<\|startofthink\|>(.*?)<\|endofthink\|>", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    step: legacy.LegacyStep
    ids: tuple[int, ...]
    example: Example
    right: ParsedTurn


def evaluate_text(
    loaded: LoadedModel,
    examples: Sequence[Example],
    *,
    batch_size: int = 16,
    max_new_tokens: int = 512,
    numbers: bool = False,
    on_progress: Progress | None = None,
) -> Report:
    """Let a model that was trained on the 2023 text answer every step in it, and score it.

    Args:
        loaded: Model and tokenizer; no chat template is used.
        examples: Raw conversations, as the format `msagent_text` reads them.
        batch_size: Steps generated at once.
        max_new_tokens: Most tokens of an answer.
        numbers: Also give the numbers of 2023.
        on_progress: Called with the number of steps done and of all.

    Raises:
        DataError: There is no step whose right call can be read.
    """
    stop = legacy.stop(loaded.tokenizer)
    todo = [one for example in examples for one in _steps(loaded, example)]
    usable = [one for one in todo if not one.right.broken]
    if not usable:
        raise DataError(f"nothing to evaluate: none of {len(todo)} steps can be scored by")
    completions = complete(
        loaded,
        [one.ids for one in usable],
        stop_ids=(stop.id,),
        stop_strings=(*stop.strings, LITERAL_END),
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        on_progress=on_progress,
    )
    ends = (*stop.strings, LITERAL_END)
    answers = [
        _answer(loaded, one, ids, max_new_tokens, stop.id, ends)
        for one, ids in zip(usable, completions, strict=True)
    ]
    steps = [_scored_by(one) for one in usable]
    found = None
    if numbers:
        found = legacy_metrics.evaluate(
            [one.step.header + one.step.label for one in usable],
            [one.step.header + a.said for one, a in zip(usable, answers, strict=True)],
        )
    return Report(
        answerer=f"{loaded.config.model} in the text form of 2023",
        steps=score(steps, answers, examples=len(examples)),
        legacy=found,
        unusable=len(todo) - len(usable),
    )


def _steps(loaded: LoadedModel, example: Example) -> list[_Asked]:
    conversation = legacy.conversation(example)
    return [
        _Asked(
            step=step,
            ids=legacy.prompt_ids(loaded.tokenizer, conversation, place),
            example=example,
            right=_right(step.label),
        )
        for place, step in enumerate(legacy.steps(conversation))
    ]


def _right(label: str) -> ParsedTurn:
    """A recorded turn; its calls are repaired as the reader of MSAgent data repairs them."""
    turn = toolcalls.parse(label)
    if not turn.broken:
        return turn
    calls: list[ToolCall] = []
    for thought in _THOUGHT.findall(label):
        inside = thought[thought.find("{") : thought.rfind("}") + 1]
        try:
            repaired = json.dumps(load_call(inside).value)
        except (DataError, ValueError, TypeError):
            return turn
        calls += read_calls(repaired)
    return ParsedTurn(text=turn.text, calls=tuple(calls)) if calls else turn


def _scored_by(one: _Asked) -> Step:
    calls = tuple(map(metrics.accepted_call, one.right.calls))
    text = None if calls else one.right.text
    place = len(one.step.prompt)
    return Step(example=one.example, place=place, calls=calls, text=text)


def _answer(
    loaded: LoadedModel,
    one: _Asked,
    ids: Sequence[int],
    most: int,
    eos: int,
    ends: Sequence[str],
) -> Answer:
    raw = loaded.tokenizer.decode(list(ids))
    said = loaded.tokenizer.decode([id_ for id_ in ids if id_ != eos])
    said = said.partition(LITERAL_END)[0].rstrip("\n")
    ended = ids[-1:] == (eos,) or any(end in raw for end in ends)
    return Answer(
        said=said,
        turn=toolcalls.parse(said.partition("<|startofexec|>")[0]),
        tokens=len(ids),
        cut_off=len(ids) >= most and not ended,
        prompt_tokens=len(one.ids),
        prompt_end=one.step.prompt[-300:],
    )
