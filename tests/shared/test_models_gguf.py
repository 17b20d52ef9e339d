"""GGUF files, on a tiny Llama."""

import pytest
import torch

from agent_finetune import models, plugins
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import ModelError
from agent_finetune.settings import read_settings
from agent_finetune.testing import CHATML, tiny_model, tiny_tokenizer

pytest.importorskip("gguf")
from tiny_gguf import write_gguf

from agent_finetune.models import gguf as gguf_module


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_model(tokenizer)


@pytest.fixture
def settings(tmp_path):
    return Settings(cache_dir=tmp_path / "cache")


def load(path, settings, **options):
    config = ModelConfig(model=str(path), device="cpu", **{"dtype": "float32", **options})
    return plugins.load_model(config, settings)


def logits_of(model, tokenizer):
    ids = tokenizer("What is the weather in Paris?", return_tensors="pt").input_ids
    with torch.no_grad():
        return model(ids).logits


def test_a_gguf_file_computes_what_its_model_computes(tmp_path, model, tokenizer, settings):
    loaded = load(write_gguf(tmp_path / "m.gguf", model, tokenizer), settings)
    torch.testing.assert_close(
        logits_of(loaded.model, loaded.tokenizer), logits_of(model, tokenizer)
    )
    assert loaded.tokenizer.chat_template == CHATML
    assert loaded.tokenizer.eos_token == "<|im_end|>"


def test_a_packed_gguf_is_unpacked_trainable_and_saved_as_an_ordinary_model(
    tmp_path, model, tokenizer, settings
):
    loaded = load(write_gguf(tmp_path / "m.gguf", model, tokenizer, packed=True), settings)
    got, want = logits_of(loaded.model, loaded.tokenizer), logits_of(model, tokenizer)
    assert torch.nn.functional.cosine_similarity(got, want, dim=-1).min() > 0.99
    assert all(weight.is_floating_point() for weight in loaded.model.parameters())
    loaded.model(torch.tensor([[1, 2]]), labels=torch.tensor([[1, 2]])).loss.backward()
    loaded.model.save_pretrained(tmp_path / "saved")
    assert "quantization_config" not in (tmp_path / "saved" / "config.json").read_text()


def test_it_is_unpacked_once_and_known_by_the_hash_of_the_file(
    tmp_path, model, tokenizer, settings, monkeypatch
):
    path = write_gguf(tmp_path / "m.gguf", model, tokenizer)
    first = load(path, settings)
    folder = first.model.name_or_path
    for name in ("_convert", "_convert_tokenizer"):
        monkeypatch.setattr(gguf_module, name, lambda *_: pytest.fail("unpacked again"))
    second = load(path.rename(tmp_path / "other.gguf"), settings)
    assert second.model.name_or_path == folder
    assert first.digest == second.digest
    assert [p.name for p in settings.cache_dir.iterdir() if p.name.startswith(".")] == []


def test_unpacking_draws_no_bar_into_a_log(tmp_path, model, tokenizer, settings, capsys):
    load(write_gguf(tmp_path / "m.gguf", model, tokenizer), settings)
    assert "%|" not in capsys.readouterr().err


def test_each_dtype_is_unpacked_for_itself(tmp_path, model, tokenizer, settings):
    path = write_gguf(tmp_path / "m.gguf", model, tokenizer)
    assert load(path, settings).model.dtype is torch.float32
    assert load(path, settings, dtype="bfloat16").model.dtype is torch.bfloat16


def test_a_gguf_can_be_quantized_by_bitsandbytes(tmp_path, model, tokenizer, settings):
    pytest.importorskip("bitsandbytes")
    loaded = load(write_gguf(tmp_path / "m.gguf", model, tokenizer), settings, quantization="4bit")
    assert torch.isfinite(logits_of(loaded.model, loaded.tokenizer)).all()


def test_what_a_killed_conversion_left_behind_is_cleared(tmp_path, model, tokenizer, settings):
    path = write_gguf(tmp_path / "m.gguf", model, tokenizer)
    folder = settings.cache_dir / load(path, settings).model.name_or_path
    half = folder.rename(folder.with_name(f".{folder.name}.abc.tmp"))
    load(path, settings)
    assert folder.is_dir()
    assert not half.exists()


def test_the_tokenizer_alone_is_the_one_of_the_unpacked_model(tmp_path, model, tokenizer, settings):
    path = write_gguf(tmp_path / "m.gguf", model, tokenizer, pre="smollm")
    config = ModelConfig(model=str(path))
    alone = models.load_tokenizer(config, models.resolve(str(path), None, settings), settings)
    assert [p.name.split("-")[2] for p in settings.cache_dir.glob("*/")] == ["tokenizer"]
    text = '<|im_start|>user\nIn  2024: {"n":  12}\n\n3<|im_end|>\n'
    assert alone(text).input_ids == load(path, settings).tokenizer(text).input_ids
    assert alone.decode(alone(text).input_ids) == text


@pytest.mark.parametrize(
    ("pre", "words"), [("smollm", ["a", "ĠĠ", "1", "2"]), ("gpt-2", ["a", "Ġ", "Ġ12"])]
)
def test_white_space_before_a_digit_is_cut_as_the_vocabulary_was_learned(
    tmp_path, model, tokenizer, settings, pre, words
):
    path = write_gguf(tmp_path / "m.gguf", model, tokenizer, pre=pre)
    cut = load(path, settings).tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")
    assert [word for word, _ in cut] == words


def test_a_truncated_gguf_is_told(tmp_path, model, tokenizer, settings):
    path = write_gguf(tmp_path / "m.gguf", model, tokenizer)
    for size in (20, 5000, path.stat().st_size - 1000):
        cut = tmp_path / f"cut{size}.gguf"
        cut.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ModelError, match=r"cut\d+\.gguf' cannot be read: "):
            load(cut, settings)


def test_without_the_package_the_extra_is_named(tmp_path, model, tokenizer, settings, monkeypatch):
    path = write_gguf(tmp_path / "m.gguf", model, tokenizer)
    monkeypatch.setattr(gguf_module, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r'run pip install -e "shared\[gguf\]"'):
        load(path, settings)


@pytest.mark.real
def test_the_shipped_model_answers():
    loaded = plugins.load_model(ModelConfig(model="smollm2-135m-instruct"), read_settings())
    ids = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France? One word."}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    ).to(loaded.device)
    answer = loaded.model.generate(**ids, max_new_tokens=12, do_sample=False)
    said = loaded.tokenizer.decode(answer[0, ids.input_ids.shape[1] :], skip_special_tokens=True)
    assert "Paris" in said
    assert loaded.digest.startswith("sha256:")
