"""The small_llms example runs as a user would run it, on a tiny model."""

import asyncio
import importlib.util
import json
import re
from pathlib import Path

import pytest
from live_engines import close_all
from talkative import save_talkative_model

from agent_finetune import readers
from agent_finetune.contracts import Settings
from agent_finetune.roles.data import role_sets

FOLDER = Path(__file__).parents[2] / "examples" / "small_llms"
DATA = FOLDER / "data" / "trajectories.jsonl"


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def example():
    yield load("small_llms")
    close_all()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_talkative_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Some of the shipped trajectories, calls and refusals among them."""
    path = tmp_path_factory.mktemp("data") / "few.jsonl"
    lines = DATA.read_text("utf-8").splitlines()
    refusal = next(line for line in lines if "give up" in line)
    path.write_text("\n".join([*lines[:2], refusal]))
    return path


def test_the_roles_are_trained_in_4_bits_and_asked_before_and_after(
    example, model, few, tmp_path, capsys
):
    chosen = ["--model", model, "--data", few, "--max-new-tokens", 4, "--device", "cpu"]
    first = [*chosen, "--epochs", 1, "--out", tmp_path / "roles"]
    assert example.main([*map(str, first)]) == 0
    said = capsys.readouterr().out
    for request in example.REQUESTS:
        assert said.count(f"user> {request}") == 2
    assert set(re.findall(r"^─+ (\w+) ─+$", said, re.MULTILINE)) >= {"planner", "summarizer"}
    assert "[4/4] summarizer" in said
    assert re.search(r"^with three .* times the single agent's$", said, re.MULTILINE)
    run = json.loads((tmp_path / "roles" / "planner" / "run.json").read_text("utf-8"))
    assert run["config"]["model"]["quantization"] == "4bit"
    # What is trained once is used again, and in another number format.
    again = ["--roles", tmp_path / "roles", *chosen[4:], "--quantization", "none"]
    assert example.main([*map(str, again)]) == 0
    assert "[4/4]" not in capsys.readouterr().out


def test_the_shipped_trajectories_are_what_the_script_makes_and_teach_every_role(example):
    maker = load("make_trajectories")
    shipped = [json.loads(line) for line in DATA.read_text("utf-8").splitlines()]
    assert asyncio.run(maker.make()) == shipped
    found = readers.read(str(DATA), settings=Settings())
    sets = role_sets(found.examples)
    assert not sets.left_out
    assert not found.left_out
    assert {part.value: len(rows) for part, rows in sets.sets.items()} == {
        "backbone": 240, "planner": 240, "caller": 96, "summarizer": 96,
    }  # fmt: skip


def test_no_tool_of_the_example_is_in_the_training_data(example):
    data = DATA.read_text("utf-8")
    for tool in (example.days_between, example.letters_in, example.fuel_for):
        assert tool.__name__ not in data


def test_what_cannot_be_had_is_said_in_one_line(example, tmp_path, capsys):
    assert example.main(["--roles", str(tmp_path)]) == 2
    assert "roles.json: No such file" in capsys.readouterr().err
