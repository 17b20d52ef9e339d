"""What AG2's evaluations say of answers, as feedback: ties, doubts and gaps are left out."""

import asyncio
import json

import pytest
from ag2_agents import CALL, agent_of, events, get_weather, scripted
from autogen_hosts import QUIET, host

from agent_finetune.errors import DataError
from agent_finetune.feedback import Pair, Reward, Thumb, align, read_feedback
from autogen_finetune.ag2.labels import human_pairs, pairs, scored, traces_of

evals = host("ag2.eval")
human = host("ag2.eval.scorers.human_pairwise")

pytestmark = QUIET


def trace(*answers, exception=None):
    said = [events.ModelResponse(events.ModelMessage(answer)) for answer in answers]
    return evals.Trace(events=said, exception=exception, duration_ms=1)


def source(**traces):
    refs = {task: evals.TraceRef(trace_id=task, task_id=task) for task in traces}
    return evals.InMemoryTraceSource([(refs[task], traces[task]) for task in traces])


SUITE = evals.Suite.from_list(
    [{"task_id": name, "inputs": {"input": f"Question {name}"}} for name in "pqrs"]
)


class Longest:
    """Prefers the longer answer, as a judge that is asked in both orders says it."""

    key = "longest"

    async def compare(self, *, task, trace_a, trace_b, reference_outputs):
        one, two = (len(t.events_of(events.ModelResponse)[-1].content) for t in (trace_a, trace_b))
        winner = "a" if one > two else "b" if two > one else "tie"
        return evals.PairwiseOutcome(winner, detail=self.detail)

    def __init__(self, **detail):
        self.detail = detail


def compared(a, b, **detail):
    """Cases of a comparison that AG2 ran, and traces of both sides."""

    async def run():
        result = await evals.evaluate_pairwise(
            a, b, comparators=[Longest(**detail)], store_dir=None, suite=SUITE
        )
        return result.cases, await traces_of(a), await traces_of(b)

    return asyncio.run(run())


def test_the_better_answer_of_a_comparison_is_chosen():
    a = source(p=trace("A long answer."), q=trace("Short."), r=trace("Same."))
    b = source(p=trace("Brief."), q=trace("A long answer."), r=trace("Same!"))
    items = pairs(*compared(a, b), key="longest", suite=SUITE, system="Be kind.")
    assert items == [
        {
            "prompt": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": f"Question {task}"},
            ],
            "chosen": "A long answer.",
            "rejected": worse,
        }
        for task, worse in (("p", "Brief."), ("q", "Short."))
    ]
    assert all(isinstance(shape, Pair) for shape in read_feedback(items))


@pytest.mark.parametrize(
    ("detail", "kept"),
    [
        ({"order1": "first", "order2": "second"}, 1),
        ({"order1": "first"}, 1),
        ({"order1": "first", "order2": "first"}, 0),
        ({"order1": "first", "order2": "tie"}, 0),
        ({"missing": True}, 0),
    ],
)
def test_a_judge_that_changed_its_mind_with_the_order_is_not_believed(detail, kept):
    cases = compared(source(p=trace("A long answer.")), source(p=trace("Brief.")), **detail)
    assert len(pairs(*cases, key="longest")) == kept


def test_outcomes_under_another_key_are_not_used():
    cases = compared(source(p=trace("A long answer.")), source(p=trace("Brief.")))
    assert pairs(*cases, key="kindness") == []


def test_an_answer_after_tool_calls_has_no_prompt_but_its_words():
    a = source(p=trace("", "A long answer."), q=trace("A long answer."))
    b = source(p=trace("Brief."), q=trace(""))
    items = pairs(*compared(a, b), key="longest", suite=SUITE)
    assert items == [{"chosen": "A long answer.", "rejected": "Brief."}]


def manifest(tmp_path, **preferred):
    """A manifest that AG2 wrote and a person filled in."""
    a = source(p=trace("Good."), q=trace("Good."), r=trace("Good."), s=evals_without_words())
    b = source(p=trace("Bad."), q=trace("Bad."), r=trace("Good."), s=trace("Bad."))
    path = tmp_path / "cases.jsonl"
    asyncio.run(
        human.export_pairwise_cases(
            a, b, criteria=["kind", "short"], out=str(path), suite=SUITE, seed=1
        )
    )
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["criterion"] == "kind" and row["task_id"] in preferred:
            said = preferred[row["task_id"]]
            first = "1" if row["first_variant"] == "a" else "2"
            row["preferred"] = {"a": first, "b": "2" if first == "1" else "1"}.get(said, said)
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return path


def evals_without_words():
    return evals.Trace(events=[], exception=None, duration_ms=1)


def test_what_a_person_preferred_is_chosen(tmp_path):
    path = manifest(tmp_path, p="a", q="b")
    assert human_pairs(path, criterion="kind") == [
        {"chosen": "Good.", "rejected": "Bad."},
        {"chosen": "Bad.", "rejected": "Good."},
    ]
    first = human_pairs(path, criterion="kind", system="Be kind.")[0]
    assert [turn["content"] for turn in first["prompt"]] == ["Be kind.", "Question p"]
    assert human_pairs(path, criterion="short") == []


def test_ties_gaps_and_answers_that_are_the_same_are_left_out(tmp_path):
    assert human_pairs(manifest(tmp_path, p="tie", r="a", s="b"), criterion="kind") == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "1: is no case of a manifest"),
        ('{"criterion": "kind"}', "1: is no case of a manifest: 'response_1'"),
        (
            '{"criterion": "kind", "response_1": "a", "response_2": "b", "preferred": "both"}',
            "1: preferred is 'both'; legal are 1, 2 and tie",
        ),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, line, reason):
    path = tmp_path / "cases.jsonl"
    path.write_text(line)
    with pytest.raises(DataError, match=reason):
        human_pairs(path, criterion="kind")


@evals.scorer
def short(trace):
    return len(trace.events_of(events.ModelResponse)[-1].content) < 10


@evals.scorer
def length(trace):
    return float(len(trace.events_of(events.ModelResponse)[-1].content))


def run(agent, *names):
    suite = evals.Suite.from_list([_task(name) for name in names])
    return asyncio.run(evals.run_agent(suite, agent=agent, scorers=[short, length], concurrency=1))


def _task(name):
    return {"task_id": name, "inputs": {"input": f"Question {name}"}}


def test_what_a_scorer_gave_is_a_thumb_or_a_reward():
    result = run(agent_of(scripted("Yes.", "A long answer.")), "p", "q")
    thumbs = scored(result, key="short", system="Be kind.")
    assert [(item["completion"], item["label"]) for item in thumbs] == [
        ("Yes.", True),
        ("A long answer.", False),
    ]
    assert [turn["content"] for turn in thumbs[0]["prompt"]] == ["Be kind.", "Question p"]
    rewards = scored(result.tasks, key="length")
    assert rewards[1] == {"completion": "A long answer.", "reward": 14.0}
    assert isinstance(read_feedback(thumbs)[0], Thumb)
    assert isinstance(read_feedback(rewards)[0], Reward)
    assert scored(result, key="nobody") == []


def test_a_run_that_failed_is_not_judged():
    result = run(agent_of(scripted(RuntimeError("no memory"))), "p")
    assert scored(result, key="length") == []


def test_a_scored_answer_after_tool_calls_is_found_by_its_words():
    config = scripted(CALL, "Sunny.")
    result = run(agent_of(config, tools=[get_weather]), "p")
    items = scored(result, key="short", system="Be kind.")
    assert items == [{"completion": "Sunny.", "label": True}]
    (verdict,) = align(read_feedback(items), config.live.log()).verdicts
    assert [turn.role for turn in verdict.prompt] == ["system", "user", "assistant", "tool"]
