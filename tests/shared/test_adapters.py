"""Adapters attach, travel through a folder, continue, and merge into plain Transformers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from agent_finetune import adapters, plugins, testing
from agent_finetune.config import AdapterConfig, ModelConfig
from agent_finetune.contracts import LoadedModel, ResolvedModel, Settings
from agent_finetune.errors import ConfigError, ModelError
from agent_finetune.hookspecs import hookimpl

IDS = torch.tensor([[11, 12, 13, 14, 15]])


def load(folder, config=None):
    """A base in float32, as `models.load_base` gives it."""
    return LoadedModel(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        resolved=ResolvedModel(name=str(folder), location=str(folder)),
        config=config or ModelConfig(model=str(folder), device="cpu"),
        device="cpu",
        dtype="float32",
        digest="sha256:0",
    )


class Loader:
    """Answers the model hooks for folders, so that these tests need no model loading."""

    @hookimpl
    def finetune_resolve_model(self, name, revision):
        return ResolvedModel(name=name, location=name) if Path(name).is_dir() else None

    @hookimpl
    def finetune_load_model(self, config):
        return load(config.model, config)


@pytest.fixture(autouse=True)
def _loader():
    with plugins.registered(Loader(), "loader"):
        yield


@pytest.fixture
def base(tmp_path):
    return testing.save_tiny_model(tmp_path / "base")


@pytest.fixture
def adapter(base, tmp_path):
    """An adapter that changes answers, with a chat template of its own."""
    loaded = load(base)
    model = adapters.attach(loaded, AdapterConfig(rank=4))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    loaded.tokenizer.chat_template = "adapted"
    adapters.save(model, loaded.tokenizer, tmp_path / "adapter")
    return tmp_path / "adapter"


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def opened(adapter, base, **options):
    config = ModelConfig(model=str(base), adapter=str(adapter), device="cpu")
    return adapters.open_model(config, Settings(), **options)


def test_a_new_adapter_changes_nothing_and_is_all_that_trains(base):
    before = logits(load(base).model)
    model = adapters.attach(load(base), AdapterConfig(rank=4, alpha=8))
    assert torch.equal(logits(model), before)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.use_rslora) == (4, 8, False)


def test_all_linear_leaves_the_output_head_alone(base):
    model = adapters.attach(load(base), AdapterConfig())
    names = [name for name, _ in model.named_parameters() if "lora_" in name]
    assert not any("lm_head" in name for name in names)
    assert {"q_proj", "o_proj", "gate_proj", "down_proj"} <= {name.split(".")[-4] for name in names}


def test_the_seed_makes_the_adapter_and_the_global_generator_is_left_alone(base):
    def first_matrix(seed):
        model = adapters.attach(load(base), AdapterConfig(rank=4), seed=seed)
        return next(weight for name, weight in model.named_parameters() if "lora_A" in name)

    state = torch.get_rng_state()
    assert torch.equal(first_matrix(3), first_matrix(3))
    assert not torch.equal(first_matrix(3), first_matrix(4))
    assert torch.equal(torch.get_rng_state(), state)


def test_adapter_weights_of_a_bfloat16_base_are_float32(base):
    loaded = load(base)
    loaded.model.to(torch.bfloat16)
    model = adapters.attach(loaded, AdapterConfig(rank=4))
    kinds = {weight.dtype for weight in model.parameters() if weight.requires_grad}
    assert kinds == {torch.float32}


def test_options_reach_peft(base):
    config = AdapterConfig(rank=2, alpha=2.5, dropout=0.1, targets=("q_proj",), rslora=True)
    lora = adapters.attach(load(base), config).peft_config["default"]
    assert (lora.lora_alpha, lora.lora_dropout, lora.use_rslora) == (2.5, 0.1, True)
    assert lora.target_modules == {"q_proj"}


@pytest.mark.parametrize("target", ["q_prj", "lm_head", "proj"])
def test_a_target_that_matches_no_layer_is_an_error_that_lists_the_layers(base, target):
    with pytest.raises(ConfigError, match=rf"'{target}'.*legal are .*q_proj.*all-linear"):
        adapters.attach(load(base), AdapterConfig(targets=("q_proj", target)))


def test_an_adapter_loads_in_plain_peft(adapter, base):
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    assert torch.equal(logits(plain.eval()), logits(opened(adapter, base).model))
    assert not torch.equal(logits(plain), logits(load(base).model))
    described = json.loads((adapter / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == str(base.resolve())


def test_an_opened_adapter_brings_its_own_chat_template(adapter, base):
    loaded = opened(adapter, base)
    assert loaded.tokenizer.chat_template == "adapted"
    assert not loaded.model.training
    assert loaded.config.adapter == str(adapter)


def test_an_adapter_without_a_tokenizer_uses_the_bases(adapter, base):
    for path in adapter.glob("*token*"):
        path.unlink()
    assert opened(adapter, base).tokenizer.chat_template == testing.CHATML


def test_an_adapters_folder_stands_in_for_the_model(adapter, base):
    config = ModelConfig(model=str(adapter), device="cpu")
    loaded = adapters.open_model(config, Settings())
    assert loaded.config.model == str(base.resolve())
    assert torch.equal(logits(loaded.model), logits(opened(adapter, base).model))


def test_a_model_without_an_adapter_is_just_the_model(base):
    loaded = adapters.open_model(ModelConfig(model=str(base), device="cpu"), Settings())
    assert not isinstance(loaded.model, PeftModel)
    assert adapters.base_model(loaded.model) is loaded.model


def test_an_opened_adapter_trains_only_when_asked(adapter, base):
    def trains(loaded):
        return any(weight.requires_grad for weight in loaded.model.parameters())

    assert trains(opened(adapter, base, trainable=True))
    assert not trains(opened(adapter, base))


def test_a_merged_model_loads_in_plain_transformers_with_the_same_logits(adapter, base, tmp_path):
    out = adapters.merge(adapter, tmp_path / "merged", Settings())
    merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    assert torch.allclose(logits(merged), logits(opened(adapter, base).model), atol=1e-4)
    assert AutoTokenizer.from_pretrained(out).chat_template == "adapted"
    assert not (out / "adapter_config.json").exists()


def test_merging_overwrites_nothing(adapter, tmp_path):
    (tmp_path / "merged").mkdir()
    with pytest.raises(ConfigError, match="already there"):
        adapters.merge(adapter, tmp_path / "merged", Settings())


def test_merged_weights_keep_the_format_of_the_bases_files(tmp_path):
    tokenizer = testing.tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path / "short")
    testing.tiny_model(tokenizer).to(torch.bfloat16).save_pretrained(tmp_path / "short")
    asked = []

    class Watching(Loader):
        @hookimpl
        def finetune_load_model(self, config):
            asked.append(config.dtype)
            return load(config.model, config)

    loaded = load(tmp_path / "short")
    model = adapters.attach(loaded, AdapterConfig(rank=2))
    adapters.save(model, loaded.tokenizer, tmp_path / "adapter")
    with plugins.registered(Watching(), "watching"):
        adapters.merge(tmp_path / "adapter", tmp_path / "merged", Settings())
    assert asked == ["bfloat16"]


def test_an_adapter_folder_holds_weights_settings_and_tokenizer_and_no_empty_form(adapter):
    assert sorted(path.name for path in adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_digest_follows_weights_and_template_but_not_the_card(adapter):
    first = adapters.digest(adapter)
    assert first.startswith("sha256:")
    (adapter / "README.md").write_text("nicer words")
    assert adapters.digest(adapter) == first
    (adapter / "chat_template.jinja").write_text("other")
    assert adapters.digest(adapter) != first


def test_a_folder_without_an_adapter_is_named(base, tmp_path):
    with pytest.raises(ModelError, match="no adapter here"):
        opened(tmp_path / "nothing", base)


def test_an_unreadable_adapter_config_is_named(adapter, base):
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"adapter_config\.json: cannot be read"):
        opened(adapter, base)


def test_an_adapter_of_another_kind_is_refused(adapter, base):
    path = adapter / "adapter_config.json"
    path.write_text(path.read_text().replace('"LORA"', '"IA3"'))
    with pytest.raises(ModelError, match="'IA3'"):
        opened(adapter, base)


def test_an_adapter_of_another_base_is_refused(adapter, tmp_path):
    wider = testing.save_tiny_model(tmp_path / "wider", special=("<|im_start|>",))
    model = AutoModelForCausalLM.from_pretrained(wider)
    config = model.config
    config.hidden_size = 64
    type(model)(config).save_pretrained(wider)
    with pytest.raises(ModelError, match="does not fit"):
        opened(adapter, wider)


def test_an_adapter_that_names_no_base_cannot_stand_alone(adapter):
    path = adapter / "adapter_config.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps(described | {"base_model_name_or_path": None}))
    with pytest.raises(ModelError, match="names no base model"):
        adapters.open_model(ModelConfig(model=str(adapter)), Settings())


def test_the_base_is_named_as_the_user_typed_it_when_it_is_no_path(base):
    loaded = load(base)
    loaded = replace(
        loaded, resolved=ResolvedModel(name="smollm2-135m-instruct", location=str(base))
    )
    lora = adapters.attach(loaded, AdapterConfig(rank=2)).peft_config["default"]
    assert lora.base_model_name_or_path == "smollm2-135m-instruct"
