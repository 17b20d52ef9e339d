"""Output folders of the 2024 example, made here as its code made them, are served as they were."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from agent_finetune import adapters, plugins
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import EngineConfig, Request, Settings
from agent_finetune.engine import registry
from agent_finetune.errors import ModelError
from agent_finetune.records import Message
from agent_finetune.testing import tiny_tokenizer
from agentscope_finetune.example2024 import load_model_configs
from agentscope_finetune.folders2024 import EMBEDDINGS, is_folder_2024, open_folder_2024

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::DeprecationWarning")

TOKENS = ["<|system|>", "<|user|>", "<|assistant|>"]
_TURN = "        {{{{ '<|{role}|>\\n' + message['content'] + eos_token }}}}\n"
TEMPLATE = (
    "{% for message in messages %}\n"
    + "".join(
        f"        {{% {'if' if role == 'user' else 'elif'} message['role'] == '{role}' %}}\n"
        + _TURN.format(role=role)
        for role in ("user", "system", "assistant")
    )
    + "        {% endif %}\n"
    "        {% if loop.last and add_generation_prompt %}\n"
    "        {{ '<|assistant|>' }}\n"
    "        {% endif %}\n"
    "        {% endfor %}"
)
"""The example's chat template; the spaces before each tag were part of what it trained on."""

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
}
KINDS = {
    "llama": (LlamaConfig, LlamaForCausalLM, False),
    "gemma": (GemmaConfig, GemmaForCausalLM, True),
}


@pytest.fixture
def settings(tmp_path):
    return Settings(offline=True, cache_dir=tmp_path / "cache")


@pytest.fixture
def engine_of(settings):
    """Open engines, and end them all."""
    yield lambda config: plugins.open_engine(EngineConfig(model=config), settings)
    registry.close_all()


def write_base(folder, kind="llama", *, template=None, extra_rows=0):
    tokenizer = tiny_tokenizer(special=(), eos="</s>", template=template, metaspace=True)
    config_class, model_class, tied = KINDS[kind]
    torch.manual_seed(3)
    model = model_class(
        config_class(
            vocab_size=len(tokenizer) + extra_rows,
            tie_word_embeddings=tied,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **SHAPE,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def set_up_chat(base):
    """Model and tokenizer as the example had them before it trained."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base)
    if tokenizer.chat_template is None:
        tokenizer.add_special_tokens({"additional_special_tokens": TOKENS})
        tokenizer.chat_template = TEMPLATE
        model.resize_token_embeddings(len(tokenizer))
        model.config.eos_token_id = tokenizer.eos_token_id
    return model, tokenizer


def randomize(model, part, std):
    torch.manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if part in name:
                weight.normal_(std=std)


def save(model, tokenizer, folder, **options):
    model.save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    torch.save(model.get_input_embeddings().weight.data.clone().detach(), folder / EMBEDDINGS)
    (folder / "log_history.json").write_text("[]")
    return folder


def write_adapter(base, folder, *, keep_head="auto"):
    """Train-like LoRA in the example's way; answer the model as it was when it was saved."""
    model, tokenizer = set_up_chat(base)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM"))
    randomize(model, "lora_B", 0.5)
    save(model.eval(), tokenizer, folder, save_embedding_layers=keep_head)
    return model


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits


def ids_of(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids


def serve(config, settings):
    config = ModelConfig(model=config.model, adapter=config.adapter, device="cpu", dtype="float32")
    return adapters.open_model(config, settings).model


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_with_new_tokens_computes_what_it_computed_in_2024(tmp_path, settings, kind):
    base = write_base(tmp_path / "base", kind)
    reference = write_adapter(base, tmp_path / "sft_base_2024")
    config = open_folder_2024(tmp_path / "sft_base_2024", None, settings)
    ids = ids_of(config.model)
    assert (config.adapter, ids.max() >= len(tiny_ids(base))) == (None, True)
    torch.testing.assert_close(
        logits(serve(config, settings), ids), logits(reference, ids), rtol=1e-4, atol=1e-5
    )


def tiny_ids(base):
    return AutoTokenizer.from_pretrained(base).get_vocab()


def test_where_the_heads_new_rows_were_not_saved_they_are_the_mean_of_the_others(
    tmp_path, settings
):
    base = write_base(tmp_path / "base")
    reference = write_adapter(base, tmp_path / "sft", keep_head=False)
    assert not any("head" in name for name in load_file(tmp_path / "sft/adapter_model.safetensors"))
    served = serve(open_folder_2024(tmp_path / "sft", None, settings), settings)
    old = len(tiny_ids(base))
    ids = ids_of(tmp_path / "sft")
    found, expected = logits(served, ids), logits(reference, ids)
    torch.testing.assert_close(found[..., :old], expected[..., :old], rtol=1e-4, atol=1e-5)
    mean = expected[..., :old].mean(dim=-1, keepdim=True).expand(-1, -1, len(TOKENS))
    torch.testing.assert_close(found[..., old:], mean, rtol=1e-4, atol=1e-5)


def test_a_padded_vocabulary_that_2024_cut_is_cut_again(tmp_path, settings):
    base = write_base(tmp_path / "base", "gemma", extra_rows=40)
    reference = write_adapter(base, tmp_path / "sft")
    config = open_folder_2024(tmp_path / "sft", None, settings)
    ids = ids_of(tmp_path / "sft")
    torch.testing.assert_close(
        logits(serve(config, settings), ids), logits(reference, ids), rtol=1e-4, atol=1e-5
    )


def test_what_is_made_is_a_plain_folder_and_is_made_once(tmp_path, settings):
    base = write_base(tmp_path / "base")
    write_adapter(base, tmp_path / "sft")
    config = open_folder_2024(tmp_path / "sft", None, settings)
    made = Path(config.model)
    assert made.is_relative_to(settings.cache_dir)
    assert not list(made.glob("*.pt"))
    assert not list(made.glob("adapter*"))
    tokenizer = AutoTokenizer.from_pretrained(made)
    assert tokenizer.chat_template == TEMPLATE
    assert AutoModelForCausalLM.from_pretrained(made).config.vocab_size == len(tokenizer)
    stamp = (made / "model.safetensors").stat().st_mtime_ns
    assert open_folder_2024(tmp_path / "sft", str(base), settings) == config
    assert (made / "model.safetensors").stat().st_mtime_ns == stamp
    assert [path.name for path in made.parent.iterdir()] == [made.name]


def test_another_adapter_makes_another_folder(tmp_path, settings):
    base = write_base(tmp_path / "base")
    write_adapter(base, tmp_path / "sft")
    first = open_folder_2024(tmp_path / "sft", None, settings)
    weights = load_file(tmp_path / "sft/adapter_model.safetensors")
    save_file({k: v * 2 for k, v in weights.items()}, tmp_path / "sft/adapter_model.safetensors")
    assert open_folder_2024(tmp_path / "sft", None, settings) != first


@pytest.mark.parametrize("kind", KINDS)
def test_an_agents_engine_answers_from_a_folder_of_2024(tmp_path, settings, kind, engine_of):
    base = write_base(tmp_path / "base", kind)
    reference = write_adapter(base, tmp_path / "sft")
    config = open_folder_2024(tmp_path / "sft", None, settings)
    engine = engine_of(
        ModelConfig(model=config.model, adapter=config.adapter, device="cpu", dtype="float32")
    )
    question = Message(role="user", text="What is the weather in Paris?")
    result = engine.generate(Request(messages=[question], max_new_tokens=6))
    ids = ids_of(tmp_path / "sft")
    assert result.message.generation.prompt_ids == tuple(ids[0].tolist())
    with torch.no_grad():
        expected = reference.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False
        )
    assert result.message.generation.ids == tuple(expected[0, ids.shape[1] :].tolist())


def test_a_base_with_a_chat_template_is_served_with_the_adapter_as_it_lies(
    tmp_path, settings, engine_of
):
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    base = write_base(tmp_path / "base", template=template)
    reference = write_adapter(base, tmp_path / "sft")
    config = open_folder_2024(tmp_path / "sft", None, settings)
    assert config == ModelConfig(model=str(base), adapter=str(tmp_path / "sft"))
    assert not settings.cache_dir.joinpath("folders2024").exists()
    ids = ids_of(tmp_path / "sft")
    torch.testing.assert_close(
        logits(serve(config, settings), ids), logits(reference, ids), rtol=1e-4, atol=1e-5
    )
    engine = engine_of(
        ModelConfig(model=config.model, adapter=config.adapter, device="cpu", dtype="float32")
    )
    assert engine.generate(
        Request(messages=[Message(role="user", text="hello")], max_new_tokens=2)
    ).usage.completion_tokens


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_was_trained_whole_is_served_as_it_lies(tmp_path, settings, kind):
    base = write_base(tmp_path / "base", kind)
    model, tokenizer = set_up_chat(base)
    randomize(model, "proj", 0.1)
    save(model.eval(), tokenizer, tmp_path / "sft")
    config = open_folder_2024(tmp_path / "sft", None, settings)
    assert config == ModelConfig(model=str(tmp_path / "sft"))
    ids = ids_of(tmp_path / "sft")
    torch.testing.assert_close(
        logits(serve(config, settings), ids), logits(model, ids), rtol=1e-4, atol=1e-5
    )


def test_the_base_can_be_elsewhere_than_the_adapter_says(tmp_path, settings):
    base = write_base(tmp_path / "base")
    write_adapter(base, tmp_path / "sft")
    moved = shutil.move(base, tmp_path / "moved")
    with pytest.raises(ModelError, match="no such file or folder"):
        open_folder_2024(tmp_path / "sft", None, settings)
    assert open_folder_2024(tmp_path / "sft", str(moved), settings).adapter is None


def test_another_folder_is_not_one_of_2024(tmp_path, settings):
    assert not is_folder_2024(tmp_path)
    with pytest.raises(ModelError, match=f"it has no {EMBEDDINGS}"):
        open_folder_2024(tmp_path, None, settings)


def damage_embeddings(sft):
    (sft / EMBEDDINGS).write_bytes(b"PK no")


def damage_shape(sft):
    torch.save(torch.zeros(700, 8), sft / EMBEDDINGS)


def damage_kind(sft):
    torch.save({"weight": torch.zeros(2, 2)}, sft / EMBEDDINGS)


def damage_code(sft):
    torch.save(Path("/tmp"), sft / EMBEDDINGS)


def damage_tokenizer(sft):
    (sft / "tokenizer_config.json").unlink()


def damage_weights(sft):
    (sft / "adapter_model.safetensors").unlink()


def damage_base(sft):
    config = json.loads((sft / "adapter_config.json").read_text())
    (sft / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": ""}))


def damage_targets(sft):
    config = json.loads((sft / "adapter_config.json").read_text())
    (sft / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["nothing"]}))


def damage_base_config(sft):
    (sft.parent / "base" / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_embeddings, f"{EMBEDDINGS}: cannot be read as one tensor"),
        (damage_code, f"{EMBEDDINGS}: cannot be read as one tensor"),
        (damage_kind, "holds dict; expected a matrix"),
        (damage_shape, r"\(700, 8\); expected at least \d+ rows, the tokenizer's, of 32 numbers"),
        (damage_tokenizer, "has no tokenizer"),
        (damage_weights, "adapters are read from this file only"),
        (damage_base, "names no base model"),
        (damage_base_config, "base '.*base': cannot be read"),
        (damage_targets, "does not fit its base"),
    ],
)
def test_a_damaged_folder_says_what_is_wrong_and_leaves_nothing(
    tmp_path, settings, damage, message
):
    base = write_base(tmp_path / "base")
    write_adapter(base, tmp_path / "sft")
    damage(tmp_path / "sft")
    with pytest.raises(ModelError, match=message):
        open_folder_2024(tmp_path / "sft", None, settings)
    assert not list(settings.cache_dir.glob("folders2024/*"))


def test_an_entry_of_model_configs_may_name_a_folder_of_2024(tmp_path, settings):
    base = write_base(tmp_path / "base")
    write_adapter(base, tmp_path / "sft")
    path = tmp_path / "model_configs.json"
    entry = {
        "model_type": "huggingface",
        "config_name": "old",
        "pretrained_model_name_or_path": str(base),
        "local_model_path": str(tmp_path / "sft"),
        "device": "cpu",
    }
    path.write_text(json.dumps([entry]))
    model = load_model_configs(path, settings=settings)["old"]
    assert model.model_config == replace(
        open_folder_2024(tmp_path / "sft", None, settings), device="cpu"
    )
