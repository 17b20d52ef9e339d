"""What evaluations of AG2 1.x say of answers, as feedback that `update_model` takes.

AG2 rebuilds the traces of an evaluation from telemetry, without the ids of answers and without what
the model was asked. An item is about the prompt of its task where a suite is given and the answer
was the only one of its run; otherwise its words say which answer is meant, which must be in the log
of the agent that learns, or in its recordings.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ag2.events import ModelResponse

from agent_finetune.errors import DataError
from agent_finetune.readers import strictjson

if TYPE_CHECKING:
    from ag2.eval import PairwiseCase, RunResult, Suite, TaskResult, Trace, TraceSource

Item = dict[str, Any]
NO_ANSWER = "(no answer)"
"""What AG2 writes into a manifest where a run ended without words."""


async def traces_of(source: TraceSource) -> dict[str, Trace]:
    """Traces of a source by the id of their task."""
    refs = [ref async for ref in source.list()]
    return {ref.task_id: await source.load(ref) for ref in refs if ref.task_id is not None}


def pairs(
    cases: Iterable[PairwiseCase],
    traces_a: Mapping[str, Trace],
    traces_b: Mapping[str, Trace],
    *,
    key: str,
    suite: Suite | None = None,
    system: str = "",
) -> list[Item]:
    """Pairs of a comparison: the better answer, and the worse.

    Ties, cases that nobody labelled or whose judge changed its mind with the order, and those with
    the same answer twice or without one are left out.

    Args:
        cases: `PairwiseRunResult.cases`.
        traces_a: Runs of variant a, by task; `traces_of`.
        traces_b: Those of variant b.
        key: Whose outcomes; `PairwiseComparator.key`.
        suite: Tasks, whose input then is the prompt.
        system: The agent's system prompt.
    """
    prompts = _prompts(suite, system)
    items: list[Item] = []
    for case in cases:
        if case.key != key or case.winner == "tie" or case.detail.get("missing") or _flipped(case):
            continue
        traces = [traces.get(case.task_id) for traces in (traces_a, traces_b)]
        better, worse = traces if case.winner == "a" else reversed(traces)
        chosen, rejected = _answer(better), _answer(worse)
        if chosen and rejected and chosen != rejected:
            alone = _alone(better) and _alone(worse)
            prompt = prompts.get(case.task_id) if alone else None
            items.append(_item(prompt, chosen=chosen, rejected=rejected))
    return items


def human_pairs(
    manifest: str | os.PathLike[str], *, criterion: str, system: str | None = None
) -> list[Item]:
    """Pairs of a manifest of `ag2.eval.scorers.export_pairwise_cases` that a person filled in.

    Ties, lines without a `preferred`, and those with the same answer twice or without one are left
    out.

    Args:
        manifest: The file, JSON lines.
        criterion: Which of those that the manifest asks for.
        system: The agent's system prompt, "" for none: with it, the task's input is the prompt,
            which is right for agents that answer at once. None lets the words say what is meant.

    Raises:
        DataError: A line does not parse, or prefers what is not there; it is named.
    """
    items: list[Item] = []
    for number, line in enumerate(Path(manifest).read_text("utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = strictjson.loads(line)
            answers = {key: row[f"response_{key}"] for key in ("1", "2")}
            wanted = row["criterion"] == criterion
        except (DataError, KeyError, TypeError) as error:
            raise DataError(f"{manifest}:{number}: is no case of a manifest: {error}") from error
        preferred = str(row.get("preferred") or "tie").strip().casefold()
        if preferred not in ("1", "2", "tie"):
            raise DataError(
                f"{manifest}:{number}: preferred is {row['preferred']!r}; legal are 1, 2 and tie"
            )
        if not wanted or preferred == "tie":
            continue
        chosen, rejected = answers[preferred], answers["1" if preferred == "2" else "2"]
        if NO_ANSWER not in (chosen, rejected) and chosen and rejected and chosen != rejected:
            prompt = None if system is None else _prompt(row.get("task_input"), system)
            items.append(_item(prompt, chosen=chosen, rejected=rejected))
    return items


def scored(
    results: RunResult | Iterable[TaskResult],
    *,
    key: str,
    system: str | None = None,
) -> list[Item]:
    """Answers of an evaluation with what a scorer gave them.

    Passed or failed becomes a thumb, a number a reward. Runs that raised, that the scorer said
    nothing of, or that ended without words are left out.

    Args:
        results: Of `run_agent` or `evaluate_traces`.
        key: Whose feedback; `Feedback.key`, the name of the scorer.
        system: As `human_pairs`.
    """
    items: list[Item] = []
    tasks = results if isinstance(results, Iterable) else results.tasks
    for result in tasks:
        answer = _answer(result.trace)
        scores = [f.score for f in result.feedback if f.key == key and f.score is not None]
        if result.trace.exception is not None or not answer or not scores:
            continue
        prompt = None
        if system is not None and _alone(result.trace):
            prompt = _prompt(result.task.inputs.get("input"), system)
        said = "label" if isinstance(scores[0], bool) else "reward"
        items.append(_item(prompt, completion=answer, **{said: scores[0]}))
    return items


def _flipped(case: PairwiseCase) -> bool:
    """Whether a judge that was asked in both orders did not prefer the same answer twice."""
    orders = [case.detail[order] for order in ("order1", "order2") if order in case.detail]
    return len(orders) == 2 and set(orders) != {"first", "second"}


def _answer(trace: Trace | None) -> str:
    """The last words of a run."""
    responses = () if trace is None else trace.events_of(ModelResponse)
    return (responses[-1].content or "") if responses else ""


def _alone(trace: Trace | None) -> bool:
    """Whether an answer is the only one of its run, so that the task's input was its prompt."""
    return trace is not None and len(trace.events_of(ModelResponse)) == 1


def _prompts(suite: Suite | None, system: str) -> dict[str, list[Item] | None]:
    if suite is None:
        return {}
    return {task.task_id: _prompt(task.inputs.get("input"), system) for task in suite}


def _prompt(asked: object, system: str) -> list[Item] | None:
    if not isinstance(asked, str) or not asked:
        return None
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": asked}]


def _item(prompt: list[Item] | None, **said: Any) -> Item:
    return said if prompt is None else {"prompt": prompt, **said}
