import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import modelscope_hub_stand_in as stand_in
import pytest

from agent_finetune.config import AdapterConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
from agent_finetune.contracts import Secret, Settings
from agent_finetune.errors import ConfigError, ModelError
from agent_finetune.testing import save_tiny_model
from agent_finetune.train import job
from modelscope_agent_train import hub, outputs
from modelscope_agent_train.hub import HubSettings

# Loads each folder with what a user would take, and says what the model answers to some ids.
LOADING = """
import json, sys
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer
import modelscope
from modelscope.models import Model

adapter, model = sys.argv[1:]
IDS = {"input_ids": AutoTokenizer.from_pretrained(model)("hello", return_tensors="pt").input_ids}
said = {}

def note(name, model):
    said[name] = [type(model).__module__.partition(".")[0], model(**IDS).logits.sum().item()]

note("peft", AutoPeftModelForCausalLM.from_pretrained(adapter))
note("transformers, adapter", AutoModelForCausalLM.from_pretrained(adapter))
note("modelscope, adapter", modelscope.AutoModelForCausalLM.from_pretrained(adapter))
note("transformers", AutoModelForCausalLM.from_pretrained(model))
note("modelscope", modelscope.AutoModelForCausalLM.from_pretrained(model))
note("Model", Model.from_pretrained(model))
templates = {
    auto.from_pretrained(folder).chat_template
    for auto in (AutoTokenizer, modelscope.AutoTokenizer)
    for folder in (adapter, model)
}
said["templates"] = len(templates)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each method, as the kernel leaves it: an adapter, and a whole model."""
    folder = tmp_path_factory.mktemp("outputs")
    base = save_tiny_model(folder / "base")
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
    data = folder / "rows.jsonl"
    data.write_text(f"{json.dumps(row)}\n" * 4)
    for method in ("lora", "full"):
        config = RunConfig(
            model=ModelConfig(model=str(base), device="cpu", dtype="float32"),
            data=DataConfig(data=str(data)),
            out=str(folder / method),
            lora=AdapterConfig(rank=2),
            train=TrainConfig(method=method, max_steps=2, batch_size=2, learning_rate=1e-2),
        )
        job.run(config, Settings(cache_dir=folder / "cache"), report=lambda line: None)
    return folder


@pytest.fixture
def adapter(runs):
    return runs / "lora" / "adapter"


@pytest.fixture
def site():
    with stand_in.serving() as serving:
        yield serving


@pytest.fixture
def place(tmp_path, site, monkeypatch):
    monkeypatch.chdir(tmp_path)  # whoever runs this may have a .env
    return HubSettings(
        sites=(site.url,),
        cache_dir=tmp_path / "ms",
        home=tmp_path / "home",
        token=Secret(stand_in.TOKEN),
    )


@pytest.fixture(scope="module")
def loaded(runs):
    """What each loader gets out of the two folders, in a process without network."""
    adapter, model = runs / "lora" / "adapter", runs / "full" / "model"
    outputs.write_card_and_configuration(adapter)
    outputs.write_card_and_configuration(model)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOADING, str(adapter), str(model)],
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "MODELSCOPE_ENDPOINT": "http://127.0.0.1:9",
            "MODELSCOPE_CACHE": str(runs / "ms"),
        },
        cwd=runs,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_an_adapter_loads_in_peft_transformers_and_modelscope_alike(loaded):
    values = [loaded[name][1] for name in ("peft", "transformers, adapter", "modelscope, adapter")]
    assert values == pytest.approx([values[0]] * 3)


def test_a_whole_model_loads_in_transformers_and_modelscope_alike(loaded):
    values = [loaded[name][1] for name in ("transformers", "modelscope", "Model")]
    assert values == pytest.approx([values[0]] * 3)
    assert values[0] != pytest.approx(loaded["peft"][1])  # it learned otherwise
    assert loaded["templates"] == 1


def test_modelscope_takes_the_class_of_transformers_and_not_its_copy_of_2023(loaded):
    assert loaded["Model"][0] == loaded["modelscope"][0] == "transformers"


def test_the_card_says_what_was_learned_and_no_path_of_this_machine(runs, adapter):
    arguments = {
        "sft_type": "lora",
        "dataset": f"{runs / 'rows.jsonl'},damo/MSAgent-Bench#20",
        "learning_rate": 1e-4,
        "hub_token": "ms-secret",
        "output_dir": str(runs),
    }
    outputs.write_card_and_configuration(adapter, arguments=arguments, metrics={"accuracy": 0.75})
    card = (adapter / "README.md").read_text()
    for line in (
        "| base | base |",
        "| data | rows.jsonl, damo/MSAgent-Bench#20 |",
        "| learning_rate | 0.0001 |",
        "| accuracy | 0.75 |",
        "tasks:\n- text-generation",
    ):
        assert line in card
    assert "| learned from | 4 examples, " in card
    assert "| steps | 2, loss " in card
    assert str(runs) not in card
    assert "ms-secret" not in card
    assert json.loads((adapter / "configuration.json").read_text()) == {
        "framework": "pytorch",
        "task": "chat",
    }


def test_a_base_with_an_id_is_linked_and_its_snippet_needs_no_other_name(adapter, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "Qwen/Qwen3-0.6B"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    outputs.write_card_and_configuration(folder)
    card = (folder / "README.md").read_text()
    assert "base_model:\n- Qwen/Qwen3-0.6B\nbase_model_relation: adapter" in card
    assert "AutoPeftModelForCausalLM.from_pretrained(folder)" in card


def test_code_on_the_card_is_python(runs, adapter):
    for folder in (adapter, runs / "full" / "model"):
        outputs.write_card_and_configuration(folder)
        card = (folder / "README.md").read_text()
        code = card.partition("```python\n")[2].partition("```")[0]
        assert ".from_pretrained(folder)" in code
        compile(code, "card", "exec")


def test_a_folder_without_weights_gets_no_card(tmp_path):
    with pytest.raises(ConfigError, match=r"neither adapter_config\.json nor config\.json"):
        outputs.write_card_and_configuration(tmp_path)


# Sending


def test_what_was_sent_comes_back_the_same(site, place, adapter, capfd):
    outputs.write_card_and_configuration(adapter)
    before = stand_in.files_of(adapter)
    said = []
    address = outputs.push(adapter, "me/tools", settings=place, say=said.append)
    assert address == f"{site.url}/models/me/tools"
    assert site.repos["models/me/tools"].visibility == 1
    assert "a path of this machine" in said[0]
    assert stand_in.files_of(adapter) == before
    sent = site.repos["models/me/tools"].revisions["master"]
    assert sent == before
    assert all(asked.token == stand_in.TOKEN for asked in site.asked)
    told = capfd.readouterr()
    assert told.out == ""  # belongs to tables
    assert stand_in.TOKEN not in told.err


def test_a_model_that_was_sent_is_found_by_its_id(site, place, runs):
    model = runs / "full" / "model"
    outputs.write_card_and_configuration(model)
    outputs.push(model, "me/whole", private=False, settings=place)
    assert site.repos["models/me/whole"].visibility == 5
    found = hub.resolve("me/whole", settings=Settings(), hub_settings=place)
    weights = "model.safetensors"
    assert (Path(found.location) / weights).read_bytes() == (model / weights).read_bytes()


def test_pickles_and_optimizer_states_stay_here(site, place, runs, tmp_path):
    folder = tmp_path / "adapter"
    for name, content in stand_in.files_of(runs / "lora" / "adapter").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "optimizer.pt").write_bytes(b"\x80")
    (folder / ".env").write_text("TOKEN=1")
    outputs.push(folder, "me/tools", settings=place)
    sent = site.repos["models/me/tools"].revisions["master"]
    assert not {"optimizer.pt", ".env"} & set(sent)


def test_a_repository_that_is_there_gets_a_commit_on_the_branch_asked_for(site, place, adapter):
    site.add("me/tools", {"notes.txt": b"mine"})
    outputs.push(adapter, "me/tools", settings=place, revision="v2", message="second")
    repo = site.repos["models/me/tools"]
    assert repo.revisions["master"] == {"notes.txt": b"mine"}
    assert "adapter_model.safetensors" in repo.revisions["v2"]
    assert site.messages[0].startswith("second")


def test_a_push_without_a_token_is_refused_before_the_run(place):
    with pytest.raises(ConfigError, match="set MODELSCOPE_API_TOKEN"):
        outputs.check_push("me/tools", settings=HubSettings(sites=place.sites, home=place.home))


@pytest.mark.parametrize("id", [None, "", "tools", "me/", "a/b/c"])
def test_a_push_without_an_id_is_refused_before_the_run(place, id):
    with pytest.raises(ConfigError, match="legal is an id, owner/name"):
        outputs.check_push(id, settings=place)


def test_a_token_of_nobody_is_refused_before_the_run_and_not_shown(place, caplog):
    with caplog.at_level(logging.DEBUG), pytest.raises(ModelError) as told:
        outputs.check_push("me/tools", settings=place, token=Secret("ms-wrong"))
    assert "the token in MODELSCOPE_API_TOKEN does not open it" in str(told.value)
    assert "ms-wrong" not in f"{told.value!r}{caplog.text}"


def test_a_hub_that_is_away_is_told_before_the_run(place):
    away = HubSettings(sites=("http://127.0.0.1:9",), home=place.home, token=place.token)
    with pytest.raises(ModelError, match="cannot be reached"):
        outputs.check_push("me/tools", settings=away)
