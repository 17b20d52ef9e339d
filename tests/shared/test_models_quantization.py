import logging

import pytest
import torch

from agent_finetune import plugins
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import EngineConfig, Settings
from agent_finetune.engine import registry
from agent_finetune.errors import ConfigError, ModelError
from agent_finetune.models import quantization
from agent_finetune.models.quantization import quantization_config
from agent_finetune.testing import save_tiny_model

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 6, 7, 8]])


def held(quantization, **four_bits):
    return ModelConfig(model="m", quantization=quantization, **four_bits)


@pytest.fixture
def load(tmp_path):
    folder = save_tiny_model(tmp_path / "tiny")

    def load(name, **four_bits):
        config = ModelConfig(
            model=str(folder), device="cpu", dtype="float32", quantization=name, **four_bits
        )
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
    assert quantization_config(held("none"), torch.float32, CPU) is None


def test_quantization_without_bitsandbytes_names_the_extra(monkeypatch):
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r'run pip install -e "shared\[quantization\]"'):
        quantization_config(held("4bit"), torch.float32, CPU)


def test_a_quantization_that_the_device_cannot_do_is_refused_by_name():
    pytest.importorskip("bitsandbytes")
    # A device that torch knows and bitsandbytes does not, and that is on every machine.
    with pytest.raises(ModelError, match="quantization '8bit' does not work on device meta"):
        quantization_config(held("8bit"), torch.float32, torch.device("meta"))


def test_trying_a_quantization_does_not_move_the_random_numbers():
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    want = torch.rand(1)
    torch.manual_seed(0)
    config = quantization_config(held("4bit"), torch.bfloat16, CPU)
    assert torch.rand(1) == want
    assert config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype is torch.bfloat16


def test_weights_that_are_held_otherwise_are_called_otherwise():
    assert held("none", four_bit_type="fp4").held_as == "none"
    assert held("8bit", double_quantization=False).held_as == "8bit"
    fours = [("nf4", True), ("nf4", False), ("fp4", True), ("fp4", False)]
    names = [held("4bit", four_bit_type=t, double_quantization=d).held_as for t, d in fours]
    assert names == ["4bit", "4bit-single", "4bit-fp4", "4bit-fp4-single"]


def test_engines_share_weights_only_if_they_hold_them_alike(tmp_path):
    folder = save_tiny_model(tmp_path / "tiny")
    settings = Settings(cache_dir=tmp_path / "cache")
    said = [{}, {"four_bit_type": "fp4"}, {"double_quantization": False}, {}]
    workers = [
        registry.find(
            EngineConfig(
                model=ModelConfig(model=str(folder), device="cpu", quantization="4bit", **each)
            ),
            settings,
        )
        for each in said
    ]
    assert workers[0] is workers[3]
    assert len(set(workers)) == 3


def test_a_kind_of_four_bits_that_there_is_not_is_refused():
    with pytest.raises(ConfigError, match="four_bit_type is 'int4'; legal values are nf4, fp4"):
        held("4bit", four_bit_type="int4")


@pytest.mark.parametrize(("kind", "double"), [("nf4", False), ("fp4", True), ("fp4", False)])
def test_the_four_bits_asked_for_are_those_that_are_held(load, kind, double):
    pytest.importorskip("bitsandbytes")
    model = load("4bit", four_bit_type=kind, double_quantization=double)
    state = model.model.layers[0].mlp.up_proj.weight.quant_state
    assert (state.quant_type, state.nested) == (kind, double)
    assert torch.isfinite(model(IDS).logits).all()


def test_four_bits_of_another_kind_compute_something_else(load):
    pytest.importorskip("bitsandbytes")
    with torch.no_grad():
        kinds = [load("4bit", four_bit_type=kind)(IDS).logits for kind in ("nf4", "fp4")]
    assert not torch.equal(*kinds)


def test_eight_bit_does_not_warn_at_every_layer(caplog):
    pytest.importorskip("bitsandbytes")
    with caplog.at_level(logging.WARNING):
        assert quantization_config(held("8bit"), torch.bfloat16, CPU).load_in_8bit
    assert not caplog.records
