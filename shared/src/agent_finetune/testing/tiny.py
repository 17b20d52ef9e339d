"""Small real models and tokenizers, made in memory, for the tests of the kernel and of plugins.

Nothing here is pretended: the tokenizer is trained in-process, the model is a real Llama with few
weights, and both go through the same code as a model of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A template that knows neither tools nor thinking, as SmolLM2's."""

CORPUS = (
    "You are a helpful assistant. The user asks and the assistant answers with a tool call.",
    'What is the weather in Paris? {"name": "get_weather", "arguments": {"city": "Paris"}}',
    "system user assistant tool function name parameters properties type string integer",
)


def tiny_tokenizer(
    *,
    special: Sequence[str] = ("<|im_start|>", "<|im_end|>"),
    eos: str = "<|im_end|>",
    template: str | None = CHATML,
    metaspace: bool = False,
) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of about 400 tokens, or a Metaspace one as Llama-2 has.

    Args:
        special: Strings that become single special tokens, control tokens of a template among them.
        eos: The token that ends a turn; added when `special` lacks it.
        template: Chat template, or None for a base model.
        metaspace: Mark word starts with U+2581, and prefix a space to every text that begins.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    names = list(dict.fromkeys(["<unk>", "<pad>", eos, *special]))
    if metaspace:
        backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        backend.normalizer = normalizers.Sequence([])
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        backend.decoder = decoders.Sequence(
            [
                decoders.Replace("\u2581", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        alphabet = sorted({c for text in CORPUS for c in text.replace(" ", "\u2581")})
        names += [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(
            vocab_size=600, special_tokens=names, initial_alphabet=alphabet, show_progress=False
        )
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400 + len(names),
            special_tokens=names,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    backend.train_from_iterator(CORPUS * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token=eos,
        additional_special_tokens=list(special),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny_model(tokenizer: Any, *, seed: int = 0, layers: int = 2) -> PreTrainedModel:
    """A Llama of about 60 thousand weights in float32, the same one for the same seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.eval()
    return model


def save_tiny_model(folder: Any, **options: Any) -> Any:
    """Write a tiny model and tokenizer as a model folder; answer the folder."""
    tokenizer = tiny_tokenizer(**options)
    tokenizer.save_pretrained(folder)
    tiny_model(tokenizer).save_pretrained(folder)
    return folder
