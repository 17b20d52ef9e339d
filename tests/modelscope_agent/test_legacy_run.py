"""A whole run on the 2023 text, and the model that came of it behind the kernel's engine."""

import json

import pytest
from legacy_rows import executed, row, think
from live_engines import open_engine

from agent_finetune.config import AdapterConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
from agent_finetune.contracts import Request, Settings
from agent_finetune.errors import ConfigError, DataError
from agent_finetune.records import Message, Section, ToolCall
from agent_finetune.testing.tiny import save_tiny_model
from agent_finetune.train import job
from modelscope_agent_train import legacy

SYSTEM = (
    'Use:\n\n1. {"name": "w", "description": "", "parameters": '
    '[{"name": "city", "required": "True"}]}'
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "w",
        "description": "",
        "parameters": {"type": "object", "properties": {"city": {}}, "required": ["city"]},
    },
}
TURN = ("Rome?", f"{think('w', city='Rome')}\n\n{executed(9)}\n9 C")


def config_of(tmp_path, rows, *, out="out", train=None, **data):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return RunConfig(
        model=ModelConfig(model=str(tmp_path / "model"), device="cpu", dtype="float32"),
        data=DataConfig(data=str(path), **data),
        out=str(tmp_path / out),
        lora=AdapterConfig(rank=16, alpha=64),
        train=TrainConfig(**(train or {"max_steps": 1})),
    )


def run(config, said=None):
    report = (lambda _: None) if said is None else said.append
    read = legacy.read_for_run
    return job.run(config, Settings(), report=report, read=read, chat_template=legacy.template)


@pytest.fixture
def model(tmp_path):
    return save_tiny_model(tmp_path / "model")


@pytest.mark.usefixtures("model")
def test_a_trained_model_calls_its_tool_and_answers_with_the_result(tmp_path):
    train = {"method": "full", "max_steps": 70, "learning_rate": 1e-2, "batch_size": 1}
    config = config_of(tmp_path, [row(TURN, system=SYSTEM)], train=train)
    said = []
    run(config, said)
    engine = open_engine(tmp_path / "out" / "model")
    try:
        asked = (Message(role="system", text="Use:"), Message(role="user", text="Rome?"))
        first = engine.generate(Request(messages=asked, tools=[WEATHER], max_new_tokens=80))
        call = ToolCall(name="w", arguments={"city": "Rome"})
        assert (first.message.tool_calls, first.broken_calls) == ((call,), ())
        assert first.finish == "tool_calls"
        result = Message(role="tool", text="9")
        again = (*asked, Message(role="assistant", tool_calls=(call,)), result)
        second = engine.generate(Request(messages=again, tools=[WEATHER], max_new_tokens=40))
        assert (second.message.text, second.finish) == ("9 C", "stop")
    finally:
        engine.close()
    assert any("the 2023 text, 1 conversations" in line for line in said)


@pytest.mark.usefixtures("model")
def test_what_was_left_out_is_counted_in_run_json(tmp_path):
    rows = [row(TURN, system=SYSTEM), row(("a", "")), row(("a", "<|endofexec|>"))]
    run(config_of(tmp_path, rows, on_bad_row="skip"))
    data = json.loads((tmp_path / "out" / "run.json").read_text())["data"]
    assert data["sources"][0]["format"] == "msagent_text"
    assert data["sources"][0]["left_out"] == {"no turn has an answer": 1}
    assert [each["source"].rpartition(":")[2] for each in data["bad_rows"]] == ["3"]
    assert data["train"]["rows"] == 1


@pytest.mark.usefixtures("model")
def test_held_out_calls_are_generated_and_scored_while_training(tmp_path):
    other = SYSTEM.replace('"w"', '"v"')
    rows = [row(TURN, system=SYSTEM), row(("Rome?", TURN[1].replace('"w"', '"v"')), system=other)]
    train = {"max_steps": 1, "eval_generate": 1}
    result = run(config_of(tmp_path, rows, train=train, eval_share=0.5))
    assert {"eval_loss", "rouge_l"} <= result.metrics.keys()


@pytest.mark.usefixtures("model")
def test_data_to_measure_on_may_be_a_file_of_its_own(tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(row(("a", "b"), system="c")))
    said = []
    run(config_of(tmp_path, [row(TURN, system=SYSTEM)], eval_data=str(other)), said)
    assert "held out: 1 rows" in said


@pytest.mark.usefixtures("model")
def test_conversations_that_do_not_fit_are_left_out_and_a_run_without_any_is_refused(tmp_path):
    rows = [row(TURN, system=SYSTEM), row(("Rome?" * 200, "b"), system="c")]
    said = []
    run(config_of(tmp_path, rows, max_length=400), said)
    assert "1 examples left out: longer than max_length 400" in said
    with pytest.raises(DataError, match="none of the 2 examples can be used"):
        run(config_of(tmp_path, rows, max_length=20, out="other"))


@pytest.mark.usefixtures("model")
def test_training_only_some_sections_is_refused(tmp_path):
    config = config_of(tmp_path, [row(TURN)], sections=(Section.TOOL_CALL,))
    with pytest.raises(ConfigError, match="the 2023 form trains all that the assistant says"):
        run(config)
