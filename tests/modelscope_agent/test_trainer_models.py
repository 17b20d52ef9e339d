"""The model of a trainer, and the adapter that is put on it."""

import pytest
import torch
from modelscope_trainers import tiny_folder
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import modelscope_agent_train as package
from agent_finetune.config import AdapterConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError, ModelError
from modelscope_agent_train.tuners import adapter_config

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model"))


def loaded(model, **options):
    from modelscope_agent_train.native import models

    asked = {"revision": None, "device": "cpu", "dtype": "float32", "trust_remote_code": False}
    asked |= {"tokenizers": [], "adapter": None, "settings": Settings(), "seed": 1}
    return models.load(model, **(asked | options))


def test_a_module_is_taken_as_it_is_with_the_tokenizer_of_its_folder(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    found = loaded(model, device=None)
    assert found.model is model
    assert found.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(folder).get_vocab()
    assert found.dtype == "float32"  # the kernel has no name for the one it is in
    assert found.device == ("cuda:0" if torch.cuda.is_available() else "cpu")


def test_a_tokenizer_that_cannot_pad_pads_with_its_end(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    found = loaded(AutoModelForCausalLM.from_pretrained(folder), tokenizers=[None, tokenizer])
    assert found.tokenizer.pad_token == tokenizer.eos_token


def test_a_module_without_a_tokenizer_is_refused(folder):
    model = AutoModelForCausalLM.from_config(AutoModelForCausalLM.from_pretrained(folder).config)
    model.config.name_or_path = "nowhere"
    with pytest.raises(ConfigError, match="give tokenizer="):
        loaded(model)


def test_a_model_that_is_spread_over_devices_stays_where_it_is(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.hf_device_map = {"": "cpu"}
    assert loaded(model, device="cuda:77").device == "cpu"
    del model.hf_device_map
    with pytest.raises(ModelError, match="cuda:77"):
        loaded(model, device="cuda:77")


def test_two_adapters_on_one_model_are_refused(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    tuned = package.Swift.prepare_model(model, package.LoRAConfig(rank=2))
    assert isinstance(tuned, PeftModel)
    assert loaded(model).model is tuned
    with pytest.raises(ConfigError, match="give one"):
        loaded(tuned, adapter=AdapterConfig(rank=2))


def test_what_identifies_a_base_is_the_same_under_an_adapter(folder):
    plain = loaded(AutoModelForCausalLM.from_pretrained(folder))
    model = AutoModelForCausalLM.from_pretrained(folder)
    package.Swift.prepare_model(model, package.LoRAConfig(replace_modules="q_proj", rank=2))
    assert loaded(model).digest == plain.digest


RIGHT = AdapterConfig(rank=4, alpha=8, dropout=0.0, targets=("k_proj", "q_proj"))


@pytest.mark.parametrize(
    "given",
    [
        RIGHT,
        package.LoRAConfig(
            replace_modules=["q_proj", "k_proj"], rank=4, lora_alpha=8, lora_dropout=0.0
        ),
        LoraConfig(r=4, lora_alpha=8, target_modules=["k_proj", "q_proj"], task_type="CAUSAL_LM"),
        {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["q_proj", "k_proj"]},
        {"default": RIGHT},
    ],
)
def test_an_adapter_is_asked_for_in_the_words_of_each_library(given):
    assert adapter_config(given) == RIGHT


def test_an_adapter_of_peft_may_be_dora():
    assert adapter_config(LoraConfig(use_dora=True)).dora
    assert adapter_config({"use_dora": True}).dora


def test_an_adapter_of_peft_without_layers_is_one_of_all_linear_layers():
    assert adapter_config(LoraConfig(r=4)).targets == ("all-linear",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "legal are LoRAConfig"),
        ({"rnk": 1, "alpha": 2}, "'rnk'"),
        (LoraConfig(bias="all"), "bias is 'all'"),
    ],
)
def test_an_adapter_that_is_not_made_here_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        adapter_config(given)


def test_an_argument_of_swift_that_would_do_nothing_is_refused(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(ConfigError, match="adapter_name not known"):
        package.Swift.prepare_model(model, package.LoRAConfig(), adapter_name="x")
