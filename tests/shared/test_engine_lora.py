import gc
import json
import warnings
from itertools import pairwise

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from agent_finetune import plugins
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Settings
from agent_finetune.engine.lora import AdapterBank
from agent_finetune.errors import ModelError
from agent_finetune.testing import save_tiny_model, tiny_model, tiny_tokenizer

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]])
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EVERYTHING = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


def llama():
    return tiny_model(tiny_tokenizer())


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    return GPT2LMHeadModel(config).eval()


def randomized(model, seed):
    """B starts as zero, which would prove nothing."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter) * 0.1
    return model


def save_adapter(folder, make=llama, seed=1, **options):
    options = {"r": 4, "target_modules": EVERYTHING, "task_type": "CAUSAL_LM"} | options
    with warnings.catch_warnings(action="ignore"):
        model = peft.get_peft_model(make(), peft.LoraConfig(**options))
        randomized(model, seed).save_pretrained(folder, save_embedding_layers=False)
    return folder


def peft_logits(folder, make=llama, ids=IDS, **options):
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        return peft.PeftModel.from_pretrained(make(), folder, **options).eval()(ids).logits


def logits(model, bank, segments, ids=IDS):
    with torch.no_grad(), bank.using(segments):
        return model(ids).logits


def bank_with(model, **folders):
    bank = AdapterBank(model)
    for key, folder in folders.items():
        bank.add(key, folder)
    return bank


def assert_served_as_by_peft(folder, make=llama):
    model = make()
    got = logits(model, bank_with(model, a=folder), [("a", IDS.numel())])
    assert not torch.allclose(got, model(IDS).logits, atol=1e-3)
    torch.testing.assert_close(got, peft_logits(folder, make), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"r": 1},
        {"r": 8, "lora_alpha": 16},
        {"r": 4, "lora_alpha": 16, "use_rslora": True},
        {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\..*": 3}},
        {"alpha_pattern": {"^model.layers.0.self_attn.k_proj": 32, "up_proj": 1}},
        {"use_rslora": True, "rank_pattern": {"v_proj": 9}, "alpha_pattern": {"v_proj": 5}},
        {"target_modules": r".*\.1\..*(q|down)_proj"},
        {"layers_to_transform": [1], "exclude_modules": ["o_proj"]},
        {"target_modules": "all-linear", "lora_dropout": 0.5},
        {"init_lora_weights": "gaussian", "task_type": None},
        {"use_dora": True},
        {"use_dora": True, "use_rslora": True, "lora_dropout": 0.5, "target_modules": ["q_proj"]},
    ],
    ids=str,
)
def test_one_adapter_gives_the_logits_of_peft(tmp_path, options):
    assert_served_as_by_peft(save_adapter(tmp_path, **options))


def test_layers_that_hold_their_weights_transposed_give_the_logits_of_peft(tmp_path):
    targets = ["c_attn", "c_proj", "c_fc"]
    folder = save_adapter(tmp_path / "lora", gpt2, target_modules=targets, fan_in_fan_out=True)
    assert_served_as_by_peft(folder, gpt2)
    dora = {"target_modules": targets, "fan_in_fan_out": True, "use_dora": True}
    assert_served_as_by_peft(save_adapter(tmp_path / "dora", gpt2, **dora), gpt2)


def test_what_is_said_of_the_layout_of_the_base_does_not_matter(tmp_path):
    # A GPT-2 in 4 bits has other layers than in 32, and an adapter goes from one to the other.
    folder = save_adapter(tmp_path, gpt2, target_modules=["c_attn"], fan_in_fan_out=True)
    edit_config(folder, fan_in_fan_out=False)
    assert_served_as_by_peft(folder, gpt2)


def test_a_padded_batch_counts_its_tokens_row_by_row(tmp_path):
    folder = save_adapter(tmp_path)
    model = llama()
    bank = bank_with(model, a=folder)
    rows = torch.cat([IDS, IDS.flip(1)])
    got = logits(model, bank, [("a", 12), (None, 12)], rows)
    torch.testing.assert_close(got[:1], peft_logits(folder), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[1:], model(IDS.flip(1)).logits, atol=1e-5, rtol=1e-5)


@pytest.fixture
def three(tmp_path):
    """Adapters of different ranks, layers and kinds: they share some layers and not others."""
    return {
        "a": save_adapter(tmp_path / "a", seed=1, r=2),
        "b": save_adapter(
            tmp_path / "b", seed=2, r=8, target_modules=ATTENTION, use_rslora=True, use_dora=True
        ),
        "c": save_adapter(tmp_path / "c", seed=3, r=3, rank_pattern={"q_proj": 5}),
    }


def hidden_after(model, layer_name, bank, segments, states):
    with torch.no_grad(), bank.using(segments):
        return model.get_submodule(layer_name)(states)


@pytest.mark.parametrize(
    "owners",
    [
        ["a", "b", "c", None],
        ["c", None, "a", "c", "b", "b", None, "a"],
        ["a", "c", "a"],  # the columns of b lie between them
        ["b", None],
        [None, "c", "c"],
    ],
)
def test_interleaved_rows_get_what_each_gets_alone(three, owners):
    model = llama()
    bank = bank_with(model, **three)
    torch.manual_seed(0)
    rows = [torch.randn(1, count, 32) for count in range(1, len(owners) + 1)]
    segments = [(key, row.shape[1]) for key, row in zip(owners, rows, strict=True)]
    for layer in ("q_proj", "v_proj"):
        name = f"model.layers.1.self_attn.{layer}"
        mixed = hidden_after(model, name, bank, segments, torch.cat(rows, dim=1))
        parts = mixed.split([count for _, count in segments], dim=1)
        for key, row, got in zip(owners, rows, parts, strict=True):
            alone = hidden_after(model, name, bank, [(key, row.shape[1])], row)
            torch.testing.assert_close(got, alone, atol=1e-5, rtol=1e-5)
            if key is None:
                torch.testing.assert_close(got, model.get_submodule(name)(row), atol=1e-5, rtol=0)


def test_whole_passes_of_mixed_rows_equal_peft_row_by_row(three):
    model = llama()
    bank = bank_with(model, **three)
    owners = ["b", None, "a", "c", "b"]
    rows = IDS.repeat(5, 1) + torch.arange(5)[:, None]
    got = logits(model, bank, [(key, 12) for key in owners], rows)
    for row, key in enumerate(owners):
        ids = rows[row : row + 1]
        want = model(ids).logits if key is None else peft_logits(three[key], ids=ids)
        torch.testing.assert_close(got[row : row + 1], want, atol=1e-5, rtol=1e-5)


def test_tokens_of_the_base_are_not_changed_by_a_bit(three):
    model = llama()
    bank = bank_with(model, **three)
    layer = "model.layers.0.mlp.up_proj"
    states = torch.randn(1, 6, 32)
    mixed = hidden_after(model, layer, bank, [("a", 2), (None, 2), ("c", 2)], states)
    with torch.no_grad():
        assert torch.equal(mixed[:, 2:4], model.get_submodule(layer)(states)[:, 2:4])


def test_numbers_too_large_of_one_adapter_do_not_reach_the_tokens_of_others(three, tmp_path):
    folder = save_adapter(tmp_path / "large", r=2)
    edit_tensors(folder, lambda name, tensor: tensor * (1e4 if "lora_A" in name else 1))
    model = llama().half()
    bank = bank_with(model, a=three["a"], large=folder)
    layer = "model.layers.0.mlp.up_proj"
    states = torch.full((1, 4, 32), 100.0, dtype=torch.float16)
    mixed = hidden_after(model, layer, bank, [("a", 1), (None, 1), ("large", 2)], states)
    assert not torch.isfinite(mixed[0, 2]).all()
    alone = hidden_after(model, layer, bank, [("a", 1)], states[:, :1])
    torch.testing.assert_close(mixed[:, :1], alone, atol=1e-2, rtol=1e-2)
    with torch.no_grad():
        assert torch.equal(mixed[:, 1], model.get_submodule(layer)(states)[:, 1])


def test_the_same_segments_again_and_others_after_them_are_each_served_right(three):
    model = llama()
    bank = bank_with(model, **three)
    for key in ("a", "a", "b", None, "a", "c"):
        want = model(IDS).logits if key is None else peft_logits(three[key])
        got = logits(model, bank, [(key, 5), (key, 0), (key, 7)])
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_more_mixtures_than_are_kept_are_served_right(three, monkeypatch):
    monkeypatch.setattr("agent_finetune.engine.lora.CUTS_KEPT", 1)
    model = llama()
    bank = bank_with(model, **three)
    for key in ("a", "b", "a"):
        torch.testing.assert_close(
            logits(model, bank, [(key, 12)]), peft_logits(three[key]), atol=1e-5, rtol=1e-5
        )


def test_adapters_come_and_go_while_others_stay(three):
    model = llama()
    bank = bank_with(model, a=three["a"], b=three["b"])
    logits(model, bank, [("a", 6), ("b", 6)])
    bank.add("c", three["c"])
    assert bank.keys() == ("a", "b", "c")
    bank.remove("b")
    for key in ("a", "c"):
        got = logits(model, bank, [(key, 12)])
        torch.testing.assert_close(got, peft_logits(three[key]), atol=1e-5, rtol=1e-5)
    bank.remove("a")
    bank.add("b", three["b"])
    assert bank.keys() == ("c", "b")
    rows = IDS.repeat(2, 1)
    got = logits(model, bank, [("b", 12), ("c", 12)], rows)
    torch.testing.assert_close(got[:1], peft_logits(three["b"]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[1:], peft_logits(three["c"]), atol=1e-5, rtol=1e-5)


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_an_empty_bank_leaves_no_hook_and_no_bytes(three):
    model = llama()
    before = model(IDS).logits
    bank = bank_with(model, **three)
    assert hooks(model) == 14
    for key in three:
        bank.remove(key)
    assert (hooks(model), bank.nbytes, bank.keys()) == (0, 0, ())
    assert torch.equal(logits(model, bank, [(None, 12)]), before)


def test_outside_of_a_pass_the_base_speaks_alone(three):
    model = llama()
    before = model(IDS).logits
    bank = bank_with(model, **three)
    with pytest.raises(ZeroDivisionError), bank.using([("a", 12)]):
        raise ZeroDivisionError
    assert torch.equal(model(IDS).logits, before)


def test_segments_that_do_not_add_up_are_told_by_the_first_layer(three):
    model = llama()
    bank = bank_with(model, **three)
    message = "layer model.layers.0.self_attn.q_proj computes 12 tokens and the segments count 11"
    with pytest.raises(ModelError, match=message):
        logits(model, bank, [("a", 4), (None, 7)])


def test_an_unknown_key_is_told_with_those_there_are(three):
    bank = bank_with(llama(), **three)
    with pytest.raises(KeyError, match="no adapter 'z'; there are a, b, c"), bank.using([("z", 1)]):
        pass
    with pytest.raises(KeyError):
        bank.remove("z")
    with pytest.raises(ValueError, match="'a' is held already"):
        bank.add("a", three["a"])


def test_the_bank_cannot_change_under_a_pass(three):
    bank = bank_with(llama(), a=three["a"])
    with bank.using([("a", 1)]):
        with pytest.raises(RuntimeError, match="in use"):
            bank.add("b", three["b"])
        with pytest.raises(RuntimeError, match="in use"):
            bank.remove("a")
        with pytest.raises(RuntimeError, match="in use"), bank.using([]):
            pass


# --- number formats and quantized bases


def test_a_bfloat16_base_holds_its_adapters_in_bfloat16(tmp_path):
    folder = save_adapter(tmp_path)
    model = llama().bfloat16()
    bank = bank_with(model, a=folder)
    numbers = sum(t.numel() for t in load_file(folder / "adapter_model.safetensors").values())
    assert bank.nbytes == 2 * numbers
    want = peft_logits(folder)
    torch.testing.assert_close(logits(model, bank, [("a", 12)]).float(), want, atol=0.05, rtol=0.05)


def test_another_number_format_may_be_chosen(tmp_path):
    folder = save_adapter(tmp_path)
    model = llama().bfloat16()
    bank = AdapterBank(model, dtype=torch.float32)
    bank.add("a", folder)
    short = bank_with(llama().bfloat16(), a=folder)
    assert bank.nbytes == 2 * short.nbytes
    got = logits(model, bank, [("a", 8), (None, 4)])
    assert got.dtype is torch.bfloat16
    want = peft_logits(folder)[:, :8]
    torch.testing.assert_close(got[:, :8].float(), want, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("quantization", "dora"), [("4bit", False), ("4bit", True), ("8bit", False)]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_quantized_base_gives_the_logits_of_peft(tmp_path, quantization, dtype, dora):
    pytest.importorskip("bitsandbytes")
    base = save_tiny_model(tmp_path / "tiny")

    def quantized():
        config = ModelConfig(model=str(base), device="cpu", dtype=dtype, quantization=quantization)
        return plugins.load_model(config, Settings(cache_dir=tmp_path / "cache")).model

    folder = save_adapter(tmp_path / "adapter", use_dora=dora)
    model = quantized()
    bank = bank_with(model, a=folder)
    assert {layer.down.dtype for layer in bank._layers.values()} == {getattr(torch, dtype)}
    want = peft_logits(folder, quantized, autocast_adapter_dtype=False).float()
    got = logits(model, bank, [("a", 12)]).float()
    close = {"float32": 1e-4, "bfloat16": 0.05}[dtype]
    torch.testing.assert_close(got, want, atol=close, rtol=close)
    mixed = logits(model, bank, [("a", 12), (None, 12)], IDS.repeat(2, 1)).float()
    torch.testing.assert_close(mixed[:1], want, atol=close, rtol=close)
    assert not torch.allclose(mixed[1:], want, atol=close, rtol=close)


# --- memory


def tensor_bytes():
    """Bytes of every tensor alive in this process, views and shared memory counted once."""
    gc.collect()
    storages = {
        item.untyped_storage().data_ptr(): item.untyped_storage().nbytes()
        for item in gc.get_objects()
        if issubclass(type(item), torch.Tensor)  # isinstance would ask lazy objects, which warn
    }
    return sum(storages.values())


def test_three_adapters_take_at_most_a_tenth_more_than_one_and_no_second_copy(tmp_path):
    def make():
        torch.manual_seed(0)
        size = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "vocab_size": 2048, "tie_word_embeddings": True}
        return LlamaForCausalLM(LlamaConfig(**size, **heads)).eval()

    folders = [save_adapter(tmp_path / str(n), make, seed=n, r=8) for n in range(3)]
    model = make()
    base = sum(parameter.nbytes for parameter in model.parameters())
    bank = AdapterBank(model)
    empty = tensor_bytes()
    held = []
    for number, folder in enumerate(folders):
        bank.add(str(number), folder)
        logits(model, bank, [(str(n), 1) for n in range(number + 1)], IDS[:, : number + 1])
        held.append(bank.nbytes)
    assert [later - earlier for earlier, later in pairwise(held)] == [held[0], held[0]]
    assert base + held[2] <= 1.1 * (base + held[0])
    # Beside the matrices live only the masks of the last pass and whose each column is.
    assert held[2] <= tensor_bytes() - empty < held[2] + 4096
    for number in range(3):
        bank.remove(str(number))
    assert tensor_bytes() == empty


# --- what is refused, and leaves the bank as it was


def edit_config(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_tensors(folder, change):
    path = folder / "adapter_model.safetensors"
    save_file({name: change(name, tensor) for name, tensor in load_file(path).items()}, path)


@pytest.fixture
def refused(three, tmp_path):
    """Tries to add a folder, and sees that the bank and its answers stay what they were."""
    model = llama()
    bank = bank_with(model, **three)
    rows, segments = IDS.repeat(3, 1), [(key, 12) for key in three]
    before = logits(model, bank, segments, rows), bank.nbytes, hooks(model)

    def refused(folder, message, error=ModelError):
        with pytest.raises(error, match=message):
            bank.add("new", folder)
        assert bank.keys() == ("a", "b", "c")
        assert (bank.nbytes, hooks(model)) == before[1:]
        assert torch.equal(logits(model, bank, segments, rows), before[0])

    return refused


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bias", "all"),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("layer_replication", [[0, 2], [0, 2]]),
        ("alora_invocation_tokens", [5, 6]),
        ("trainable_token_indices", [1, 2]),
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("use_qalora", True),
        ("megatron_config", {"a": 1}),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "loftq"),
        ("from_a_later_peft", 7),
    ],
)
def test_what_is_not_plain_lora_is_named_with_the_way_out(refused, tmp_path, name, value):
    folder = save_adapter(tmp_path / "new")
    edit_config(folder, **{name: value})
    refused(folder, f"not a plain LoRA adapter: {name} is .*agent-finetune merge --adapter")


def test_a_dora_adapter_without_its_magnitudes_is_refused(refused, tmp_path):
    folder = save_adapter(tmp_path / "new")
    edit_config(folder, use_dora=True)
    refused(folder, "lora_magnitude_vector of .* has shape None")


def test_magnitudes_of_an_adapter_that_is_no_dora_are_refused(refused, tmp_path):
    folder = save_adapter(tmp_path / "new", use_dora=True)
    edit_config(folder, use_dora=False)
    refused(folder, "holds what is not plain LoRA: .*lora_magnitude_vector")


def test_another_kind_of_adapter_is_refused(refused, tmp_path):
    config = peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules="down_proj")
    model = peft.get_peft_model(llama(), config)
    model.save_pretrained(tmp_path / "new", save_embedding_layers=False)
    refused(tmp_path / "new", "a 'IA3' adapter; only LORA is known")


def test_an_adapter_of_the_output_head_is_refused(refused, tmp_path):
    def untied():
        torch.manual_seed(0)
        size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
        return LlamaForCausalLM(LlamaConfig(vocab_size=64, num_attention_heads=4, **size))

    folder = save_adapter(tmp_path / "new", untied, target_modules=["q_proj", "lm_head"])
    refused(folder, r"lm_head is Linear; adapters go live on linear layers .*merge")


def test_an_adapter_of_the_embedding_is_refused(refused, tmp_path):
    folder = save_adapter(tmp_path / "new", target_modules=["q_proj", "embed_tokens"])
    refused(folder, "not plain LoRA: .*embed_tokens.lora_embedding_A.*merge")


def test_an_adapter_on_experts_is_refused(tmp_path):
    class Mixture(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = torch.nn.ModuleList([torch.nn.Linear(4, 4)])

        def get_input_embeddings(self):
            return torch.nn.Embedding(4, 4)

        def get_output_embeddings(self):
            return None

    def make():
        return Mixture()

    with warnings.catch_warnings(action="ignore"):
        model = peft.get_peft_model(make(), peft.LoraConfig(target_modules=r"experts\.0"))
    model.save_pretrained(tmp_path / "new")
    with pytest.raises(ModelError, match="linear layers that see every token, not on heads"):
        AdapterBank(make()).add("new", tmp_path / "new")


def test_an_adapter_of_another_family_is_refused(refused, tmp_path):
    folder = save_adapter(tmp_path / "new", gpt2, target_modules=["c_attn"], fan_in_fan_out=True)
    refused(
        folder, r"the base has no layers transformer.h.0.attn.c_attn, .*renamed or fused.*merge"
    )


def test_an_adapter_on_a_norm_is_refused(refused, tmp_path):
    folder = save_adapter(tmp_path / "new")
    edit_names(folder, lambda name: name.replace("self_attn.q_proj", "input_layernorm"))
    refused(folder, "input_layernorm is LlamaRMSNorm; adapters go live on linear layers")


def edit_names(folder, change):
    path = folder / "adapter_model.safetensors"
    save_file({change(name): tensor for name, tensor in load_file(path).items()}, path)


def test_an_adapter_of_a_base_of_another_size_is_refused(refused, tmp_path):
    def wider():
        size = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
        return LlamaForCausalLM(LlamaConfig(vocab_size=64, num_attention_heads=4, **size))

    folder = save_adapter(tmp_path / "new", wider)
    refused(folder, r"lora_B of .*down_proj has shape \(64, 4\); on this base .* must be \(32, 4\)")


def test_an_adapter_of_another_rank_than_its_config_says_is_refused(refused, tmp_path):
    folder = save_adapter(tmp_path / "new")
    edit_config(folder, r=8)
    refused(folder, r"has shape \(4, 64\); on this base and with a rank of 8")
    edit_config(folder, r=0)
    refused(folder, "with a rank of 0")


def test_a_layer_with_one_matrix_only_is_refused(refused, tmp_path):
    folder = save_adapter(tmp_path / "new")
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"]
    save_file(tensors, path)
    refused(folder, "lora_B of model.layers.1.mlp.up_proj has shape None")


def test_a_file_without_all_the_layers_of_its_config_is_refused(refused, tmp_path):
    folder = save_adapter(tmp_path / "new")
    path = folder / "adapter_model.safetensors"
    save_file({name: t for name, t in load_file(path).items() if "layers.1" not in name}, path)
    refused(folder, r"missing: model.layers.1.mlp.down_proj, .* and 4 more; not expected: none")


def test_a_file_with_layers_that_its_config_does_not_name_is_refused(refused, tmp_path):
    folder = save_adapter(tmp_path / "new")
    edit_config(folder, target_modules=ATTENTION)
    refused(folder, r"missing: none; not expected: model.layers.0.mlp.down_proj, .* and 3 more")


def test_a_file_with_other_tensors_is_refused(refused, tmp_path):
    folder = save_adapter(tmp_path / "new")
    path = folder / "adapter_model.safetensors"
    save_file({**load_file(path), "base_model.model.lm_head.weight": torch.ones(2)}, path)
    refused(folder, "holds what is not plain LoRA: base_model.model.lm_head.weight; .*merge")


def test_a_file_without_a_tensor_is_refused(refused, tmp_path):
    folder = save_adapter(tmp_path / "new")
    save_file({}, folder / "adapter_model.safetensors")
    refused(folder, "missing: model.layers.0.mlp.down_proj")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_before_they_reach_others(
    refused, tmp_path, number
):
    folder = save_adapter(tmp_path / "new")
    last = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"
    edit_tensors(folder, lambda name, t: torch.full_like(t, number) if name == last else t)
    refused(folder, "lora_B of model.layers.1.self_attn.v_proj holds NaN, or numbers too large")


def test_a_folder_without_weights_or_with_broken_ones_is_refused(refused, tmp_path):
    refused(tmp_path / "nothing", "no adapter here")
    folder = save_adapter(tmp_path / "new")
    (folder / "adapter_model.safetensors").write_bytes(b"not tensors")
    refused(folder, "cannot be read")
    (folder / "adapter_model.safetensors").unlink()
    refused(folder, "adapter_model.safetensors: not there")


def test_a_config_that_peft_cannot_read_is_refused(refused, tmp_path):
    folder = save_adapter(tmp_path / "new")
    edit_config(folder, target_modules=".*q_proj", layers_to_transform=[0])
    refused(folder, "adapter_config.json: cannot be understood: `layers_to_transform` cannot")


def test_memory_that_runs_out_half_way_leaves_the_bank_as_it_was(refused, tmp_path, monkeypatch):
    cat, calls = torch.cat, []

    def scarce(tensors, **options):
        calls.append(1)
        if len(calls) == 15:
            raise torch.OutOfMemoryError("memory ran out")
        return cat(tensors, **options)

    folder = save_adapter(tmp_path / "new")
    monkeypatch.setattr(torch, "cat", scarce)
    refused(folder, "memory ran out", torch.OutOfMemoryError)
