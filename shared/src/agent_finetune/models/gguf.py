"""GGUF files: unpacked once into a safetensors folder, which loads fast from then on.

A quantized GGUF unpacks slowly (13 s for 135 million weights, 5 s for 50,000 words), and a model
that is still packed can neither be trained nor saved. Everything after this module sees an ordinary
model folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from filelock import FileLock
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from agent_finetune.artifacts import new_folder
from agent_finetune.errors import ModelError
from agent_finetune.models.digests import sha256_of
from agent_finetune.models.quiet import no_bar_in_a_log

if TYPE_CHECKING:
    import torch

_CONVERSION = 1
"""Raised when the conversion below changes what it writes, so that old folders are left alone."""

_DIGIT_SPLITTERS = frozenset(
    {"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"}
)
"""Values of `tokenizer.ggml.pre` that cut every digit off before words are found.

Source: `llm_tokenizer_bpe` in llama.cpp's src/llama-vocab.cpp.
"""

_SPECIAL_TOKENS = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "pad_token": "padding",
}
"""What Transformers and GGUF call a special token."""


def converted_folder(name: str, file: Path, dtype: torch.dtype, cache_dir: Path) -> Path:
    """A model folder with the unpacked weights of a GGUF file, made on the first call.

    The folder is keyed by the file's content, the number format and the version of Transformers,
    which does the unpacking. Safe to call from several processes at once.

    Raises:
        ModelError: The package gguf is missing. What Transformers raises for a file that it cannot
            unpack passes through; `loading.load` tells it.
    """
    number = str(dtype).removeprefix("torch.")
    make = partial(_convert, name, file, dtype, cache_dir)
    return _made_once(file, number, cache_dir, make)


def load_tokenizer(name: str, file: Path, cache_dir: Path) -> Any:
    """The tokenizer of a GGUF file, the same one that `converted_folder` writes; no weights.

    Raises:
        ModelError: The package gguf is missing.
    """
    make = partial(_convert_tokenizer, name, file)
    return AutoTokenizer.from_pretrained(str(_made_once(file, "tokenizer", cache_dir, make)))


def _made_once(file: Path, part: str, cache_dir: Path, make: Callable[[Path], None]) -> Path:
    """The folder of a part of a file's content; one process makes it, others wait."""
    digest = sha256_of(file, cache_dir)[:12]
    key = f"gguf-{digest}-{part}-{transformers.__version__}-{_CONVERSION}"
    folder = cache_dir / key
    if folder.is_dir():
        return folder
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir / f"{key}.lock"):
        if not folder.is_dir():  # another process may have been quicker
            for leftover in cache_dir.glob(f".{key}.*"):  # of a process that was killed here
                shutil.rmtree(leftover, ignore_errors=True)
            with new_folder(folder) as temporary:
                make(temporary)
    return folder


def _convert(name: str, file: Path, dtype: torch.dtype, cache_dir: Path, folder: Path) -> None:
    tokenizer = load_tokenizer(name, file, cache_dir)
    with no_bar_in_a_log():
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=dtype, **_dequantize()
        )
        # Transformers still counts the unpacked model as quantized, and would not save it.
        model.hf_quantizer = None
        vars(model.config).pop("quantization_config", None)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _convert_tokenizer(name: str, file: Path, folder: Path) -> None:
    if find_spec("gguf") is None:
        raise ModelError(
            f"model {name!r}: a GGUF file needs the package gguf, which is not installed; "
            'run pip install -e "shared[gguf]"'
        )
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    _take_from_file(tokenizer, file)
    tokenizer.save_pretrained(folder)


def _dequantize() -> dict[str, Any]:
    """Ask for dense weights, where the installed Transformers would else keep them packed."""
    try:
        from transformers import GgufConfig
    except ImportError:  # older than GgufConfig: a GGUF file is always unpacked
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _take_from_file(tokenizer: Any, file: Path) -> None:
    """Correct what Transformers leaves out or gets wrong, depending on its version.

    Special tokens: the end token of a Llama is taken for its start token by some versions.
    Digits: no version cuts text before digits for the families that were taught so, and GPT-2's
    rule groups white space before a digit differently from what the model has seen.
    """
    from gguf import GGUFReader

    reader = GGUFReader(file)
    for token, key in _SPECIAL_TOKENS.items():
        number = reader.get_field(f"tokenizer.ggml.{key}_token_id")
        if number is not None:
            setattr(tokenizer, token, tokenizer.convert_ids_to_tokens(int(number.contents())))
    rule = reader.get_field("tokenizer.ggml.pre")
    if rule is not None and rule.contents() in _DIGIT_SPLITTERS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
