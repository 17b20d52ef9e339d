"""Batched answers are those that Transformers gives one by one."""

import logging
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from agent_finetune import attention
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import LoadedModel, ResolvedModel
from agent_finetune.errors import DataError, ModelError
from agent_finetune.generate import complete
from agent_finetune.testing import tiny_model, tiny_tokenizer

TEXTS = ("What is the weather in Paris?", "system user", "You are a helpful assistant.", "name")


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def loaded(tokenizer):
    return wrap(tiny_model(tokenizer), tokenizer)


@pytest.fixture
def prompts(tokenizer):
    return [tokenizer(text).input_ids for text in TEXTS]


def wrap(model, tokenizer):
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        resolved=ResolvedModel(name="tiny", location="tiny"),
        config=ModelConfig(model="tiny"),
        device="cpu",
        dtype="float32",
        digest="sha256:tiny",
    )


def one_by_one(model, prompts, max_new_tokens):
    """The reference: no padding, no batch, nothing of ours."""
    answers = []
    for prompt in prompts:
        output = model.generate(
            input_ids=torch.tensor([prompt]), do_sample=False, max_new_tokens=max_new_tokens
        )
        answers.append(tuple(output[0, len(prompt) :].tolist()))
    return answers


def greedy_by_hand(model, prompt, steps):
    """The reference's reference: the whole row through the model for every token, no cache."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(steps):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return tuple(ids[len(prompt) :])


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_batched_answers_are_those_of_generate_one_by_one(loaded, prompts, batch_size):
    expected = one_by_one(loaded.model, prompts, 20)
    assert complete(loaded, prompts, max_new_tokens=20, batch_size=batch_size) == expected


def test_answers_are_the_likeliest_tokens(loaded, prompts):
    (answer,) = complete(loaded, prompts[:1], max_new_tokens=8)
    assert answer == greedy_by_hand(loaded.model, prompts[0], 8)


def test_answers_end_with_the_stop_token_and_without_padding(loaded, prompts):
    free = complete(loaded, prompts, max_new_tokens=20)
    stop = free[0][4]  # a token that the first answer does hold
    stopped = complete(loaded, prompts, stop_ids=[stop], max_new_tokens=20)
    for whole, cut in zip(free, stopped, strict=True):
        expected = whole[: whole.index(stop) + 1] if stop in whole else whole
        assert cut == expected


def test_the_models_own_stop_tokens_count_besides_ours(loaded, prompts):
    free = complete(loaded, prompts[:1], max_new_tokens=12)[0]
    loaded.model.generation_config.eos_token_id = [free[5], 0]
    stopped = complete(loaded, prompts[:1], stop_ids=[free[9]], max_new_tokens=12)[0]
    first = min(free.index(free[5]), free.index(free[9]))
    assert stopped == free[: first + 1]


def test_a_model_without_stop_tokens_goes_on_to_the_end(loaded, prompts):
    loaded.model.generation_config.eos_token_id = None
    assert [len(a) for a in complete(loaded, prompts, max_new_tokens=7)] == [7] * len(prompts)


def test_a_stop_string_may_span_tokens_and_ends_its_row_only(loaded, prompts):
    decode = loaded.tokenizer.decode
    free = complete(loaded, prompts, max_new_tokens=24)
    stop = decode(free[0][6:9])[1:]  # begins within a token
    cut = complete(loaded, prompts, stop_strings=[stop, "never said"], max_new_tokens=24)
    for whole, answer in zip(free, cut, strict=True):
        assert answer == whole[: len(answer)]
        if stop in decode(whole):
            assert stop in decode(answer)
            assert stop not in decode(answer[:-1])
        else:
            assert answer == whole
    assert len(cut[0]) < 24


def test_a_stop_string_in_the_prompt_does_not_count(loaded, prompts):
    expected = complete(loaded, prompts, max_new_tokens=6)
    stop = loaded.tokenizer.decode(prompts[0][-2:])
    assert all(stop not in loaded.tokenizer.decode(answer) for answer in expected)
    assert complete(loaded, prompts, stop_strings=[stop], max_new_tokens=6) == expected


def test_a_repetition_penalty_of_the_model_is_not_heeded(loaded, prompts):
    expected = complete(loaded, prompts, max_new_tokens=12)
    own = GenerationConfig(repetition_penalty=5.0, do_sample=True, temperature=9.0)
    loaded.model.generation_config = own
    assert complete(loaded, prompts, max_new_tokens=12) == expected
    assert loaded.model.generation_config is own


def test_training_mode_and_packed_attention_come_back(loaded, prompts):
    attention.register()
    expected = complete(loaded, prompts, max_new_tokens=5)
    model = loaded.model
    model.train()
    model.lm_head.eval()  # a module that sits out
    model.set_attn_implementation(attention.PACKED)
    assert complete(loaded, prompts, max_new_tokens=5) == expected
    assert model.config._attn_implementation == attention.PACKED
    assert model.model.layers[0].training
    assert not model.lm_head.training


def test_eager_attention_is_left_alone(loaded, prompts):
    loaded.model.set_attn_implementation("eager")
    complete(loaded, prompts[:1], max_new_tokens=2)
    assert loaded.model.config._attn_implementation == "eager"


def test_an_adapter_answers_for_itself(tokenizer, prompts):
    base = complete(wrap(tiny_model(tokenizer), tokenizer), prompts, max_new_tokens=12)
    torch.manual_seed(0)
    config = LoraConfig(target_modules="all-linear", init_lora_weights=False, lora_dropout=0.5)
    adapted = get_peft_model(tiny_model(tokenizer), config).train()
    answers = complete(wrap(adapted, tokenizer), prompts, max_new_tokens=12)
    assert answers != base
    assert answers == one_by_one(adapted.eval(), prompts, 12)


def test_bfloat16_models_answer(tokenizer, prompts):
    loaded = wrap(tiny_model(tokenizer).to(torch.bfloat16), tokenizer)
    assert all(complete(loaded, prompts, max_new_tokens=4))


def test_progress_is_told_after_each_batch(loaded, prompts):
    told = []
    complete(
        loaded,
        prompts,
        max_new_tokens=1,
        batch_size=3,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(3, 4), (4, 4)]


def test_running_out_of_memory_halves_the_batch_and_says_so(loaded, prompts, caplog):
    expected = complete(loaded, prompts, max_new_tokens=5)
    loaded.model.register_forward_pre_hook(hold_at_most(1), with_kwargs=True)
    with caplog.at_level(logging.WARNING):
        assert complete(loaded, prompts, max_new_tokens=5) == expected
    assert [record.getMessage() for record in caplog.records] == [
        "out of GPU memory with 4 prompts at once; going on with 2",
        "out of GPU memory with 2 prompts at once; going on with 1",
    ]


def test_a_prompt_that_does_not_fit_alone_is_an_error_that_gives_its_length(loaded, prompts):
    loaded.model.register_forward_pre_hook(hold_at_most(0), with_kwargs=True)
    longest = max(map(len, prompts))
    with pytest.raises(ModelError, match=f"one prompt of {longest} tokens"):
        complete(loaded, prompts, max_new_tokens=5)
    assert loaded.model.generation_config.max_new_tokens is None  # put back after the error too


def hold_at_most(rows):
    """A device whose memory holds so many rows."""

    def check(module, args, kwargs):
        if len(kwargs["input_ids"]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return check


def test_no_prompts_give_no_answers_and_an_empty_prompt_is_an_error(loaded):
    assert complete(loaded, []) == []
    with pytest.raises(DataError, match="prompt 1 of 2"):
        complete(loaded, [[5], []])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_answers_as_the_processor_does(tokenizer, prompts):
    expected = complete(wrap(tiny_model(tokenizer), tokenizer), prompts, max_new_tokens=12)
    loaded = wrap(tiny_model(tokenizer).to("cuda"), tokenizer)
    assert complete(replace(loaded, device="cuda:0"), prompts, max_new_tokens=12) == expected
