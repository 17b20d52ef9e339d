import logging

import pytest
import torch

from agent_finetune import plugins
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import ModelError
from agent_finetune.models import quantization
from agent_finetune.models.quantization import quantization_config
from agent_finetune.testing import save_tiny_model

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture
def load(tmp_path):
    folder = save_tiny_model(tmp_path / "tiny")

    def load(name):
        config = ModelConfig(model=str(folder), device="cpu", dtype="float32", quantization=name)
        return plugins.load_model(config, Settings(cache_dir=tmp_path / "cache")).model

    return load


@pytest.mark.parametrize(("name", "layer"), [("4bit", "Linear4bit"), ("8bit", "Linear8bitLt")])
def test_a_quantized_model_computes_about_the_same_on_the_cpu(load, name, layer):
    pytest.importorskip("bitsandbytes")
    model = load(name)
    assert type(model.model.layers[0].mlp.up_proj).__name__ == layer
    with torch.no_grad():
        got, exact = model(IDS).logits, load("none")(IDS).logits
    assert torch.nn.functional.cosine_similarity(got, exact, dim=-1).min() > 0.9


def gradient(model):
    """Of the embedding, which lies below every quantized layer."""
    embedding = model.get_input_embeddings().weight
    embedding.requires_grad_()
    embedding.grad = None
    model.train()
    model(IDS, labels=IDS).loss.backward()
    return embedding.grad.clone()


@pytest.mark.parametrize("name", ["4bit", "8bit"])
def test_gradients_flow_after_the_model_has_generated(load, name):
    pytest.importorskip("bitsandbytes")
    model = load(name)
    want = gradient(model)
    assert want.abs().sum() > 0
    model.eval()
    with torch.no_grad():
        model.generate(IDS, max_new_tokens=2, do_sample=False)
    torch.testing.assert_close(gradient(model), want)


def test_no_quantization_needs_nothing():
    assert quantization_config("none", torch.float32, CPU) is None


def test_quantization_without_bitsandbytes_names_the_extra(monkeypatch):
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r'run pip install -e "shared\[quantization\]"'):
        quantization_config("4bit", torch.float32, CPU)


def test_a_quantization_that_the_device_cannot_do_is_refused_by_name():
    pytest.importorskip("bitsandbytes")
    # A device that torch knows and bitsandbytes does not, and that is on every machine.
    with pytest.raises(ModelError, match="quantization '8bit' does not work on device meta"):
        quantization_config("8bit", torch.float32, torch.device("meta"))


def test_trying_a_quantization_does_not_move_the_random_numbers():
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    want = torch.rand(1)
    torch.manual_seed(0)
    config = quantization_config("4bit", torch.bfloat16, CPU)
    assert torch.rand(1) == want
    assert config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype is torch.bfloat16


def test_eight_bit_does_not_warn_at_every_layer(caplog):
    pytest.importorskip("bitsandbytes")
    with caplog.at_level(logging.WARNING):
        assert quantization_config("8bit", torch.bfloat16, CPU).load_in_8bit
    assert not caplog.records
