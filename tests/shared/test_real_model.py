"""SmolLM2-135M-Instruct, whose template ignores tools, through the command line."""

import json

import pytest

from agent_finetune.cli import main

MODEL = "smollm2-135m-instruct"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CITIES = ["Paris", "Rome", "Oslo", "Lima", "Cairo", "Delhi", "Quito", "Tokyo", "Berlin", "Madrid"]
CITIES += ["Vienna", "Dublin", "Prague", "Athens", "Lisbon", "Warsaw", "Havana", "Seoul"]
CITIES += ["Nairobi", "Zagreb"]


def asked(city: str) -> dict[str, object]:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": json.dumps({"city": city})},
    }
    messages = [
        {"role": "user", "content": f"What is the weather in {city}?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    return {"messages": messages, "tools": [WEATHER]}


def write(path, cities):
    path.write_text("".join(json.dumps(asked(city)) + "\n" for city in cities), "utf-8")
    return str(path)


def answers_of(folder):
    lines = (folder / "examples.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.real
def test_inspect_shows_the_call_among_the_trained_tokens(tmp_path, capsys):
    data = write(tmp_path / "traces.jsonl", CITIES[:1])
    assert main(["inspect", "--model", MODEL, "--data", data]) == 0
    shown = capsys.readouterr().out
    trained = "".join(part.split("⟧")[0] for part in shown.split("⟦")[1:])
    assert '"name": "get_weather", "arguments": {"city": "Paris"}' in trained
    assert "What is the weather" in shown
    assert "What is the weather" not in trained
    assert "tools-as-text" in shown


@pytest.mark.real
def test_twenty_lines_change_the_answer(tmp_path):
    data = write(tmp_path / "traces.jsonl", CITIES)
    held = write(tmp_path / "held.jsonl", ["Boston", "Ankara"])
    out = tmp_path / "run"
    short = ["--max-new-tokens", "48"]
    before = ["eval", "--model", MODEL, "--data", held, *short, "--out", str(tmp_path / "before")]
    train = ["train", "--model", MODEL, "--data", data, "--out", str(out), "--max-steps", "10"]
    after = [*before[:-1], str(tmp_path / "after"), "--adapter", str(out / "adapter")]
    assert main(before) == 0
    assert main([*train, "--batch-size", "4", "--learning-rate", "1e-3"]) == 0
    assert main(after) == 0
    assert not any(row["exact"] for row in answers_of(tmp_path / "before"))
    assert all(row["exact"] for row in answers_of(tmp_path / "after"))
