"""The recipe of planner, caller and summarizer on a real model, with few tokens."""

import json
import runpy
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ARMS = ("single", "multi-task", "one stage", "two stages")


@pytest.mark.real
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit, from within transformers
def test_four_ways_to_spend_the_same_tokens_are_trained_and_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = runpy.run_path(str(BENCHMARKS / "multi_llm.py"))
    target = tmp_path / "found.json"
    assert script["main"](["--small", "--out", str(tmp_path / "out"), "--json", str(target)]) == 0
    found = json.loads(target.read_text())
    [seed] = found["seeds"].values()
    assert tuple(seed) == ARMS
    budget = found["settings"]["tokens"]
    longest_batch = 4 * 620
    for name, arm in seed.items():
        # Every stage ends on a whole batch.
        assert abs(arm["tokens"] - budget) <= len(arm["stages"]) * longest_batch, name
        assert arm["steps"]["plan_accuracy"]["n"] == 1 * (2 + 2) + 1
    assert list(seed["two stages"]["stages"]) == ["backbone", "planner", "caller", "summarizer"]
    assert found["cost"]["memory_ratio"] <= 1.1
    printed = capsys.readouterr().out
    assert all(name in printed for name in ARMS)


def test_no_function_of_a_held_out_request_is_in_a_lesson(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from multillm.trajectories import KINDS, split

    from agent_finetune.settings import read_settings

    parts = split(read_settings(), training=60, held_out=6, fits=lambda _: True)
    learnt = {name for example in parts.training for name in example.tool_names}
    assert not learnt & {name for example in parts.held_out for name in example.tool_names}
    assert not {e.id for e in parts.training} & {e.id for e in parts.held_out}
    assert len(parts.held_out) == 6 * len(KINDS)
    endings = [example.messages[-1].text for example in parts.held_out]
    assert endings.count("give up") == 6
