import json
from pathlib import Path

import pytest

from agent_finetune.settings import read_settings
from agent_finetune.testing import save_tiny_model


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import live_engine

    return live_engine


@pytest.fixture
def questions(tmp_path):
    """Two tools, each asked about twice, in the kernel's own form."""

    def row(tool, city):
        call = {"function": {"name": tool, "arguments": {"city": city}}}
        parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
        return {
            "messages": [
                {"role": "user", "content": f"{tool} for {city}?"},
                {"role": "assistant", "tool_calls": [call]},
            ],
            "tools": [{"type": "function", "function": {"name": tool, "parameters": parameters}}],
        }

    rows = [row(tool, city) for tool in ("weather", "hotels") for city in ("Paris", "Rome")]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def answers(*ids, prompt=(1,)):
    from live.ways import Answers

    return Answers(prompts=[prompt] * len(ids), ids=list(ids), seconds=2.0)


def test_a_small_run_measures_everything_and_its_answers_are_those_of_generate(
    benchmark, questions, tmp_path, capsys
):
    model = save_tiny_model(tmp_path / "model")
    out = tmp_path / "live_engine.json"
    sizes = ["--small", "--data", str(questions), "--dtype", "float32", "--json", str(out)]
    assert benchmark.main(["--model", str(model), *sizes]) == 0
    found = json.loads(out.read_text())
    assert found["fidelity"]["float32"]["ours"]["identical"] == 3 + 3 + 3  # turns, and agents twice
    assert found["bars"]["fidelity"]["passed"]
    assert found["fidelity"]["bfloat16"].keys() == {"ours", "padded batches"}
    first, *later = found["first_token"]
    assert first["cached_tokens"] == 0
    assert all(turn["cached_tokens"] > first["prompt_tokens"] / 2 for turn in later)
    speeds = found["agents"]["tokens_per_second"]
    assert speeds["ours"].keys() == {"no_adapter", "one_adapter", "an_adapter_each"}
    assert found["memory"]["three"] > found["memory"]["one"] > 0
    assert "PASS  fidelity: 9 of 9 identical in float32" in capsys.readouterr().out


def test_a_turn_begins_with_all_that_the_turn_before_it_said(benchmark, questions):
    from live import workload

    work = workload.read(str(questions), 3, read_settings())
    assert [tool["function"]["name"] for tool in work.tools] == ["weather", "hotels"]
    third = work.turn(3, "Ada")
    assert third[: len(work.turn(2, "Ada"))] == work.turn(2, "Ada")
    assert [m.role for m in third[-5:]] == ["user", "assistant", "tool", "assistant", "user"]
    with pytest.raises(ValueError, match="only 4 of 5 questions"):
        workload.read(str(questions), 5, read_settings())


def test_answers_are_compared_token_by_token(benchmark):
    from live.measures import likeness

    right = answers((1, 2, 3), (4, 5), (6, 7, 8))
    found = likeness(right, answers((1, 2, 3), (4, 5, 9), (6, 0, 8)))
    assert found == {"identical": 1, "of": 3, "tokens": 8, "first_differences": [2, 3]}
    with pytest.raises(RuntimeError, match="same prompts"):
        likeness(right, answers((1, 2, 3), (4, 5), (6, 7, 8), prompt=(2,)))


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        (lambda report: None, None),
        (lambda report: report["first_token"][-1].update(ratio=2.9), "first_token"),
        (lambda report: report["agents"]["ratios"].update(an_adapter_each=1.9), "an_adapter_each"),
        (lambda report: report["memory"].update(ratio=1.11), "memory"),
        (lambda report: report["fidelity"]["float32"]["ours"].update(identical=25), "fidelity"),
    ],
)
def test_each_bar_is_missed_by_itself(benchmark, change, missed):
    report = {
        "first_token": [{"ratio": 0.9}, {"ratio": 3.0}],
        "agents": {"ratios": {"no_adapter": 1.0, "one_adapter": 3.0, "an_adapter_each": 2.0}},
        "memory": {"ratio": 1.1},
        "fidelity": {"float32": {"ours": {"identical": 26, "of": 26}}},
    }
    change(report)
    failed = [name for name, passed, _ in benchmark.bars(report) if not passed]
    assert failed == ([missed] if missed else [])
