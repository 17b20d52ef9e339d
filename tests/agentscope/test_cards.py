import asyncio
import json
import logging
import shutil

import pytest
import yaml
from agentscope.credential import CredentialFactory
from agentscope_models import ask, user
from live_engines import make_adapter
from talkative import save_talkative_model

from agent_finetune.contracts import Settings
from agentscope_finetune import cards
from agentscope_finetune.credential import TransformersCredential
from agentscope_finetune.model import TransformersChatModel
from agentscope_finetune.policy import allow_models

KNOWN = {
    "smollm2-135m-instruct": 8192,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 8192,
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": 8192,
    "Qwen/Qwen3-0.6B": 40960,
    "Qwen/Qwen3-1.7B": 40960,
    "Qwen/Qwen3-4B": 40960,
    "Qwen/Qwen2.5-0.5B-Instruct": 32768,
    "Qwen/Qwen2.5-1.5B-Instruct": 32768,
    "meta-llama/Llama-3.2-1B-Instruct": 131072,
    "meta-llama/Llama-3.2-3B-Instruct": 131072,
    "google/gemma-3-1b-it": 32768,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_talkative_model(tmp_path_factory.mktemp("talkative"))


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory):
    """Where a run has left its adapter."""
    run = tmp_path_factory.mktemp("runs") / "sft_helper"
    make_adapter(model, run / "adapter", seed=1)
    (run / "run.json").write_text("{}")
    (run / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    shutil.copytree(run / "adapter", run / "checkpoints" / "checkpoint-1", dirs_exist_ok=True)
    return run


@pytest.fixture(autouse=True)
def _nothing_allowed():
    allow_models()
    yield
    allow_models()


def listed():
    return {card.name: card for card in TransformersChatModel.list_models()}


def local():
    return {name: card for name, card in listed().items() if name not in KNOWN}


def test_well_known_small_models_are_listed_with_their_true_contexts():
    assert {name: card.context_size for name, card in listed().items()} == KNOWN
    assert all(card.output_size <= card.context_size for card in listed().values())
    assert all(card.input_types == ["text/plain"] for card in listed().values())


def test_a_credential_lists_them_as_the_service_asks():
    provider = CredentialFactory.get_credential_class("transformers_credential")
    assert {card.name for card in provider.list_models()} == set(KNOWN)


def test_only_models_that_think_are_asked_whether_they_should():
    for name, card in listed().items():
        thinks = "thinking_enable" in card.parameter_schema["properties"]
        assert thinks == ("Qwen3" in name)


def test_a_cards_parameters_are_those_of_the_model():
    card = listed()["Qwen/Qwen3-0.6B"]
    assert set(card.parameter_schema["properties"]) == set(
        TransformersChatModel.Parameters.model_fields
    )
    assert card.parameter_schema["properties"]["max_tokens"]["maximum"] == 32768


def test_nothing_of_this_disk_is_listed_until_a_root_is_allowed(model):
    assert not local()
    allow_models(roots=[model.parent])
    assert str(model) in local()


def test_checkpoints_and_trained_runs_are_listed_by_what_model_takes(model, trained):
    allow_models(roots=[model, trained.parent])
    found = local()
    adapter = str(trained / "adapter")
    assert set(found) == {str(model), adapter}
    assert found[adapter].label == f"sft_helper on {model.name}"
    assert {card.context_size for card in found.values()} == {2048}


def test_what_a_card_names_can_be_built_and_asked_as_a_service_does(model, trained):
    allow_models(roots=[model, trained.parent])
    said = set()
    for card in local().values():
        made = TransformersChatModel(
            credential=TransformersCredential(),
            model=card.name,
            parameters=TransformersChatModel.Parameters(max_tokens=8),
            settings=Settings(),
        )
        made.context_size = card.context_size
        made.formatter.input_types = card.input_types
        said.add(asyncio.run(ask(made, user("hello")))[-1].content[0].text)
    assert len(said) == 2  # the adapter speaks otherwise


def test_a_root_that_is_a_model_itself_is_listed_by_its_own_name(model):
    allow_models(roots=[model])
    assert local()[str(model)].label == model.name


def test_a_folder_that_is_broken_is_told_of_and_the_others_are_listed(model, tmp_path, caplog):
    shutil.copytree(model, tmp_path / "good")
    for name, text in {"broken": "{", "silent": "{}"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("no json")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF")
    allow_models(roots=[tmp_path])
    with caplog.at_level(logging.WARNING, logger=cards.__name__):
        assert set(local()) == {str(tmp_path / "good")}
    for name in ("broken", "silent", "adapter", "cut.gguf"):
        assert str(tmp_path / name) in caplog.text


def test_an_adapter_whose_base_a_credential_may_not_reach_is_not_listed(trained):
    allow_models(roots=[trained.parent])
    assert not local()


def test_a_thinking_checkpoint_is_known_by_its_template(model, tmp_path):
    shutil.copytree(model, tmp_path / "thinker")
    (tmp_path / "thinker" / "chat_template.jinja").write_text("{% if enable_thinking %}<think>")
    allow_models(roots=[tmp_path])
    (card,) = local().values()
    assert "application/x-thinking" in card.output_types


def test_links_hidden_folders_and_what_lies_too_deep_are_passed_over(model, tmp_path):
    root = tmp_path / "root"
    deep = root.joinpath(*"abcdef")
    shutil.copytree(model, root / ".cache" / "model")
    shutil.copytree(model, deep)
    (root / "link").symlink_to(model)
    allow_models(roots=[root])
    assert not local()


def test_a_root_of_very_many_folders_is_looked_into_only_so_far(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(cards, "_MOST", 3)
    for name in "abcd":
        (tmp_path / name).mkdir()
    allow_models(roots=[tmp_path])
    assert not local()
    assert "more than 3 folders" in caplog.text


def test_what_was_found_is_answered_again_for_a_moment_and_then_looked_for(
    model, tmp_path, monkeypatch
):
    allow_models(roots=[tmp_path])
    assert not local()
    shutil.copytree(model, tmp_path / "new")
    assert not local()
    monkeypatch.setattr(cards, "_FRESH", 0.0)
    assert set(local()) == {str(tmp_path / "new")}


def test_cards_of_a_folder_of_ones_own_are_those_and_no_others(tmp_path, model):
    allow_models(roots=[model])
    card = {"name": "a/b", "label": "B", "context_size": 10, "output_size": 5}
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(card))
    (found,) = TransformersChatModel.list_models(str(tmp_path))
    assert (found.name, found.context_size) == ("a/b", 10)


def test_a_subclass_somewhere_else_lists_the_same():
    class Mine(TransformersChatModel):
        pass

    assert json.dumps([c.name for c in Mine.list_models()]) == json.dumps(list(listed()))
