"""`infer`: one question, a file, a conversation; a tiny real model, and the real one once."""

import io
import json

import pytest

from agent_finetune.errors import ConfigError, DataError
from agent_finetune.records import Row
from agent_finetune.settings import read_settings
from agent_finetune.testing import save_tiny_model
from modelscope_agent_train import infer, infer_requests
from modelscope_agent_train.arguments import InferArguments

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


def command(model, *words):
    return infer.main(
        ["--model_id_or_path", model, "--dtype", "fp32", "--max_new_tokens", "4", *words]
    )


def row(**data):
    return Row(source="f.jsonl:1", data=data)


def asked(data, tools=(), system=None, **flags):
    ((known, request),) = infer_requests.requests([data], InferArguments(**flags), system, tools)
    return known, request


def test_one_question_is_answered_streamed_or_whole(model, capsys):
    assert command(model, "--query", "hello") == 0
    streamed = capsys.readouterr()
    assert "4 tokens in" in streamed.err
    assert command(model, "--query", "hello", "--stream", "false") == 0
    assert capsys.readouterr().out.strip() == streamed.out.strip()


def test_a_file_of_rows_becomes_a_file_of_answers_in_its_order(model, tmp_path, capsys):
    rows = [{"id": n, "query": f"question {n}"} for n in range(3)]
    (tmp_path / "in.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in rows))
    out = tmp_path / "out.jsonl"
    assert command(model, "--input", str(tmp_path / "in.jsonl"), "--output", str(out)) == 0
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(a["id"], a["question"]) for a in answers] == [(n, f"question {n}") for n in range(3)]
    assert all(a["answer_tokens"] == 4 and a["finish"] == "length" for a in answers)
    assert command(model, "--input", str(tmp_path / "in.jsonl"), "--dataset_sample", "1") == 0
    assert json.loads(capsys.readouterr().out) == answers[0]


def test_the_shipped_sample_is_answered_beside_what_is_right(model, capsys):
    assert command(model, "--input", "msagent-sample", "--dataset_sample", "2") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 2
    assert all(line["right"]["text"] or line["right"]["calls"] for line in lines)


def test_a_row_of_training_data_is_asked_its_last_turn():
    said = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "gone"}]
    known, request = asked(row(messages=said, tools=[TOOL]))
    assert [m.text for m in request.messages] == ["go"]
    assert request.tools == (TOOL,)
    assert known["right"] == {"text": "gone", "calls": []}


def test_a_question_gets_system_and_tools_from_flags_unless_it_has_its_own():
    known, request = asked(row(query="go", id="q"), [TOOL], "be brief")
    assert [m.role for m in request.messages] == ["system", "user"]
    assert (known["id"], request.tools) == ("q", (TOOL,))
    other = {"name": "other"}
    assert asked(row(query="go", tools=json.dumps([other])), [TOOL])[1].tools == (
        {"type": "function", "function": other},
    )


def test_answers_are_the_likeliest_unless_they_are_to_be_drawn():
    assert asked(row(query="go"))[1].temperature == 0
    request = asked(row(query="go"), do_sample=True, seed=7)[1]
    assert (request.temperature, request.top_k, request.top_p, request.seed) == (0.9, 10, 0.8, 7)


def test_tools_of_a_file_are_read_in_both_shapes(tmp_path):
    path = tmp_path / "tools.json"
    path.write_text(json.dumps([TOOL, {"name": "plain"}]))
    assert [t["function"]["name"] for t in infer_requests.read_tools(path)] == [
        "get_weather",
        "plain",
    ]
    for content, message in (("[3]", "tool 1 is '3'"), ("{", "tools.json")):
        path.write_text(content)
        with pytest.raises(DataError, match=message):
            infer_requests.read_tools(path)


def test_without_a_question_it_is_a_conversation(model, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n/reset\nhello\n"))
    assert command(model, "--system", "be brief") == 0
    said = capsys.readouterr()
    assert "the conversation is forgotten" in said.err
    assert said.err.count("4 tokens in") == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"query": "a", "input": "b"}, "--query and --input"),
        ({"output": "b"}, "--output takes the answers"),
        ({"legacy_format": True}, "leave the flag out"),
        ({"query": "a"}, "no model"),
        ({"query": "a", "ckpt_dir": "/none"}, "no such folder"),
    ],
)
def test_what_does_not_go_together_is_said(flags, message):
    with pytest.raises(ConfigError, match=message):
        infer.infer(InferArguments(**flags), settings=read_settings())


def test_a_row_of_no_known_form_is_named(model, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text('{"text": 3}\n')
    assert command(model, "--input", str(tmp_path / "in.jsonl")) == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.real
def test_the_real_model_answers_and_is_measured(tmp_path, capsys):
    from modelscope_agent_train.evaluation.cli import main as evaluate

    model = ["--model_type", "smollm2-135m-instruct", "--dtype", "fp32"]
    question = ["--query", "What is the capital of France?", "--max_new_tokens", "8"]
    assert infer.main([*model, *question]) == 0
    assert "Paris" in capsys.readouterr().out
    words = ["--dataset", "msagent-sample#1", "--max_new_tokens", "8"]
    assert evaluate([*model, *words, "--output_dir", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["counts"]["examples"] == 1
