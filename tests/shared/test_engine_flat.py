"""A flat pass gives each row what the model itself gives it."""

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from agent_finetune.engine import runner
from agent_finetune.engine.runner import FlatRunner, NoBank, SoloRunner, Span

SMALL = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
STATE = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
FLAT = {
    "LlamaConfig": {},
    "Qwen3Config": {},
    "MistralConfig": {"sliding_window": 4},
    "Gemma2Config": {"sliding_window": 4, "query_pre_attn_scalar": 8},
    "Gemma3TextConfig": {"sliding_window": 4, "query_pre_attn_scalar": 8},
    "Qwen3MoeConfig": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}
SOLO = {
    "Lfm2Config": {"layer_types": ["conv", "full_attention"] * 2},
    "Qwen3_5TextConfig": STATE,
    "LlamaConfig": {
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    },
}
FIRST = tuple(range(10, 27))
SECOND = tuple(range(40, 49))


def small(name, **options):
    config = getattr(transformers, name)(**SMALL, **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


def own_logits(model, ids):
    return model(input_ids=torch.tensor([ids])).logits[0, -1]


@pytest.mark.parametrize("name", FLAT)
@torch.inference_mode()
def test_rows_in_one_pass_get_the_models_own_logits(name):
    model = small(name, **FLAT[name])
    alone = [
        [own_logits(model, row[:end]) for end in (len(row) - 1, len(row))]
        for row in (FIRST, SECOND)
    ]
    served = runner.pick(model)
    one, other = served.memory(), served.memory()
    # The first row is read in two pieces, longer than a window; the second joins late.
    served.forward([Span(one, FIRST[:7])], NoBank())
    made = served.forward([Span(one, FIRST[7:-1]), Span(other, SECOND[:-1])], NoBank())
    torch.testing.assert_close(made, torch.stack([alone[0][0], alone[1][0]]), atol=1e-4, rtol=0)
    made = served.forward([Span(one, FIRST[-1:]), Span(other, SECOND[-1:])], NoBank())
    torch.testing.assert_close(made, torch.stack([alone[0][1], alone[1][1]]), atol=1e-4, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("name", FLAT)
@torch.inference_mode()
def test_rows_in_one_pass_get_the_models_own_logits_on_a_gpu(name):
    model = small(name, **FLAT[name]).cuda()
    rows = [torch.tensor([row], device="cuda") for row in (FIRST, SECOND)]
    alone = torch.stack([model(input_ids=row).logits[0, -1] for row in rows])
    served = runner.pick(model)
    assert isinstance(served, FlatRunner)
    one, other = served.memory(), served.memory()
    served.forward([Span(one, FIRST[:7]), Span(other, SECOND[:-1])], NoBank())
    made = served.forward([Span(one, FIRST[7:]), Span(other, SECOND[-1:])], NoBank())
    torch.testing.assert_close(made, alone, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", FLAT)
def test_models_that_only_attend_share_a_pass(name):
    assert isinstance(runner.pick(small(name, **FLAT[name])), FlatRunner)


def test_attention_sinks_take_their_share():
    model = small("GptOssConfig", sliding_window=4, num_local_experts=4, num_experts_per_tok=2)
    with torch.inference_mode():
        for layer in model.model.layers:
            layer.self_attn.sinks.fill_(3.0)
        alone = own_logits(model, FIRST)
        served = runner.pick(model)
        made = served.forward([Span(served.memory(), FIRST)], NoBank())[0]
    assert isinstance(served, FlatRunner)
    torch.testing.assert_close(made, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", SOLO)
@torch.inference_mode()
def test_other_models_are_served_one_row_at_a_time(name):
    model = small(name, **SOLO[name])
    alone = [own_logits(model, FIRST), own_logits(model, SECOND)]
    served = runner.pick(model)
    assert isinstance(served, SoloRunner)
    one, other = served.memory(), served.memory()
    served.forward([Span(one, FIRST[:-1]), Span(other, SECOND[:-1])], NoBank())
    made = served.forward([Span(one, FIRST[-1:]), Span(other, SECOND[-1:])], NoBank())
    torch.testing.assert_close(made, torch.stack(alone), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_a_copied_memory_goes_on_by_itself():
    model = small("LlamaConfig")
    expected = own_logits(model, FIRST)
    served = runner.pick(model)
    memory = served.memory()
    served.forward([Span(memory, FIRST[:8] + SECOND)], NoBank())
    copied = memory.copy(8)
    served.forward([Span(memory, SECOND)], NoBank())
    made = served.forward([Span(copied, FIRST[8:])], NoBank())[0]
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)
    assert copied.nbytes <= memory.nbytes


@torch.inference_mode()
def test_a_cut_memory_forgets_what_came_behind():
    model = small("LlamaConfig")
    expected = own_logits(model, FIRST)
    served = runner.pick(model)
    memory = served.memory()
    served.forward([Span(memory, FIRST[:8] + SECOND)], NoBank())
    memory.cut(8)
    made = served.forward([Span(memory, FIRST[8:])], NoBank())[0]
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_a_pass_that_failed_leaves_the_memory_as_it_was():
    model = small("LlamaConfig")
    expected = own_logits(model, FIRST)
    served = runner.pick(model)
    memory = served.memory()
    served.forward([Span(memory, FIRST[:8])], NoBank())

    def broken(*inputs):
        raise torch.OutOfMemoryError("no more")

    hook = model.model.layers[2].register_forward_pre_hook(broken)
    with pytest.raises(torch.OutOfMemoryError):
        served.forward([Span(memory, SECOND)], NoBank())
    hook.remove()
    made = served.forward([Span(memory, FIRST[8:])], NoBank())[0]
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)


def test_a_memory_grows_past_its_first_room():
    model = small("LlamaConfig")
    served = runner.pick(model)
    long = tuple(i % 90 + 5 for i in range(300))
    with torch.inference_mode():
        memory = served.memory()
        served.forward([Span(memory, long[:250])], NoBank())
        made = served.forward([Span(memory, long[250:])], NoBank())[0]
        whole = served.forward([Span(served.memory(), long)], NoBank())[0]
    torch.testing.assert_close(made, whole, atol=1e-4, rtol=0)


def test_a_flat_model_refuses_a_plain_forward_pass():
    model = small("LlamaConfig")
    runner.pick(model)
    with pytest.raises(RuntimeError, match="serves flat passes only"):
        model(input_ids=torch.tensor([FIRST]))
