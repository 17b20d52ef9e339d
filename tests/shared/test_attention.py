"""Documents of a packed row cannot see each other, and attention itself is the usual one."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from agent_finetune import attention, collate, testing
from agent_finetune.errors import ModelError
from agent_finetune.records import Tokens

TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture(autouse=True)
def _registered():
    attention.register()


def model_of(kind, **options):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**{**TINY, **options})
    return AutoModelForCausalLM.from_config(config).eval()


def document(length, seed):
    ids = torch.randint(3, 60, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Tokens(ids=tuple(ids), trained=(True,) * length, sections=(None,) * length)


def inputs(batch):
    return {key: value for key, value in batch.items() if key != "labels"} | {"use_cache": False}


def reference_attention(query, key, value, window):
    """Eager attention with an explicit mask, in float64; (1, h, l, d)."""
    query, key, value = query.double(), key.double(), value.double()
    share = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
    rows = torch.arange(query.shape[2])
    distance = rows[:, None] - rows[None, :]
    seen = (distance >= 0) & (distance < (window or 10**9))
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value


@pytest.mark.parametrize("window", [None, 5, 100])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_each_document_gets_the_attention_it_would_get_alone(dtype, close, window):
    torch.manual_seed(0)
    lengths = [3, 17, 1]
    query = torch.randn(1, 4, sum(lengths), 8, dtype=dtype)
    key, value = (torch.randn(1, 2, sum(lengths), 8, dtype=dtype) for _ in range(2))
    starts = torch.tensor([0, 3, 20, 21], dtype=torch.int32)
    got, weights = attention.packed_sdpa(
        torch.nn.Identity(), query, key, value, None, cu_seq_lens_q=starts, sliding_window=window
    )
    assert weights is None
    assert got.shape == (1, 21, 4, 8)
    for start, end in [(0, 3), (3, 20), (20, 21)]:
        piece = slice(start, end)
        expected = reference_attention(
            query[:, :, piece], key[:, :, piece], value[:, :, piece], window
        )
        assert torch.allclose(got[:, piece].transpose(1, 2).double(), expected, atol=close)


def test_plain_math_and_fused_attention_have_the_same_gradients():
    torch.manual_seed(0)
    tensors = [torch.randn(1, heads, 12, 8) for heads in (4, 2, 2)]

    def gradients(function):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        function(*leaves, 0.0, None).square().sum().backward()
        return [leaf.grad for leaf in leaves]

    for plain, fused in zip(
        gradients(attention._plain), gradients(attention._document), strict=True
    ):
        assert torch.allclose(plain, fused, atol=1e-5)


@pytest.mark.parametrize("name", ["packed_sdpa", "sdpa"])
def test_documents_cannot_see_each_other(name):
    """Under ours and under Transformers' own SDPA, which reads the restarts of position_ids."""
    model = model_of("llama")
    first, second = document(9, seed=1), document(7, seed=2)
    batch = collate.pack([first, second])
    other = collate.pack([document(9, seed=3), second])
    with attention.using(model, name):
        embeddings = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
        arguments = inputs(batch)
        del arguments["input_ids"]
        logits = model(inputs_embeds=embeddings, **arguments).logits
        logits[0, 9:].square().sum().backward()
        with torch.no_grad():
            changed = model(**inputs(other)).logits
    assert embeddings.grad[0, :9].abs().max() == 0
    assert embeddings.grad[0, 9:].abs().max() > 0
    assert torch.equal(changed[0, 9:], logits[0, 9:])
    with torch.no_grad():
        alone = model(input_ids=torch.tensor([second.ids])).logits
    assert torch.allclose(logits[0, 9:], alone[0], atol=1e-5)


def test_documents_longer_than_the_window_are_cut_to_it():
    model = model_of("mistral", sliding_window=4)
    rows = [document(11, seed=1), document(9, seed=2)]
    with torch.no_grad():
        with attention.using(model, "packed_sdpa"):
            packed = model(**inputs(collate.pack(rows))).logits[0]
        alone = [model(input_ids=torch.tensor([row.ids])).logits[0] for row in rows]
    assert torch.allclose(packed, torch.cat(alone), atol=1e-5)


def test_using_puts_the_old_attention_back():
    model = model_of("llama")
    with attention.using(model, "packed_sdpa"):
        assert model.config._attn_implementation == "packed_sdpa"
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {}),
        ("qwen3", {}),
        ("mistral", {"sliding_window": 4}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
        ("gemma3_text", {"sliding_window": 4}),
        ("phi3", {}),
        ("granite", {}),
        ("olmo2", {}),
    ],
)
def test_plain_attention_can_be_packed(kind, options):
    assert attention.can_pack(model_of(kind, **options))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("lfm2", {"layer_types": ["conv", "full_attention"]}),
        ("gemma2", {"attn_logit_softcapping": 50.0}),
        ("gpt_oss", {"num_local_experts": 2}),
        (
            "qwen3_5_text",
            {
                "layer_types": ["linear_attention", "full_attention"],
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 2,
                "linear_key_head_dim": 8,
                "linear_value_head_dim": 8,
            },
        ),
        ("mamba2", {"num_heads": 8, "n_groups": 1, "state_size": 8}),
        ("stablelm", {}),
    ],
)
def test_a_model_that_packing_would_change_is_refused(kind, options):
    model = model_of(kind, **options)
    assert not attention.can_pack(model)


def test_layers_without_a_declared_kind_are_judged_by_what_leaks():
    """A model that says nothing of its layers, and mixes neighbours as a convolution does."""

    class Mixing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = testing.tiny_model(testing.tiny_tokenizer())
            self.config = self.inner.config
            self.device = self.inner.device
            self.set_attn_implementation = self.inner.set_attn_implementation

        def forward(self, **arguments):
            logits = self.inner(**arguments).logits
            return SimpleNamespace(logits=logits + logits.roll(1, dims=1))

    assert not attention.can_pack(Mixing().eval())


def test_can_pack_leaves_the_model_as_it_was():
    model = model_of("llama").train()
    attention.can_pack(model)
    assert model.training
    assert model.config._attn_implementation == "sdpa"


def test_what_packed_attention_has_not_is_refused():
    tensor = torch.randn(1, 2, 4, 8)
    starts = torch.tensor([0, 4], dtype=torch.int32)
    layer = torch.nn.Identity()
    with pytest.raises(ModelError, match="softcap"):
        attention.packed_sdpa(
            layer, tensor, tensor, tensor, None, cu_seq_lens_q=starts, softcap=30.0
        )
    with pytest.raises(ModelError, match="causal"):
        attention.packed_sdpa(
            layer, tensor, tensor, tensor, None, cu_seq_lens_q=starts, is_causal=False
        )
    with pytest.raises(ModelError, match="packed rows only"):
        attention.packed_sdpa(layer, tensor, tensor, tensor, None)


def test_dropout_reaches_the_attention_weights():
    tensor = torch.ones(1, 2, 6, 8, dtype=torch.bfloat16)
    starts = torch.tensor([0, 6], dtype=torch.int32)
    layer = torch.nn.Identity()
    torch.manual_seed(0)
    dropped, _ = attention.packed_sdpa(
        layer, tensor, tensor, tensor, None, dropout=0.5, cu_seq_lens_q=starts
    )
    assert not torch.equal(dropped, F.dropout(tensor, 0.0).transpose(1, 2))
