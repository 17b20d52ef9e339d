"""What the verbs do with models and data, end to end, on tiny models."""

import json

import pytest

from agent_finetune import cli
from agent_finetune.testing import save_tiny_model

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


def conversation(city):
    call = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    return {
        "messages": [
            {"role": "user", "content": f"What is the weather in {city}?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "call_1", "type": "function", "function": call}],
            },
        ],
        "tools": TOOLS,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def chatml(folder):
    return save_tiny_model(folder / "chatml")


@pytest.fixture(scope="module")
def base(folder):
    return save_tiny_model(folder / "base", template=None, special=(), eos="<|end|>")


@pytest.fixture(scope="module")
def data(folder):
    path = folder / "traces.jsonl"
    rows = [conversation(f"City{number}") for number in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def run(folder, chatml, data):
    """A finished training run, made through the command line."""
    out = folder / "run"
    words = ["train", "--model", chatml, "--data", data, "--out", out, "--max-steps", 3,
             "--batch-size", 4, "--learning-rate", 0.01]  # fmt: skip
    assert cli.main(list(map(str, words))) == 0
    return out


def answer(capsys, *argv):
    capsys.readouterr()
    assert cli.main([*map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def failure(capsys, *argv):
    capsys.readouterr()
    assert cli.main(list(map(str, argv))) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("kind", ["chatml", "base"])
def test_inspect_shows_the_call_among_the_trained_tokens(kind, request, data, capsys):
    model = request.getfixturevalue(kind)
    shown = answer(capsys, "inspect", "--model", model, "--data", data)
    (row,) = shown["rows"]
    trained = "".join(row["trained_text"])
    assert "get_weather" in trained
    assert "City0" in trained
    assert "What is the weather" not in trained
    assert "What is the weather" in row["text"]
    assert "tool_call" in row["sections"]
    assert len(row["ids"]) == len(row["trained"]) == len(row["sections"])
    assert shown["examples"] == 20
    assert shown["adaptation"]["names"]  # neither template can express a call
    assert len(shown["adaptation"]["reasons"]) >= 1


def test_inspect_marks_trained_text_where_there_is_no_colour(chatml, data, capsys):
    assert cli.main(["inspect", "--model", str(chatml), "--data", str(data), "-n", "2"]) == 0
    out = capsys.readouterr().out
    assert "format messages, 2 of 20 examples" in out
    assert "template: adapted (" in out
    assert out.count("traces.jsonl:") == 3
    inside = [part.split("⟧")[0] for part in out.split("⟦")[2:]]  # after the legend
    assert any("get_weather" in part for part in inside)
    assert not any("What is the weather" in part for part in inside)


def test_inspect_shows_the_sections_that_were_asked_for(chatml, data, capsys):
    shown = answer(capsys, "inspect", "--model", chatml, "--data", data, "--sections", "stop")
    (row,) = shown["rows"]
    assert "get_weather" not in "".join(row["trained_text"])
    assert sum(row["trained"]) >= 1


def test_inspect_uses_the_adapter_as_training_did(chatml, run, data, capsys):
    def rows(*model):
        return answer(capsys, "inspect", *model, "--data", data)["rows"]

    plain = rows("--model", chatml)
    assert rows("--model", chatml, "--adapter", run / "adapter") == plain
    assert rows("--model", run / "adapter") == plain  # an adapter names its base
    line = failure(capsys, "inspect", "--model", chatml, "--adapter", chatml, "--data", data)
    assert "no adapter here" in line


def test_inspect_is_coloured_on_a_terminal(chatml, data, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert cli.main(["inspect", "--model", str(chatml), "--data", str(data)]) == 0
    out = capsys.readouterr().out
    assert "\x1b[1;32m" in out
    assert "⟦" not in out


def test_bad_data_is_named_by_file_and_line(chatml, folder, capsys):
    bad = folder / "bad.jsonl"
    bad.write_text(json.dumps(conversation("Rome")) + "\n{not json\n")
    assert "bad.jsonl:2" in failure(capsys, "inspect", "--model", chatml, "--data", bad)
    bad.write_text(json.dumps(conversation("Rome")) + "\n" + '{"messages": []}\n')
    out = folder / "never"
    line = failure(capsys, "train", "--model", chatml, "--data", bad, "--out", out)
    assert "bad.jsonl:2" in line
    assert not (out / "adapter").exists()


@pytest.mark.parametrize("verb", ["train", "inspect", "eval", "chat"])
def test_a_bad_model_name_is_named(verb, data, folder, capsys):
    words = [verb, "--model", folder / "no-such-model"]
    if verb != "chat":
        words += ["--data", data]
    if verb == "train":
        words += ["--out", folder / "never"]
    assert "no-such-model" in failure(capsys, *words)


def test_train_leaves_a_run_behind(run):
    for name in ("adapter/adapter_model.safetensors", "run.json", "history.jsonl", "metrics.json"):
        assert (run / name).is_file(), name
    recorded = json.loads((run / "run.json").read_text())
    assert "adapter" in json.dumps(recorded)


def test_train_answers_with_one_json_object(chatml, data, folder, capsys):
    result = answer(
        capsys, "train", "--model", chatml, "--data", data, "--out", folder / "short",
        "--max-steps", 1, "--rank", 2,
    )  # fmt: skip
    assert result["steps"] == 1
    assert result["adapter_dir"] == str(folder / "short" / "adapter")
    assert result["loss"] > 0


def test_eval_scores_and_writes_a_line_per_example(run, chatml, data, folder, capsys):
    out = folder / "report"
    words = ["eval", "--model", chatml, "--adapter", run / "adapter", "--data", data,
             "--limit", 3, "--max-new-tokens", 4, "--out", out]  # fmt: skip
    result = answer(capsys, *words)
    assert result["metrics"]
    assert all(isinstance(value, float | int) for value in result["metrics"].values())
    (lines,) = out.glob("*.jsonl")
    assert len(lines.read_text().splitlines()) == 3
    assert cli.main(list(map(str, words[:-2]))) == 0
    assert "right tool names" in capsys.readouterr().out


def test_merge_writes_a_model_that_plain_transformers_loads(run, folder, capsys):
    from transformers import AutoModelForCausalLM

    out = folder / "merged"
    assert answer(capsys, "merge", "--adapter", run / "adapter", "--out", out)["out"] == str(out)
    assert AutoModelForCausalLM.from_pretrained(out).num_parameters() > 0


def test_quickstart_hands_its_flags_on(capsys, monkeypatch):
    from agent_finetune import quickstart

    asked = []
    monkeypatch.setattr(quickstart, "run", lambda config, settings, report: asked.append(config))
    assert cli.main(["quickstart"]) == 0
    assert cli.main(["quickstart", "--model", "m", "--minutes", "2", "--out", "o"]) == 0
    usual, other = asked
    assert usual == quickstart.QuickstartConfig()
    assert other == quickstart.QuickstartConfig(model="m", minutes=2.0, out="o")
