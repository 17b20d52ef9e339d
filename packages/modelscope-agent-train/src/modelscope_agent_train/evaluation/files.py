"""Two files held against each other, with no model: `--ref_path` and `--pred_path`.

Each is a JSON list or JSON lines. An item is one of:

- a text, as `eval_label_*.json` and `eval_preds_*.json` of 2023 hold: calls in think blocks, or in
  any other form that is known (Hermes, ReAct, bare JSON);
- `{"answer": [...]}`, as `eval_tool.py` of 2023 took: one text for each step of a conversation,
  a call being `{"api_name": ..., "parameters": "JSON"}`;
- an assistant message in OpenAI's form, `{"role", "content", "tool_calls"}`;
- a row of `steps.jsonl` as `evaluation` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from agent_finetune import evaluate, metrics, toolcalls
from agent_finetune.errors import DataError
from agent_finetune.evaluate import Answer, Step
from agent_finetune.records import AcceptedCall, Example, Message
from agent_finetune.toolcalls import ParsedTurn
from agent_finetune.toolcalls.reading import read_calls
from modelscope_agent_train import legacy_metrics
from modelscope_agent_train.evaluation.openai_form import turn_of
from modelscope_agent_train.evaluation.report import Report
from modelscope_agent_train.legacy_metrics import LegacyNumbers

NEED_TOOLS = ("hallucinated", "hallucinated_arguments", "schema_valid")
"""What cannot be known from two files, as neither says which tools were offered."""
HEADER, END = "<|assistant|>:", "</s>"
"""Around turns of 2023's text form."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Said:
    """One turn of a file."""

    source: str
    text: str
    turn: ParsedTurn
    right: tuple[AcceptedCall, ...] | None = None
    """With alternatives, where the file has them."""


def score_files(references: Path, predictions: Path, *, legacy: bool = False) -> Report:
    """Hold predicted turns against right ones, step by step.

    Steps that only the reference has are answered by nothing; those that only the prediction has
    want nothing, so that a call there is spurious. A reference whose call does not parse cannot be
    scored by, and is left out; `metrics.json` counts them as `unusable`.

    Args:
        references: File of right turns.
        predictions: File of what was said.
        legacy: Also give the numbers of 2023.

    Raises:
        DataError: A file cannot be read, an item is of no known form, or the two are of different
            lengths.
    """
    right, said = read_items(references), read_items(predictions)
    if len(right) != len(said):
        raise DataError(
            f"{references} has {len(right)} items and {predictions} {len(said)}; each item of one "
            "must be the same step, or the same conversation, as that of the other"
        )
    pairs = list(_pairs(references, right, predictions, said))
    usable = [(wanted, made) for wanted, made in pairs if not wanted.turn.broken]
    if not usable:
        raise DataError(f"{references}: none of its {len(pairs)} steps can be scored by")
    steps = [_step(wanted) for wanted, _ in usable]
    answers = [Answer(said=made.text, turn=made.turn) for _, made in usable]
    report = evaluate.score(steps, answers, examples=len(right))
    known = {name: one for name, one in report.measures.items() if name not in NEED_TOOLS}
    known.pop("cut_off", None)
    return Report(
        answerer=str(predictions),
        steps=replace(report, measures=known),
        legacy=_numbers(right, said, pairs) if legacy else None,
        unusable=len(pairs) - len(usable),
    )


def read_items(path: Path) -> list[Any]:
    """Items of a JSON list or of JSON lines.

    Raises:
        DataError: It is neither; the line is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return [_line(path, number, line) for number, line in _lines(text)]
    return content if isinstance(content, list) else [content]


def _lines(text: str) -> Iterator[tuple[int, str]]:
    return ((n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip())


def _line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{number}: neither a JSON list nor JSON lines: {error}") from error


def _pairs(
    references: Path, right: Sequence[Any], predictions: Path, said: Sequence[Any]
) -> Iterator[tuple[_Said, _Said]]:
    for number, (wanted, made) in enumerate(zip(right, said, strict=True), start=1):
        wanted_turns = _turns(wanted, f"{references}:{number}", right=True)
        made_turns = _turns(made, f"{predictions}:{number}", right=False)
        for one, other in zip_longest(wanted_turns, made_turns):
            yield (
                one or _Said(source=f"{references}:{number}", text="", turn=ParsedTurn(text="")),
                other or _Said(source=f"{predictions}:{number}", text="", turn=ParsedTurn(text="")),
            )


def _turns(item: Any, source: str, *, right: bool) -> list[_Said]:
    """The turns of one item; `right` says which side of a row of ours is meant."""
    if isinstance(item, str):
        return [_Said(source=source, text=item, turn=_read(item))]
    if isinstance(item, Mapping) and "right_calls" in item:
        return [_of_row(item, source, right=right)]
    if isinstance(item, Mapping) and isinstance(item.get("answer"), list):
        texts = [str(text) for text in item["answer"]]
        return [_Said(source=source, text=text, turn=_read(text)) for text in texts]
    if isinstance(item, Mapping) and ("content" in item or "tool_calls" in item):
        turn = turn_of(item)
        return [_Said(source=source, text=legacy_metrics.written(turn.calls, turn.text), turn=turn)]
    raise DataError(
        f"{source}: {str(item)[:120]!r} is of no known form; legal are a text, "
        "{'answer': [...]}, an assistant message, and a row of steps.jsonl"
    )


def _read(text: str) -> ParsedTurn:
    """A text of 2023 or of today, without the header and the end that stand around it."""
    bare = text.strip().removeprefix(HEADER).removesuffix(END).strip()
    if calls := read_calls(bare, bare=True):
        return ParsedTurn(text="", calls=calls)
    return toolcalls.parse(bare)


def _of_row(row: Mapping[str, Any], source: str, *, right: bool) -> _Said:
    if not right:
        turn = _read(str(row["answer"]))
        return _Said(source=source, text=str(row["answer"]), turn=turn)
    accepted = tuple(
        AcceptedCall(
            name=call["name"],
            arguments={name: tuple(values) for name, values in call["arguments"].items()},
            optional=frozenset(call["optional"]),
        )
        for call in row["right_calls"]
    )
    text = str(row["right_text"] or "")
    written = legacy_metrics.written(accepted, text)
    return _Said(source=source, text=written, turn=ParsedTurn(text=text), right=accepted)


def _step(wanted: _Said) -> Step:
    calls = wanted.right
    if calls is None:
        calls = tuple(map(metrics.accepted_call, wanted.turn.calls))
    example = Example(messages=(Message(role="user"),), source=wanted.source)
    text = wanted.turn.text if wanted.turn.text and not calls else None
    return Step(example=example, place=1, calls=calls, text=text)


def _numbers(
    right: Sequence[Any], said: Sequence[Any], pairs: Sequence[tuple[_Said, _Said]]
) -> LegacyNumbers:
    """By the script that the files are of."""
    if all(map(_is_of_eval_tool, (*right, *said))):
        return legacy_metrics.evaluate_answers(right, said)
    references = [wanted.text for wanted, _ in pairs]
    return legacy_metrics.evaluate(references, [made.text for _, made in pairs])


def _is_of_eval_tool(item: Any) -> bool:
    return (
        isinstance(item, Mapping)
        and "right_calls" not in item
        and isinstance(item.get("answer"), list)
    )
