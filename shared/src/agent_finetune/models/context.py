"""How many tokens a model was made for: of one on disk, without reading it, or of a loaded one."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from agent_finetune import plugins
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import LoadedModel, ResolvedModel, Settings
from agent_finetune.errors import FinetuneError
from agent_finetune.models.adapter_folders import with_base
from agent_finetune.models.resolving import SHIPPED

UNLIMITED = 1_000_000
"""What counts for a model that has no limit of its own."""

_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
"""What configurations call it, the usual name first."""
_TEXT = ("text_config", "llm_config", "language_config")
"""Where models that also see or hear describe their language model."""
_NO_LENGTH = 10**9
"""Larger ones stand for none in tokenizers."""

_LONGEST = 2**26
"""Bytes of a text in a header: a length beyond it is a lie, and must not be read."""
_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_FORMATS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
"""Types of a GGUF file's numbers, as `struct` calls them (llama.cpp, ggml/include/gguf.h)."""


def context_length(config: ModelConfig, settings: Settings) -> int | None:
    """Tokens that a prompt and its answer may have together, as the model's files say.

    Reads no weights, needs neither torch nor network, and takes milliseconds.

    Args:
        config: The model; an adapter's folder stands for its base.
        settings: The cache.

    Returns:
        None where the files are not on this disk, or do not say it; loading tells why.
    """
    try:
        config = with_base(config)
        if config.model in SHIPPED:
            asset = SHIPPED[config.model]
            return _of_gguf(settings.cache_dir / asset.folder / asset.member)
        offline = replace(settings, offline=True)
        return _of_files(plugins.resolve_model(config.model, config.revision, offline))
    except (FinetuneError, OSError, ValueError, ArithmeticError, RecursionError, struct.error):
        return None


def loaded_context(loaded: LoadedModel) -> int:
    """The same of a loaded model; what its tokenizer says where its configuration says nothing."""
    said = described(loaded.model.config.get_text_config().to_dict())
    return said or _length(loaded.tokenizer.model_max_length) or UNLIMITED


def described(config: Mapping[str, Any]) -> int | None:
    """What a configuration, as config.json holds it, says."""
    for text in (config[key] for key in _TEXT if isinstance(config.get(key), Mapping)):
        if (found := described(text)) is not None:
            return found
    return next((length for key in _KEYS if (length := _length(config.get(key)))), None)


def _length(value: Any) -> int | None:
    usable = isinstance(value, int | float) and 0 < value < _NO_LENGTH
    return int(value) if usable else None


def _of_files(resolved: ResolvedModel) -> int | None:
    if resolved.gguf_file is not None:
        return _of_gguf(Path(resolved.location) / resolved.gguf_file)
    said = described(_read(resolved, "config.json"))
    return said or _length(_read(resolved, "tokenizer_config.json").get("model_max_length"))


def _read(resolved: ResolvedModel, name: str) -> Mapping[str, Any]:
    """A JSON file of a folder or of the hub's cache; empty where there is none."""
    path: Any = Path(resolved.location) / name
    if resolved.revision is not None:
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(resolved.location, name, revision=resolved.revision)
    if not isinstance(path, str | Path) or not Path(path).is_file():
        return {}
    found = json.loads(Path(path).read_text("utf-8"))
    return found if isinstance(found, dict) else {}


def _of_gguf(path: Path) -> int | None:
    """What the header of a GGUF file says; the package gguf would read all of a vocabulary first.

    Raises:
        OSError, ValueError, struct.error: There is none, or it is not whole.
    """
    with path.open("rb") as file:
        architecture = None
        for key, value in _fields(file):
            if key == "general.architecture":
                architecture = value
            elif architecture is not None and key == f"{architecture}.context_length":
                return _length(value)
    return None


def _fields(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    """Keys and values of a GGUF file of version 2 or 3, in order; arrays are passed over."""
    if file.read(4) != _MAGIC:
        raise ValueError("not a GGUF file")
    _, _, count = struct.unpack("<IQQ", file.read(20))
    for _ in range(count):
        key = _string(file)
        (kind,) = struct.unpack("<I", file.read(4))
        yield key, _value(file, kind)


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        inner, count = struct.unpack("<IQ", file.read(12))
        if inner in _FORMATS:
            file.seek(count * struct.calcsize(_FORMATS[inner]), 1)
        else:
            for _ in range(count):
                _value(file, inner)
        return None
    if kind not in _FORMATS:
        raise ValueError(f"a value of type {kind!r}")
    form = f"<{_FORMATS[kind]}"
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _string(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > _LONGEST:
        raise ValueError(f"a text of {length} bytes")
    return file.read(length).decode("utf-8", errors="replace")
