"""`train.run`: from a data file and a model folder to an adapter that answers differently."""

import json

import pytest

from agent_finetune import testing, train
from agent_finetune.config import AdapterConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError, DataError, RenderError
from agent_finetune.records import Example, Message
from agent_finetune.train import job


def tool(name):
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {
        "type": "function",
        "function": {"name": name, "description": "Ask.", "parameters": city},
    }


def row(name, city):
    call = {"name": name, "arguments": json.dumps({"city": city})}
    return {
        "messages": [
            {"role": "user", "content": f"{name} of {city}?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "a", "type": "function", "function": call}],
            },
        ],
        "tools": [tool(name)],
    }


@pytest.fixture
def data(tmp_path):
    rows = [row(f"tool_{index % 5}", f"City{index}") for index in range(10)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def model(tmp_path):
    return testing.save_tiny_model(tmp_path / "model")


def config(model, data, out, **options):
    held = {key: options.pop(key) for key in list(options) if key in DataConfig.__slots__}
    return RunConfig(
        model=ModelConfig(model=str(model), device="cpu", dtype="float32"),
        data=DataConfig(data=str(data), **held),
        out=str(out),
        lora=AdapterConfig(rank=4),
        train=TrainConfig(**{"batch_size": 4, "max_steps": 2, **options}),
    )


def run(config, tmp_path, said=None):
    report = (lambda line: None) if said is None else said.append
    return train.run(config, Settings(cache_dir=tmp_path / "cache"), report=report)


def test_a_run_records_what_it_read_kept_and_dropped(model, data, tmp_path):
    said = []
    result = run(config(model, data, tmp_path / "out"), tmp_path, said)
    assert result.steps == 2
    recorded = json.loads((tmp_path / "out" / "run.json").read_text())
    [source] = recorded["data"]["sources"]
    assert source["read"] == 10
    assert source["digest"].startswith("sha256:")
    assert recorded["data"]["train"]["examples"] == recorded["data"]["train"]["rows"] == 10
    assert recorded["data"]["train"]["trained_tokens"] > 0
    assert recorded["data"]["bad_rows"] == []
    assert recorded["chat_template"]["adaptations"]  # ChatML knows no tools
    assert any("10 examples" in line for line in said)
    assert any("10 rows" in line for line in said)
    template = (tmp_path / "out" / "adapter" / "chat_template.jinja").read_text()
    assert template != testing.CHATML


def test_held_out_examples_are_measured_and_their_calls_scored(model, data, tmp_path):
    options = {"eval_share": 0.3, "eval_generate": 2, "eval_steps": 1}
    run(config(model, data, tmp_path / "out", **options), tmp_path)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["before"].keys() == metrics["after"].keys()
    assert {"eval_loss", "train_loss"} < metrics["after"].keys()
    lines = (tmp_path / "out" / "history.jsonl").read_text().splitlines()
    evaluations = [line for line in map(json.loads, lines) if "eval_loss" in line]
    assert [line["step"] for line in evaluations] == [0, 1, 2]
    assert all(line.keys() == evaluations[0].keys() for line in evaluations)


def test_a_file_of_its_own_can_be_held_out(model, data, tmp_path):
    said = []
    run(config(model, data, tmp_path / "out", eval_data=str(data)), tmp_path, said)
    recorded = json.loads((tmp_path / "out" / "run.json").read_text())
    assert recorded["data"]["eval"]["rows"] == 10
    assert len(recorded["data"]["sources"]) == 2
    assert "held out: 10 rows" in said


def test_training_goes_on_from_an_adapter(model, data, tmp_path):
    run(config(model, data, tmp_path / "one"), tmp_path)
    first = config(model, data, tmp_path / "two")
    again = RunConfig(
        model=ModelConfig(
            model=str(model), adapter=str(tmp_path / "one" / "adapter"), dtype="float32"
        ),
        data=first.data,
        out=first.out,
        train=first.train,
    )
    said = []
    run(again, tmp_path, said)
    assert any("goes on training" in line for line in said)
    before = json.loads((tmp_path / "one" / "history.jsonl").read_text().splitlines()[-1])
    after = json.loads((tmp_path / "two" / "history.jsonl").read_text().splitlines()[-1])
    assert after["loss"] < before["loss"]


def test_a_folder_in_use_is_refused_before_anything_is_loaded(data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "history.jsonl").touch()
    with pytest.raises(ConfigError, match="something else"):
        run(config(tmp_path / "no model", data, tmp_path / "out"), tmp_path)


def test_rows_that_are_too_long_are_dropped_and_counted(model, data, tmp_path):
    with data.open("a") as file:
        file.write(json.dumps(row("tool_1", "x" * 900)) + "\n")
    said = []
    options = {"max_length": 900, "overlong": "drop"}
    run(config(model, data, tmp_path / "out", **options), tmp_path, said)
    recorded = json.loads((tmp_path / "out" / "run.json").read_text())
    assert recorded["data"]["train"]["too_long"] == 1
    assert recorded["data"]["train"]["examples"] == 10
    assert any("left out: longer than max_length 900" in line for line in said)


def test_data_of_which_nothing_fits_is_an_error(model, data, tmp_path):
    with pytest.raises(DataError, match="none of the 10 examples"):
        run(config(model, data, tmp_path / "out", max_length=8, overlong="drop"), tmp_path)


class Refusing:
    """A renderer whose template cannot express some examples."""

    def fit(self, example, max_length, policy):
        raise RenderError(f"{example.source}: cannot be said")


def examples(count, tools=()):
    return [
        Example(
            messages=(Message(role="user", text="Hi"), Message(role="assistant", text="Ho")),
            tools=tuple(tools),
            source=f"d.jsonl:{index}",
        )
        for index in range(count)
    ]


def test_what_the_template_cannot_say_stops_or_is_counted_as_the_policy_says():
    with pytest.raises(RenderError, match=r"d\.jsonl:0: cannot be said"):
        job.render(Refusing(), examples(2), DataConfig(data="d"), 100)
    with pytest.raises(DataError, match=r"none of the 2 .*d\.jsonl:0: cannot be said"):
        job.render(Refusing(), examples(2), DataConfig(data="d", on_bad_row="skip"), 100)


def test_a_share_is_held_out_by_tool():
    mixed = [
        example for name in ("a", "b", "c", "d") for example in examples(5, tools=[tool(name)])
    ]
    training, held_out = job.hold_out_share(mixed, share=0.3, seed=0)
    assert (len(training), len(held_out)) == (15, 5)
    assert not {e.tool_names for e in training} & {e.tool_names for e in held_out}
    assert job.hold_out_share(mixed, share=0.3, seed=0) == (training, held_out)


def test_examples_without_tools_are_held_out_one_by_one():
    training, held_out = job.hold_out_share(examples(10), share=0.2, seed=0)
    assert (len(training), len(held_out)) == (8, 2)


def test_one_family_of_tools_cannot_be_split():
    with pytest.raises(DataError, match="smallest group that shares its tools has 10"):
        job.hold_out_share(examples(10, tools=[tool("a")]), share=0.2, seed=0)


# Feedback


def feedback_file(tmp_path):
    """Four pairs, two verdicts, a demonstration."""
    ask = [{"role": "user", "content": "What is the weather?"}]
    rows = [
        {"prompt": ask, "chosen": f"Sunny {index}.", "rejected": f"No idea {index}."}
        for index in range(4)
    ]
    rows += [
        {"prompt": ask, "completion": "It rains.", "label": True},
        {"prompt": ask, "completion": "Who cares?", "label": False},
        {"messages": [*ask, {"role": "assistant", "content": "Snow."}]},
    ]
    path = tmp_path / "feedback.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(("objective", "rows"), [("dpo", 4), ("kto", 10)])
def test_feedback_in_a_file_is_trained(model, tmp_path, objective, rows):
    said = []
    asked = config(model, feedback_file(tmp_path), tmp_path / "out", objective=objective)
    assert run(asked, tmp_path, said).steps == 2
    recorded = json.loads((tmp_path / "out" / "run.json").read_text())
    assert recorded["data"]["train"] == {"rows": rows, "too_long": 0, "not_expressible": 0}
    assert recorded["data"]["digest"] == recorded["must_stay"]["training rows"]
    assert "chat_template" in recorded
    assert any("4 pairs, 2 verdicts, 1 demonstrations" in line for line in said)


def test_feedback_is_held_out_and_what_is_too_long_is_counted(model, tmp_path):
    data = feedback_file(tmp_path)
    long = {"prompt": "Why?", "chosen": "because " * 60, "rejected": "No."}
    data.write_text(data.read_text() + json.dumps(long) + "\n")
    said = []
    asked = config(
        model, data, tmp_path / "out", objective="dpo", eval_data=str(data), max_length=60
    )
    result = run(asked, tmp_path, said)
    assert result.metrics["eval_accuracy"] >= 0
    assert any("2 records left out: longer than max_length 60" in line for line in said)
    shared = config(model, data, tmp_path / "shared", objective="dpo", eval_share=0.4)
    run(shared, tmp_path)
    recorded = json.loads((tmp_path / "shared" / "run.json").read_text())
    assert recorded["data"]["train"]["rows"] == 3
    assert recorded["data"]["eval"]["rows"] == 2
    with pytest.raises(DataError, match=r"feedback\.jsonl:8: \d+ tokens; at most 60 fit"):
        run(
            config(
                model,
                data,
                tmp_path / "error",
                objective="dpo",
                max_length=60,
                overlong="error",
            ),
            tmp_path,
        )
    with pytest.raises(DataError, match="none of the 5 records can be used: 5 are longer"):
        run(config(model, data, tmp_path / "none", objective="dpo", max_length=8), tmp_path)


def test_feedback_that_does_not_serve_the_objective_is_refused(model, tmp_path):
    path = tmp_path / "thumbs.jsonl"
    path.write_text(json.dumps({"prompt": "Hi?", "completion": "Hi.", "label": True}) + "\n")
    with pytest.raises(DataError, match="objective 'dpo' needs pairs; none found"):
        run(config(model, path, tmp_path / "out", objective="dpo"), tmp_path)
    with pytest.raises(ConfigError, match="feedback has no right calls to score"):
        run(config(model, path, tmp_path / "out", objective="kto", eval_generate=1), tmp_path)


def test_feedback_that_a_template_cannot_say_stops_or_is_counted(tmp_path):
    picky = testing.CHATML.replace(
        "{{ message['content'] }}",
        "{% if 'No idea 2' in message['content'] %}{{ raise_exception('not that') }}{% endif %}"
        "{{ message['content'] }}",
    )
    model = testing.save_tiny_model(tmp_path / "picky", template=picky)
    data = feedback_file(tmp_path)
    with pytest.raises(RenderError, match=r"feedback\.jsonl:3: rejected: .*not that"):
        run(config(model, data, tmp_path / "stop", objective="dpo"), tmp_path)
    asked = config(model, data, tmp_path / "skip", objective="dpo", on_bad_row="skip")
    run(asked, tmp_path)
    recorded = json.loads((tmp_path / "skip" / "run.json").read_text())["data"]
    assert recorded["train"] == {"rows": 3, "too_long": 0, "not_expressible": 1}
    (bad,) = recorded["bad_rows"]
    assert bad["source"].endswith("feedback.jsonl:3")
