"""What a run of `agent-sft` leaves behind for others, and sending it to ModelScope's hub."""

import json

import modelscope_hub_stand_in as stand_in
import pytest
from modelscope_trainers import conversations, tiny_folder
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

import modelscope_agent_train as package
from agent_finetune import adapters
from agent_finetune.errors import ConfigError, ModelError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # whoever runs this may have a .env
    with stand_in.serving() as serving:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", serving.url)
        monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("MODELSCOPE_API_TOKEN", "")
        yield serving


def build(folder, tmp_path, *, hook=None, **arguments):
    def modify(cfg):
        cfg.train.optimizer.lr = 1e-2
        cfg.train.checkpoint = {"period": {"interval": 1, **(hook or {})}}
        return cfg

    return package.build_trainer(
        default_args={
            "model": str(folder),
            "train_dataset": conversations(2),
            "work_dir": str(tmp_path / "run"),
            "max_epochs": 1,
            "cfg_modify_fn": modify,
            **arguments,
        }
    )


def sending(**more):
    return {"push_to_hub": True, "hub_repo_id": "me/tools", "hub_token": stand_in.TOKEN, **more}


def test_a_trained_adapter_is_described_in_the_run_and_in_its_output(folder, tmp_path):
    tuner = package.LoRAConfig(rank=2, replace_modules=["q_proj"])
    trainer = build(
        folder, tmp_path, efficient_tuners=tuner, eval_dataset=conversations(1, start=2)
    )
    result = trainer.train()
    output = tmp_path / "run" / "output"
    assert AutoPeftModelForCausalLM.from_pretrained(output).peft_config["default"].r == 2
    card = (output / "README.md").read_text("utf-8")
    assert "| lora_rank | 2 |" in card
    assert "| steps | 2, loss" in card
    assert "| ppl |" in card
    assert "agent-ppl" not in card
    configuration = json.loads((output / "configuration.json").read_text())
    assert configuration == {"framework": "pytorch", "task": "chat"}
    assert json.loads((output / "eval_result.json").read_text()) == trainer.metric_values
    for name, content in stand_in.files_of(result.adapter_dir).items():
        assert (output / name).read_bytes() == content
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["adapter_digest"] == adapters.digest(result.adapter_dir)


def test_the_configuration_of_the_run_is_kept_without_what_is_secret(folder, tmp_path):
    class Mine:
        token = "not looked at"

    build(folder, tmp_path, hook={"hub_token": stand_in.TOKEN}, callbacks=Mine()).train()
    text = (tmp_path / "run" / "train_configuration.json").read_text()
    assert stand_in.TOKEN not in text
    assert json.loads(text)["train"]["optimizer"]["lr"] == 1e-2
    for file in (tmp_path / "run").rglob("*.json"):
        assert stand_in.TOKEN not in file.read_text("utf-8"), file


def test_an_output_elsewhere_has_its_own_text_files(folder, tmp_path):
    hook = {"output_dir": str(tmp_path / "elsewhere" / "model")}
    result = build(folder, tmp_path, hook=hook).train()
    output = tmp_path / "elsewhere" / "model"
    with (output / "README.md").open("a") as card:
        card.write("\nMine.\n")
    assert "Mine." not in (result.adapter_dir / "README.md").read_text()
    AutoModelForCausalLM.from_pretrained(output)


def test_a_result_is_sent_to_the_hub_where_the_hook_asks_for_it(folder, tmp_path, site, caplog):
    hook = sending(private_hub=False, hub_revision="v2", upload_strategy="wait")
    trainer = build(folder, tmp_path, hook=hook)
    assert any("upload_strategy: no effect" in note for note in trainer.translation.notes)
    result = trainer.train()
    repo = site.repos["models/me/tools"]
    assert repo.visibility == 5
    weights = stand_in.files_of(result.adapter_dir)
    sent = repo.revisions["v2"]
    assert sent["model.safetensors"] == weights["model.safetensors"]
    assert {"README.md", "configuration.json", "tokenizer.json"} <= sent.keys() <= weights.keys()
    assert all(asked.token == stand_in.TOKEN for asked in site.asked)
    assert f"sent to: {site.url}/models/me/tools" in caplog.text
    assert stand_in.TOKEN not in caplog.text


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"hub_token": None}, ConfigError, "there is no token"),
        ({"hub_token": "ms-wrong"}, ModelError, "me/tools"),
        ({"hub_repo_id": "tools"}, ConfigError, "owner/name"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_the_run(
    folder, tmp_path, site, more, error, message
):
    trainer = build(folder, tmp_path, hook=sending(**more))
    with pytest.raises(error, match=message):
        trainer.train()
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_hub_that_breaks_off_is_an_error_and_the_output_is_there(folder, tmp_path, site):
    class Breaking:
        def after_run(self, trainer):
            site.status = 500
            site.repos["models/me/tools"] = stand_in.Repo(revisions={"master": {}})

    trainer = build(folder, tmp_path, hook=sending(), callbacks=Breaking())
    with pytest.raises(ModelError, match="me/tools"):
        trainer.train()
    assert (tmp_path / "run" / "output" / "model.safetensors").is_file()
