"""What a config of AutoGen says about a local model."""

import pytest
from live_engines import make_adapter

from agent_finetune.errors import ConfigError
from agent_finetune.testing import save_tiny_model
from autogen_finetune.config import read_config


def test_model_adapter_and_generation_are_told_apart():
    entry = {"model": "m", "dtype": "float32", "adapter": "helper", "max_tokens": 7, "stop": "END"}
    config = read_config(entry)
    assert (config.model.model, config.model.dtype, config.model.adapter) == ("m", "float32", None)
    assert config.adapter == "helper"
    assert config.generation == {"max_new_tokens": 7, "stop": ("END",)}


def test_the_folder_of_an_adapter_is_where_the_agent_begins(tmp_path):
    folder = make_adapter(save_tiny_model(tmp_path / "model"), tmp_path / "adapter", seed=1)
    config = read_config({"model": "m", "adapter": str(folder)})
    assert (config.adapter, config.model.adapter) == (None, str(folder))


def test_keys_may_be_nested_where_a_host_refuses_what_it_does_not_know():
    flat = read_config({"model": "m", "device": "cpu", "temperature": 0.5})
    assert read_config({"model": "m", "extra_body": {"device": "cpu", "temperature": 0.5}}) == flat
    assert read_config({"model": "m", "device": "cpu", "params": {"temperature": 0.5}}) == flat


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"model": "m", "modle": "x"}, "no key 'modle' is known; legal are adapter, "),
        ({"device": "cpu"}, "no model"),
        ({"model": "m", "max_tokens": 1, "max_new_tokens": 2}, "max_new_tokens is 1 and, as max_"),
        ({"model": "m", "seed": 1, "extra_body": {"seed": 2}}, "seed is 1 and in extra_body 2"),
        ({"model": "m", "extra_body": "x"}, "extra_body is 'x'; it must be an object"),
    ],
)
def test_what_cannot_be_meant_is_one_clear_error(entry, message):
    with pytest.raises(ConfigError, match=message):
        read_config(entry)


def test_keys_of_the_host_are_passed_over():
    entry = {"model": "m", "api_type": "openai", "tags": ["a"]}
    assert read_config(entry, ignored=("api_type", "tags")) == read_config({"model": "m"})
