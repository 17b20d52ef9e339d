"""The recipe of the roles: what is trained from what, how much, and how it goes on."""

import json
from dataclasses import replace

import pytest
from safetensors.numpy import load_file

from agent_finetune import cli, testing
from agent_finetune.config import AdapterConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError, DataError
from agent_finetune.roles.options import RolesConfig, RolesOptions, StageConfig
from agent_finetune.roles.recipe import read_manifest, train_roles

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Ask.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def trajectory(number, city="Paris"):
    call = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    calls = [{"id": "call00001", "type": "function", "function": call}]
    return {
        "id": f"t{number}",
        "messages": [
            {"role": "user", "content": f"Weather in {city}?"},
            {"role": "assistant", "content": "The weather fits.", "tool_calls": calls},
            {"role": "tool", "content": "rain", "tool_call_id": "call00001"},
            {"role": "assistant", "content": "Rain.", "reasoning_content": "It is known."},
        ],
        "tools": [TOOL],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("roles")
    testing.save_tiny_model(made / "model")
    write(made / "rows.jsonl", [trajectory(n) for n in range(4)])
    return made


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe(folder, out, *, data="rows.jsonl", stages=(), train=(), **options):
    run = RunConfig(
        model=ModelConfig(model=str(folder / "model"), device="cpu", dtype="float32"),
        data=DataConfig(data=str(folder / data)),
        out=str(out),
        lora=AdapterConfig(rank=2),
        train=TrainConfig(**{"batch_size": 4, "learning_rate": 1e-3, **dict(train)}),
    )
    return RolesConfig(run=run, options=RolesOptions(**options), stages=dict(stages))


def trained(config, tmp_path, said=None):
    report = (lambda line: None) if said is None else said.append
    return train_roles(config, Settings(cache_dir=tmp_path / "cache"), report=report)


def run_of(folder):
    return json.loads((folder / "run.json").read_text())


def test_stage_two_goes_on_from_stage_one_with_each_role_on_its_own_turns(folder, tmp_path):
    said = []
    slow = {name: StageConfig(learning_rate=1e-9) for name in ("planner", "caller", "summarizer")}
    result = trained(recipe(folder, tmp_path / "out", stages=slow), tmp_path, said)
    assert [stage.name for stage in result.stages] == [
        "backbone",
        "planner",
        "caller",
        "summarizer",
    ]
    assert [stage.rows for stage in result.stages] == [8, 8, 4, 4]
    backbone = load_file(tmp_path / "out/backbone/adapter/adapter_model.safetensors")
    planner = load_file(tmp_path / "out/planner/adapter/adapter_model.safetensors")
    # With next to no learning rate a role is still what stage one made of it.
    assert all(abs(planner[name] - value).max() < 1e-6 for name, value in backbone.items())
    assert any(abs(value).max() > 1e-5 for name, value in backbone.items() if "lora_B" in name)
    assert run_of(tmp_path / "out/caller")["config"]["model"]["adapter"].endswith(
        "backbone/adapter"
    )
    assert "[1/4] backbone" in said
    found = read_manifest(tmp_path / "out")
    assert found["layout"] == "roles"
    assert found["parts"] == {
        name: tmp_path / "out" / name / "adapter" for name in ("planner", "caller", "summarizer")
    }


def test_without_stage_one_each_role_starts_from_the_base(folder, tmp_path):
    result = trained(recipe(folder, tmp_path / "out", stage_one=False), tmp_path)
    assert [stage.name for stage in result.stages] == ["planner", "caller", "summarizer"]
    assert run_of(tmp_path / "out/planner")["config"]["model"]["adapter"] is None


@pytest.mark.parametrize(
    ("layout", "parts", "rows"),
    [("single", {"backbone"}, 8), ("multi-task", {"planner", "caller", "summarizer"}, 16)],
)
def test_the_baselines_are_one_adapter_for_all(folder, tmp_path, layout, parts, rows):
    result = trained(recipe(folder, tmp_path / "out", layout=layout), tmp_path)
    [stage] = result.stages
    assert stage.rows == rows
    found = read_manifest(tmp_path / "out")
    assert set(found["parts"]) == parts
    assert set(found["parts"].values()) == {stage.folder / "adapter"}


def test_a_budget_of_tokens_is_spent_whatever_the_layout(folder, tmp_path):
    write(folder / "many.jsonl", [trajectory(n) for n in range(12)])
    spent = {}
    for name, options in {
        "single": {"layout": "single"},
        "multi-task": {"layout": "multi-task"},
        "one stage": {"stage_one": False},
        "two stages": {},
    }.items():
        config = recipe(folder, tmp_path / name, data="many.jsonl", tokens=12_000, **options)
        spent[name] = trained(replace(config), tmp_path).train_tokens
    # Each stage ends on a whole batch, here of four rows of about 250 tokens.
    assert all(abs(tokens - 12_000) < 4 * 1_000 for tokens in spent.values()), spent


def test_what_will_be_measured_is_kept_out_by_its_id(folder, tmp_path):
    write(folder / "test.jsonl", [trajectory(1), trajectory(3)])
    said = []
    config = recipe(
        folder, tmp_path / "out", layout="single", without=(str(folder / "test.jsonl"),)
    )
    result = trained(config, tmp_path, said)
    assert result.stages[0].rows == 4
    assert any("2 left out: kept out by its id" in line for line in said)


def test_a_recipe_that_was_stopped_goes_on_with_the_stage_that_was_not_done(folder, tmp_path):
    config = recipe(folder, tmp_path / "out")
    whole = trained(config, tmp_path)
    before = (tmp_path / "out/caller/adapter/adapter_model.safetensors").read_bytes()
    (tmp_path / "out/roles.json").unlink()
    for name in ("run.json", "history.jsonl", "metrics.json", "loss.png"):
        (tmp_path / "out/caller" / name).unlink()
    (tmp_path / "out/caller/adapter/adapter_model.safetensors").unlink()
    said = []
    again = replace(config, run=replace(config.run, train=replace(config.run.train, resume=True)))
    result = trained(again, tmp_path, said)
    assert [s.steps for s in result.stages] == [s.steps for s in whole.stages]
    assert sum("finished before" in line for line in said) == 3
    assert (tmp_path / "out/caller/adapter/adapter_model.safetensors").read_bytes() == before


def test_a_finished_stage_is_not_taken_for_one_of_other_settings(folder, tmp_path):
    config = recipe(folder, tmp_path / "out", layout="single")
    trained(config, tmp_path)
    other = replace(config.run, train=replace(config.run.train, learning_rate=2e-3, resume=True))
    with pytest.raises(ConfigError, match=r"learning_rate was 0\.001 and is now 0\.002"):
        trained(replace(config, run=other), tmp_path)


def test_trained_roles_are_not_written_over(folder, tmp_path):
    config = recipe(folder, tmp_path / "out", layout="single")
    trained(config, tmp_path)
    with pytest.raises(ConfigError, match="holds trained roles"):
        trained(config, tmp_path)


def test_a_role_without_a_turn_is_refused_before_anything_is_trained(folder, tmp_path):
    silent = trajectory(0)
    silent["messages"] = silent["messages"][:2]
    write(folder / "silent.jsonl", [silent])
    with pytest.raises(DataError, match="not one turn for the summarizer"):
        trained(recipe(folder, tmp_path / "out", data="silent.jsonl"), tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "pair"}, "legal are roles, single, multi-task"),
        ({"tokens": 0}, "tokens is 0"),
        ({"stage_one_share": 1.0}, "between 0 and 1"),
    ],
)
def test_options_that_mean_nothing_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        RolesOptions(**change)


def test_max_steps_is_refused_since_stages_differ_in_size(folder, tmp_path):
    with pytest.raises(ConfigError, match="give tokens for all of them"):
        recipe(folder, tmp_path / "out", train={"max_steps": 3})


def test_a_folder_without_trained_roles_says_what_makes_one(tmp_path):
    with pytest.raises(ConfigError, match="agent-finetune roles train"):
        read_manifest(tmp_path)
    (tmp_path / "roles.json").write_text('{"version": 2}')
    with pytest.raises(ConfigError, match="version 2; this release knows 1"):
        read_manifest(tmp_path)
    (tmp_path / "roles.json").write_text("[]")
    with pytest.raises(ConfigError, match="not written by agent-finetune"):
        read_manifest(tmp_path)


def test_one_file_of_settings_holds_the_whole_recipe(folder, tmp_path, capsys):
    out = tmp_path / "out"
    (tmp_path / "roles.toml").write_text(
        f'model = "{folder / "model"}"\ndata = "{folder / "rows.jsonl"}"\nout = "{out}"\n'
        'device = "cpu"\ndtype = "float32"\nrank = 2\nbatch_size = 4\n'
        "[planner]\nepochs = 2\n[summarizer]\nlearning_rate = 1e-5\n"
    )
    code = cli.main(["roles", "train", "--config", str(tmp_path / "roles.toml"), "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    assert {s["name"]: s["steps"] for s in answer["stages"]} == {
        "backbone": 2,
        "planner": 4,
        "caller": 1,
        "summarizer": 1,
    }
    assert run_of(out / "summarizer")["config"]["train"]["learning_rate"] == 1e-5

    code = cli.main(
        [
            *("roles", "eval", "--folder", str(out), "--data", str(folder / "rows.jsonl")),
            *("--limit", "1", "--max-new-tokens", "8", "--out", str(tmp_path / "found")),
        ]
    )
    assert code == 0
    assert "Plan ACC" in capsys.readouterr().out
    assert (tmp_path / "found/runs/metrics.json").exists()


def test_a_misspelt_stage_in_the_file_is_refused(folder, tmp_path, capsys):
    (tmp_path / "roles.toml").write_text("[planer]\nepochs = 2\n")
    code = cli.main(["roles", "train", "--config", str(tmp_path / "roles.toml")])
    assert code == 2
    assert "unknown key 'planer'" in capsys.readouterr().err


def test_the_four_sets_are_written_for_other_trainers(folder, tmp_path, capsys):
    words = ["--data", str(folder / "rows.jsonl"), "--out", str(tmp_path / "sets"), "--json"]
    assert cli.main(["roles", "data", *words]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows == {"backbone": 8, "planner": 8, "caller": 4, "summarizer": 4}
    assert len((tmp_path / "sets/caller.jsonl").read_text().splitlines()) == 4
