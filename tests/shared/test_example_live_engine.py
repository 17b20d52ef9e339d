"""The example in examples/live_engine.py runs as a user would run it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from live_engines import make_adapter
from talkative import save_talkative_model

EXAMPLE = Path(__file__).parents[2] / "examples" / "live_engine.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_talkative_model(tmp_path_factory.mktemp("model"))


def told(*words):
    """What Ann's words were as they came, and what was said of Ann and of Bob in the end."""
    run = subprocess.run(
        [sys.executable, EXAMPLE, *map(str, words)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    shown, *agents = re.split(r"\n(?:ann|bob): ", run.stdout)
    assert len(agents) == 2
    return shown, *(agent.split("\n  ") for agent in agents)


def test_two_agents_speak_through_an_adapter_each(model, tmp_path):
    adapters = [make_adapter(model, tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    shown, ann, bob = told("--model", model, "--adapter", adapters[0], "--adapter", adapters[1])
    assert repr(shown.strip()) == ann[0]
    assert ann[0] != bob[0]
    assert ann[2] != bob[2]
    assert "completion_tokens=48" in ann[1]
    assert "completion_tokens=48" in bob[1]


def test_it_is_as_short_as_it_is_said_to_be():
    code = EXAMPLE.read_text().splitlines()[12:]  # behind the imports
    assert len([line for line in code if line]) <= 30
