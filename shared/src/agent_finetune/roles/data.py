"""Trajectories as rows to learn from: one set for each part.

    set         one row per     target                                not taken
    backbone    step            thought and call, or thought and      a call that is missing,
                                `conclusion: ...`, or `give up`       an empty conclusion
    planner     step            thought and `Next: ...`               calls of tools not offered
    caller      calling step    the call alone                        calls of tools not offered
    summarizer  conclusion      the answer                            empty conclusions

After the paper's own sets (arXiv 2401.07324). Turns that are context only give no rows, and
nothing of a history or a tool is shortened. Any data that the readers know will do. The paper's
published files are read where the distribution modelscope-agent-train is installed, as format
`alpha_umi`: its trajectories as trajectories, and its rows, whose prompts are one text, as rows of
the set that they were made for (see `published`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent_finetune.artifacts import write_text
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import DataError
from agent_finetune.recordings.recording import openai_message
from agent_finetune.records import AcceptedCall, Example, Message
from agent_finetune.render.messages import one_call_per_turn
from agent_finetune.roles.prompts import Next, Part, Step, see, step_of, target_of
from agent_finetune.roles.published import read_published

_ROW = re.compile(r"#\d+-(?:" + "|".join(Part) + r")\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleSets:
    """What each part learns from."""

    sets: Mapping[Part, tuple[Example, ...]]
    """Rows of every part: a prompt as it is served, and one trained turn."""
    left_out: Mapping[str, int]
    """What gave no row, counted by the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Moment:
    """One step of a trajectory: what was before it, and who learns from it."""

    number: int
    history: tuple[Message, ...]
    step: Step
    parts: tuple[Part, ...]
    accepted: tuple[AcceptedCall, ...] | None = None


def role_sets(
    examples: Sequence[Example], *, without: Collection[str] = (), one_call: bool = False
) -> RoleSets:
    """Rows for each part, in the order of the trajectories and their steps.

    A row's id is `<example id>#<step>-<part>`, with the source in the place of an id that is
    missing; steps are numbered from 1.

    Args:
        examples: Trajectories, or published rows of the paper.
        without: Ids of examples to keep out, for what will be measured on.
        one_call: For a template that can say one call a turn (`says_one_call`): the calls of a
            turn become steps of their own, where each has a result. The thought stands before the
            first.

    Raises:
        DataError: An id of `without` is empty, so that it keeps nothing out.
    """
    if "" in without:
        raise DataError("without holds an empty id; what is measured on needs ids to be kept out")
    sets: dict[Part, list[Example]] = {part: [] for part in Part}
    left_out: Counter[str] = Counter()
    kept_out = frozenset(without)
    for example in examples:
        if not kept_out.isdisjoint((example.id, _ROW.sub("", example.id))):
            left_out["kept out by its id"] += 1
            continue
        try:
            moments = _moments(one_by_one(example) if one_call else example)
        except DataError as error:
            left_out[f"cannot be taken apart: {error}"] += 1
            continue
        if not moments:
            left_out["no turn of an assistant to learn"] += 1
        for moment in moments:
            for part in moment.parts:
                reason = _refusal(part, moment.step, example)
                if reason:
                    left_out[f"{part}: {reason}"] += 1
                else:
                    sets[part].append(_row(part, moment, example))
    return RoleSets(
        sets={part: tuple(rows) for part, rows in sets.items()}, left_out=dict(left_out)
    )


def says_one_call(model: ModelConfig, settings: Settings) -> bool:
    """Whether a model's chat template can say no more than one call a turn: see `role_sets`.

    Raises:
        ModelError: The model cannot be had.
    """
    from agent_finetune.models import open_tokenizer
    from agent_finetune.render import Renderer

    adaptation = Renderer(open_tokenizer(model, settings)).adaptation
    return "one-call-per-turn" in adaptation.names


def write_sets(sets: RoleSets, folder: Path) -> dict[Part, Path]:
    """Write `<part>.jsonl` for every part, in the format `messages`.

    Reading a file gives its rows again. Where a row came from stands under `source`; turns that
    are not trained have `weight` 0.
    """
    written = {}
    for part, rows in sets.sets.items():
        written[part] = folder / f"{part}.jsonl"
        lines = (json.dumps(_as_json(row), ensure_ascii=False) + "\n" for row in rows)
        write_text(written[part], "".join(lines))
    return written


def one_by_one(example: Example) -> Example:
    """A trajectory whose calls that have results each are a step; see `role_sets`."""
    said = one_call_per_turn([replace(m, generation=None) for m in example.messages])
    return replace(example, messages=tuple(said))


def _moments(example: Example) -> list[_Moment]:
    if row := read_published(example):
        return [_Moment(number=1, history=row.history, step=row.step, parts=(row.part,))]
    moments: list[_Moment] = []
    number = 0
    for place, message in enumerate(example.messages):
        if message.role != "assistant":
            continue
        number += 1
        if message.trained:
            last = place == len(example.messages) - 1
            step = step_of(message)
            moments.append(
                _Moment(
                    number=number,
                    history=example.messages[:place],
                    step=step,
                    parts=_concerned(step),
                    accepted=example.accepted if last and step.calls else None,
                )
            )
    return moments


def _concerned(step: Step) -> tuple[Part, ...]:
    """Who speaks in a step."""
    answers = {Next.CALL: (Part.CALLER,), Next.CONCLUDE: (Part.SUMMARIZER,)}
    next_step = step.plan.next
    return (Part.BACKBONE, Part.PLANNER, *(answers.get(next_step, ()) if next_step else ()))


def _refusal(part: Part, step: Step, example: Example) -> str | None:
    """Why a part does not learn from a step that concerns it."""
    following = step.plan.next
    if following is None:
        return "no next step is named"
    if following is Next.CALL and part in (Part.PLANNER, Part.CALLER):
        offered = example.tool_names
        if any(call.name not in offered for call in step.calls):
            return "calls a tool that is not offered"
    if part is Part.PLANNER:
        return None
    if following is Next.CALL and not step.calls:
        return "the call is missing"
    if following is Next.CONCLUDE and not step.answer:
        return "the conclusion is empty"
    return None


def _row(part: Part, moment: _Moment, example: Example) -> Example:
    answers = part in (Part.CALLER, Part.SUMMARIZER)
    plan = moment.step.plan if answers else None
    seen = see(part, moment.history, example.tools, plan)
    return Example(
        messages=(*seen.messages, target_of(part, moment.step)),
        tools=seen.tools,
        id=f"{example.id or example.source}#{moment.number}-{part}",
        source=example.source,
        accepted=moment.accepted if part in (Part.BACKBONE, Part.CALLER) else None,
    )


def _as_json(row: Example) -> dict[str, Any]:
    said = {"id": row.id, "source": row.source, "messages": [_message(m) for m in row.messages]}
    return said | ({"tools": list(row.tools)} if row.tools else {})


def _message(message: Message) -> dict[str, Any]:
    item = openai_message(message)
    for call, written in zip(message.tool_calls, item.get("tool_calls", ()), strict=True):
        if call.id is None:  # an id that is made up would be read back
            del written["id"]
    return item if message.trained else {**item, "weight": 0}
