import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from agent_finetune import models, plugins
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import ModelError
from agent_finetune.testing import save_tiny_model, tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def settings(tmp_path):
    return Settings(cache_dir=tmp_path / "cache")


def load(folder, settings, **options):
    config = ModelConfig(model=str(folder), device="cpu", **{"dtype": "float32", **options})
    return plugins.load_model(config, settings)


def refusal(folder, settings, **options):
    with pytest.raises(ModelError) as caught:
        load(folder, settings, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def copy_of(folder, target):
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def edit_json(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_folder_loads_as_it_was_saved(tiny, settings):
    loaded = load(tiny, settings)
    want = tiny_model(loaded.tokenizer).state_dict()
    got = loaded.model.state_dict()
    assert all(torch.equal(got[name], weight) for name, weight in want.items())
    assert not loaded.model.training
    assert (loaded.device, loaded.dtype) == ("cpu", "float32")
    assert loaded.digest == models.load_base(loaded.config, loaded.resolved, settings).digest
    assert loaded.digest.startswith("sha256:")


def test_the_named_dtype_is_the_dtype_of_the_weights(tiny, settings):
    loaded = load(tiny, settings, dtype="bfloat16")
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.dtype == "bfloat16"


def test_the_default_is_what_suits_this_machine(tiny, settings):
    loaded = plugins.load_model(ModelConfig(model=str(tiny)), settings)
    assert loaded.model.device == torch.device(loaded.device)
    assert str(loaded.model.dtype) == f"torch.{loaded.dtype}"


def test_the_attention_can_be_named(tiny, settings):
    assert load(tiny, settings).model.config._attn_implementation == "sdpa"
    assert load(tiny, settings, attention="eager").model.config._attn_implementation == "eager"


def test_a_base_model_without_template_loads(tmp_path, settings):
    folder = save_tiny_model(tmp_path / "base", template=None)
    assert load(folder, settings).tokenizer.chat_template is None


def test_a_tokenizer_without_padding_pads_with_its_end_and_says_so(
    tiny, tmp_path, settings, caplog
):
    folder = copy_of(tiny, tmp_path / "m")
    edit_json(folder / "tokenizer_config.json", pad_token=None)
    with caplog.at_level(logging.INFO, "agent_finetune"):
        tokenizer = load(folder, settings).tokenizer
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    assert "has no padding token, '<|im_end|>' is used" in caplog.text


def test_a_tokenizer_with_neither_padding_nor_end_pads_with_unknown(tiny, tmp_path, settings):
    folder = copy_of(tiny, tmp_path / "m")
    edit_json(folder / "tokenizer_config.json", pad_token=None, eos_token=None)
    assert load(folder, settings).tokenizer.pad_token == "<unk>"


def test_a_tokenizer_with_nothing_to_pad_with_is_refused(tiny, tmp_path, settings):
    folder = copy_of(tiny, tmp_path / "m")
    edit_json(folder / "tokenizer_config.json", pad_token=None, eos_token=None, unk_token=None)
    assert "add pad_token to its tokenizer_config.json" in refusal(folder, settings)


def test_the_tokenizer_alone_is_the_one_that_comes_with_the_weights(tiny, settings):
    config = ModelConfig(model=str(tiny))
    alone = models.load_tokenizer(config, models.resolve(str(tiny), None, settings), settings)
    assert alone("a tool call").input_ids == load(tiny, settings).tokenizer("a tool call").input_ids


def test_generation_settings_are_left_alone(tiny, tmp_path, settings):
    folder = copy_of(tiny, tmp_path / "m")
    edit_json(folder / "generation_config.json", temperature=0.25, do_sample=True)
    assert load(folder, settings).model.generation_config.temperature == 0.25


def test_weights_with_holes_are_refused(tiny, tmp_path, settings):
    folder = copy_of(tiny, tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "its files lack 1 weights (model.layers.1.mlp.up_proj.weight)" in refusal(
        folder, settings
    )


def test_damaged_weights_are_told(tiny, tmp_path, settings):
    folder = copy_of(tiny, tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"\x00" * 100)
    assert f"model '{folder}' cannot be read: " in refusal(folder, settings)


def test_a_damaged_config_is_told(tiny, tmp_path, settings):
    folder = copy_of(tiny, tmp_path / "m")
    (folder / "config.json").write_text("{half")
    assert "cannot be read: " in refusal(folder, settings)


def test_a_model_that_is_no_language_model_is_told(tiny, tmp_path, settings):
    folder = copy_of(tiny, tmp_path / "m")
    edit_json(folder / "config.json", model_type="vit", architectures=["ViTModel"])
    assert "cannot be read: " in refusal(folder, settings)


def test_code_that_comes_with_a_model_is_not_run_unless_asked_for(tiny, tmp_path, settings):
    folder = copy_of(tiny, tmp_path / "m")
    edit_json(
        folder / "config.json",
        model_type="own",
        auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    )
    (folder / "own.py").write_text("raise SystemExit('this code was run')")
    said = refusal(folder, settings)
    assert "needs Python code that comes with it" in said
    assert "--trust-remote-code" in said
    with pytest.raises(SystemExit, match="this code was run"):
        load(folder, settings, trust_remote_code=True)


def test_loading_puts_the_logging_of_transformers_back(tiny, settings, capfd):
    transformers_logging.set_verbosity_info()
    try:
        load(tiny, settings)
        assert transformers_logging.get_verbosity() == transformers_logging.INFO
        assert transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.set_verbosity_warning()
    assert capfd.readouterr().err == ""


@pytest.mark.gpu
@pytest.mark.parametrize("quantization", ["none", "4bit", "8bit"])
def test_a_model_lies_on_the_gpu_and_computes_there(tiny, settings, quantization):
    config = ModelConfig(model=str(tiny), quantization=quantization)
    loaded = plugins.load_model(config, settings)
    assert loaded.device.startswith("cuda:")
    logits = loaded.model(torch.tensor([[5, 6, 7]], device=loaded.device)).logits
    assert torch.isfinite(logits).all()


@pytest.mark.gpu
def test_a_model_too_large_for_the_gpu_says_so(tiny, settings, monkeypatch):
    total = torch.cuda.get_device_properties(0).total_memory
    hog = torch.empty(1 << 20, device="cuda")
    torch.cuda.set_per_process_memory_fraction(hog.numel() * 4 / total)
    try:
        with pytest.raises(ModelError, match="does not fit on device 'cuda'"):
            plugins.load_model(ModelConfig(model=str(tiny), device="cuda"), settings)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_the_saved_tokenizer_is_the_loaded_one(tiny, settings):
    text = 'What is the weather in Paris? {"name": "get_weather"}'
    assert (
        load(tiny, settings).tokenizer(text).input_ids
        == AutoTokenizer.from_pretrained(tiny)(text).input_ids
    )


def test_a_cache_that_cannot_be_written_is_told(tiny, tmp_path):
    (tmp_path / "file").write_text("in the way")
    said = refusal(tiny, Settings(cache_dir=tmp_path / "file" / "cache"))
    assert "Not a directory" in said
