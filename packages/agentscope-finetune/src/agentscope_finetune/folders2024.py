"""Output folders of the 2024 example (`sft_...` with `embed_tokens_weights.pt`), made servable.

The example gave a model without a chat template three new tokens, and with them more embedding
rows than its base has. What it saved is an adapter, the embeddings as a pickle and the tokenizer:
no library loads that in one piece, so a plain model folder is made of it once.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from agent_finetune import artifacts, plugins
from agent_finetune.config import Dtype, ModelConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import ModelError
from agent_finetune.models.adapter_folders import ADAPTER_CONFIG, base_of, digest
from agent_finetune.models.digests import sha256_of

if TYPE_CHECKING:
    import torch

EMBEDDINGS = "embed_tokens_weights.pt"
_WEIGHTS = "adapter_model.safetensors"
_HEADS = ("base_model.model.lm_head.weight", "lm_head.weight")
"""Names under which PEFT saved an output head that had been resized, when it did."""


def is_folder_2024(folder: Path) -> bool:
    """Whether the 2024 example wrote this folder."""
    return (folder / EMBEDDINGS).is_file()


def open_folder_2024(folder: Path | str, base: str | None, settings: Settings) -> ModelConfig:
    """What to serve in the place of an output folder of 2024.

    A model folder is served as it is, and an adapter whose base has the same vocabulary is served
    on that base. Otherwise base, embeddings and adapter are put together into a model folder in
    the settings' cache, which takes as long and as much memory as loading the base; the second
    time it is there. Call this off the event loop.

    Where the base's output head is a matrix of its own, 2024 saved the head's new rows only with
    some versions of PEFT. Lost rows become the mean of the others: they belong to the tokens that
    begin a turn, which no answer holds.

    Args:
        folder: Holds the adapter or the model, its tokenizer and `embed_tokens_weights.pt`.
        base: The adapter's base, where it is not the one that the adapter names.
        settings: Cache, token and offline switch.

    Returns:
        Model and adapter to open; device, number format and quantization are the caller's.

    Raises:
        ModelError: It is no such folder, or folder and base do not fit.
    """
    path = Path(folder).expanduser().resolve()
    if not is_folder_2024(path):
        raise ModelError(f"{folder}: no output folder of the 2024 example; it has no {EMBEDDINGS}")
    if not (path / ADAPTER_CONFIG).is_file():
        return ModelConfig(model=str(path))
    if not (path / "tokenizer_config.json").is_file():
        raise ModelError(f"{path}: has no tokenizer; 2024 saved one beside the adapter")
    config = ModelConfig(**base_of(path)) if base is None else ModelConfig(model=base)
    embeddings = _read_embeddings(path / EMBEDDINGS)
    if _vocabulary(config, settings) == embeddings.shape[0]:
        return ModelConfig(model=config.model, revision=config.revision, adapter=str(path))
    return ModelConfig(model=str(_made(path, config, embeddings, settings)))


def _read_embeddings(path: Path) -> torch.Tensor:
    import pickle

    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{path}: cannot be read as one tensor: {reason}") from error
    if not isinstance(found, torch.Tensor) or found.dim() != 2:
        raise ModelError(f"{path}: holds {type(found).__name__}; expected a matrix of embeddings")
    return found.detach()


def _vocabulary(config: ModelConfig, settings: Settings) -> int:
    """Embedding rows of a base, without loading its weights."""
    from transformers import AutoConfig

    resolved = plugins.resolve_model(config.model, config.revision, settings)
    gguf = {} if resolved.gguf_file is None else {"gguf_file": resolved.gguf_file}
    try:
        described = AutoConfig.from_pretrained(
            resolved.location,
            revision=resolved.revision,
            token=settings.hub_token.reveal() if settings.hub_token else None,
            local_files_only=settings.offline,
            **gguf,
        )
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"base {config.model!r}: cannot be read: {reason}") from error
    return int(described.get_text_config().vocab_size)


def _made(folder: Path, base: ModelConfig, embeddings: torch.Tensor, settings: Settings) -> Path:
    """The model folder, made unless it is there; its name follows from everything that is in it."""
    from agent_finetune.models.loading import base_digest

    resolved = plugins.resolve_model(base.model, base.revision, settings)
    parts = (
        base_digest(resolved, settings),
        digest(folder),
        sha256_of(folder / EMBEDDINGS, settings.cache_dir),
    )
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]
    place = settings.cache_dir / "folders2024" / f"{folder.name}-{key}"
    if not place.is_dir():
        model, tokenizer = _put_together(folder, base, embeddings, settings)
        with artifacts.new_folder(place) as new:
            model.save_pretrained(str(new))
            tokenizer.save_pretrained(str(new))
            facts = {"folder": str(folder), "base": base.model, "digests": list(parts)}
            artifacts.write_json(new / "made_from.json", facts)
    return place


def _put_together(
    folder: Path, base: ModelConfig, embeddings: torch.Tensor, settings: Settings
) -> tuple[Any, Any]:
    """Base, resized; its embeddings and head as saved; the adapter in its weights."""
    from peft import PeftModel
    from transformers import AutoTokenizer

    loaded = plugins.load_model(
        ModelConfig(
            model=base.model, revision=base.revision, device="cpu", dtype=_dtype(embeddings)
        ),
        settings,
    )
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    model = loaded.model
    width = model.get_input_embeddings().weight.shape[1]
    if embeddings.shape != (embeddings.shape[0], width) or embeddings.shape[0] < len(tokenizer):
        raise ModelError(
            f"{folder / EMBEDDINGS}: {tuple(embeddings.shape)}; expected at least "
            f"{len(tokenizer)} rows, the tokenizer's, of {width} numbers, those of {base.model!r}"
        )
    _resize(model, embeddings, _saved_head(folder))
    _end_as(model, tokenizer)
    try:
        whole: Any = PeftModel.from_pretrained(model, str(folder))
        return whole.merge_and_unload(safe_merge=True), tokenizer
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{folder}: does not fit its base {base.model!r}: {reason}") from error


def _resize(model: Any, embeddings: torch.Tensor, head: torch.Tensor | None) -> None:
    import torch

    rows = embeddings.shape[0]
    before = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(embeddings)
        output = model.get_output_embeddings().weight
        if output is model.get_input_embeddings().weight:
            return
        if head is not None:
            output.copy_(head)
        elif rows > before:
            output[before:] = output[:before].float().mean(dim=0).to(output.dtype)


def _saved_head(folder: Path) -> torch.Tensor | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / _WEIGHTS, framework="pt", device="cpu") as file:
            names = set(file.keys())
            found = next((name for name in _HEADS if name in names), None)
            return None if found is None else cast("torch.Tensor", file.get_tensor(found))
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{folder / _WEIGHTS}: cannot be read: {error}; adapters are read from this file only"
        ) from error


def _end_as(model: Any, tokenizer: Any) -> None:
    """Let the model end where its new tokenizer does, as the example did."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        for config in (model.config, model.generation_config):
            setattr(config, name, getattr(tokenizer, name))


def _dtype(embeddings: torch.Tensor) -> Dtype:
    name = str(embeddings.dtype).removeprefix("torch.")
    return cast("Dtype", name) if name in get_args(Dtype) else "float32"
