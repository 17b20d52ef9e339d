"""The models of the 2024 example in their shapes, with random weights: served, trained, served.

open_llama_3b_v2 is a Llama with an output head of its own; gemma-7b ties its head, and its heads
are wider than its hidden size says. Neither has a chat template, and both begin with a token.
"""

import asyncio
import json
from dataclasses import dataclass, replace

import pytest
import torch
from agentscope.message import TextBlock, UserMsg
from transformers import AutoTokenizer, GemmaConfig, GemmaForCausalLM, LlamaConfig, LlamaForCausalLM

from agent_finetune.config import DataConfig, RunConfig
from agent_finetune.contracts import Settings
from agent_finetune.engine import registry
from agent_finetune.testing import tiny_tokenizer
from agentscope_finetune.example2024 import read_fine_tune_config
from agentscope_finetune.model import TransformersChatModel

ANSWER = "The weather in Paris is a string."
QUESTION = "What is the weather in Paris?"


@dataclass(frozen=True)
class Shape:
    """How a model of 2024 differs from others of its kind."""

    begin: str
    """Its begin-of-sequence token."""
    tokenizer_class: str
    model: type
    config: object
    tied: bool


SHAPES = {
    # 26 layers, 3200 wide, 32 heads, an untied head; rms_norm_eps 1e-6.
    "open_llama_3b_v2": Shape(
        "<s>",
        "LlamaTokenizer",
        LlamaForCausalLM,
        LlamaConfig(
            hidden_size=64,
            intermediate_size=88,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            initializer_range=0.3,
            max_position_embeddings=2048,
            rms_norm_eps=1e-6,
            tie_word_embeddings=False,
        ),
        tied=False,
    ),
    # 28 layers, 3072 wide, 16 heads of 256, which is more than 3072; GELU; a tied head.
    "gemma-7b": Shape(
        "<bos>",
        "GemmaTokenizer",
        GemmaForCausalLM,
        GemmaConfig(
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            initializer_range=0.3,
            head_dim=16,
            max_position_embeddings=2048,
            hidden_activation="gelu_pytorch_tanh",
            tie_word_embeddings=True,
        ),
        tied=True,
    ),
}


def write(folder, shape):
    """A model folder as the hub has it: no chat template, and a tokenizer of its family."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer(special=(shape.begin,), eos="</s>", template=None, metaspace=True)
    begin = tokenizer.convert_tokens_to_ids(shape.begin)
    tokenizer.bos_token = shape.begin
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{shape.begin} $A", special_tokens=[(shape.begin, begin)]
    )
    tokenizer.save_pretrained(folder)
    described = json.loads((folder / "tokenizer_config.json").read_text())
    described["tokenizer_class"] = shape.tokenizer_class
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    config = shape.config
    config.vocab_size = len(tokenizer)
    config.bos_token_id, config.eos_token_id = begin, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(1)
    shape.model(config).save_pretrained(folder)
    return folder


@pytest.fixture(params=SHAPES)
def shape(request):
    return SHAPES[request.param]


@pytest.fixture
def folder(shape, tmp_path):
    yield write(tmp_path / "model", shape)
    registry.close_all()


@pytest.fixture
def chat(folder):
    return TransformersChatModel(
        model=str(folder),
        parameters=TransformersChatModel.Parameters(max_tokens=16),
        stream=False,
        device="cpu",
        dtype="float32",
        settings=Settings(offline=True),
    )


def say(model, text):
    response = asyncio.run(model([UserMsg(name="user", content=text)]))
    return "".join(block.text for block in response.content if isinstance(block, TextBlock))


def test_the_shape_is_that_of_the_original(folder, shape):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert type(tokenizer).__name__ == shape.tokenizer_class
    assert tokenizer.chat_template is None
    assert tokenizer("hello").input_ids[0] == tokenizer.bos_token_id
    model = shape.model.from_pretrained(folder)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == shape.tied


def test_a_model_without_a_chat_template_answers_as_transformers_would(chat, folder, shape):
    say(chat, QUESTION)
    said = chat.engine.recent()[-1].result.message.generation
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert said.prompt_ids.count(tokenizer.bos_token_id) == 1
    assert said.prompt_ids[0] == tokenizer.bos_token_id
    ids = torch.tensor([said.prompt_ids])
    with torch.no_grad():
        expected = shape.model.from_pretrained(folder).generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=len(said.ids),
            do_sample=False,
        )
    assert said.ids == tuple(expected[0, ids.shape[1] :].tolist())


def train(chat, tmp_path, asked):
    """A run as an agent's fine_tune makes it, on four rows in LIMA's format."""
    data = tmp_path / "lima.jsonl"
    row = {"conversations": [QUESTION, ANSWER], "source": "own"}
    data.write_text(f"{json.dumps(row)}\n" * 4)
    return chat.engine.train(
        RunConfig(
            model=replace(chat.model_config, **asked.model),
            data=DataConfig(data=str(data), max_length=asked.max_length),
            out=str(tmp_path / "run"),
            lora=asked.lora,
            train=asked.train,
        )
    )


LORA = {"lora_config": {"r": 16, "lora_alpha": 32, "task_type": "CAUSAL_LM"}}
FULL = {"lora_config": {}}


@pytest.mark.parametrize(
    ("shape", "given", "rate"),
    [("open_llama_3b_v2", FULL, 1e-2), ("gemma-7b", LORA, 2e-2)],
    indirect=["shape"],
)
def test_it_is_fine_tuned_and_says_what_it_learned(chat, tmp_path, given, rate):
    assert say(chat, QUESTION) != ANSWER
    arguments = {"max_steps": 30, "learning_rate": rate, "optim": "paged_adamw_8bit"}
    asked = read_fine_tune_config({**given, "max_seq_length": 256, "training_args": arguments})
    result = train(chat, tmp_path, asked)
    assert result.loss < 0.2
    field = "model" if given is FULL else "adapter"
    config = replace(chat.model_config, **{field: str(result.adapter_dir)})
    asyncio.run(chat.serve(config))
    assert say(chat, QUESTION) == ANSWER
