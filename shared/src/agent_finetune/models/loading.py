"""Load base weights and tokenizer, in the number format and on the device that were asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agent_finetune.config import ModelConfig
from agent_finetune.contracts import LoadedModel, ResolvedModel, Settings
from agent_finetune.errors import ModelError
from agent_finetune.models import downloaded, gguf, hardware, hub, quantization
from agent_finetune.models.digests import digest_of, sha256_of
from agent_finetune.models.foreign import in_one_line, is_panic
from agent_finetune.models.one_at_a_time import one_at_a_time
from agent_finetune.models.quiet import quiet
from agent_finetune.models.resolving import NO_SAFETENSORS

_log = logging.getLogger(__name__)


def load(config: ModelConfig, resolved: ResolvedModel, settings: Settings) -> LoadedModel:
    """Load base weights and tokenizer; `config.adapter` is not looked at.

    Weights that are stored in bitsandbytes' 4 or 8 bits are held so, and the config says so.

    The model is in evaluation mode, its generation settings are its own. A tokenizer without a
    padding token gets its end (or unknown) token for it. The chat template may be None.

    Raises:
        ModelError: It is not a causal language model that Transformers can read from safetensors,
            it needs code of its own and that is off, or this device cannot hold it so.
    """
    device = hardware.pick_device(config.device)
    dtype = hardware.pick_dtype(config.dtype, device)
    attention = hardware.pick_attention(config.attention, device)
    with (
        one_at_a_time,
        quiet(),
        quantization.answered(),
        _errors_told(config, resolved, settings),
    ):
        packed = quantization.quantization_config(config, dtype, device)
        place = _place(resolved, dtype, settings)
        common = _common(config, resolved, settings)
        tokenizer = AutoTokenizer.from_pretrained(place, **common)
        tokenizer("a")  # a broken one shows when it is used
        auto_model: Any = AutoModelForCausalLM  # its types forget output_loading_info
        model, report = auto_model.from_pretrained(
            place,
            dtype=dtype,
            # Straight to the GPU; a plain CPU model needs no map.
            device_map=None if device.type == "cpu" and not packed else {"": str(device)},
            attn_implementation=attention,
            # Not even None: it makes Transformers take what is stored in 8 bits for plain numbers.
            **({"quantization_config": packed} if packed else {}),
            use_safetensors=True,
            output_loading_info=True,
            **common,
        )
        digest = base_digest(resolved, settings)
    _check_complete(resolved, report)
    config = quantization.as_held(config, model, resolved)
    if config.quantization != "none":
        quantization.keep_trainable(model)
    _ensure_pad_token(resolved, tokenizer)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        resolved=resolved,
        config=config,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        digest=digest,
    )


def load_tokenizer(config: ModelConfig, resolved: ResolvedModel, settings: Settings) -> Any:
    """Load the tokenizer that `load` would load, without unpacking or reading any weights.

    Raises:
        ModelError: There is no tokenizer that Transformers can read.
    """
    with quiet(), _errors_told(config, resolved, settings):
        if resolved.gguf_file:
            file = Path(resolved.location) / resolved.gguf_file
            tokenizer = gguf.load_tokenizer(resolved.name, file, settings.cache_dir)
        else:
            tokenizer = AutoTokenizer.from_pretrained(
                resolved.location, **_common(config, resolved, settings)
            )
        tokenizer("a")
    _ensure_pad_token(resolved, tokenizer)
    return tokenizer


def base_digest(resolved: ResolvedModel, settings: Settings) -> str:
    """What the base weights are: `commit:...` for a hub id, else `sha256:...` of their files.

    For a GGUF file it is the file's own, not that of the folder it is unpacked into.
    """
    if resolved.revision is not None:
        return f"commit:{resolved.revision}"
    folder = Path(resolved.location)
    if resolved.gguf_file:
        return f"sha256:{sha256_of(folder / resolved.gguf_file, settings.cache_dir)}"
    return digest_of(folder.glob("*.safetensors"), settings.cache_dir)


def _place(resolved: ResolvedModel, dtype: torch.dtype, settings: Settings) -> str:
    """Folder or hub id that Transformers reads; a GGUF file becomes a folder first."""
    if resolved.gguf_file is None:
        return resolved.location
    file = Path(resolved.location) / resolved.gguf_file
    return str(gguf.converted_folder(resolved.name, file, dtype, settings.cache_dir))


def _common(config: ModelConfig, resolved: ResolvedModel, settings: Settings) -> dict[str, Any]:
    return {
        "revision": resolved.revision,
        "token": hub.token(settings),
        "local_files_only": settings.offline,
        "trust_remote_code": config.trust_remote_code,
    }


@contextmanager
def _errors_told(
    config: ModelConfig, resolved: ResolvedModel, settings: Settings
) -> Iterator[None]:
    """Turn what the libraries raise while reading a model into one line for the user."""
    try:
        yield
        downloaded.check(resolved, settings)
    except ModelError:
        raise
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"model {resolved.name!r} does not fit on device {config.device!r}: "
            f"{hub.first_line(error)}; free memory, or use --quantization 4bit"
        ) from error
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        downloaded.check(resolved, settings)  # a damaged file is the reason, then
        told = hub.explain(error, resolved.name, config.revision, settings)
        told = told or _unreadable(resolved.name, error)
        if settings.offline and resolved.revision is not None:
            told += "; HF_HUB_OFFLINE is set and the cache may hold only a part: go online once"
        raise ModelError(hub.masked(told, settings)) from hub.without_token(error, settings)


def _unreadable(name: str, error: BaseException) -> str:
    text = " ".join(str(error).split())
    # Transformers has no classes of its own for these two; its messages name the argument.
    if isinstance(error, ValueError) and "trust_remote_code" in text:
        return (
            f"model {name!r} needs Python code that comes with it, and running that is off; read "
            "the code, then allow it with --trust-remote-code"
        )
    if isinstance(error, OSError) and "use_safetensors" in text:
        return f"model {name!r} {NO_SAFETENSORS}"
    return f"model {name!r} cannot be read: {in_one_line(error)}"


def _check_complete(resolved: ResolvedModel, report: Mapping[str, Any]) -> None:
    """Refuse weights with holes: Transformers fills them with random numbers."""
    missing = sorted(report["missing_keys"])
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ModelError(
            f"model {resolved.name!r}: its files lack {len(missing)} weights ({shown}); they are "
            "incomplete, or not those of a causal language model"
        )


def _ensure_pad_token(resolved: ResolvedModel, tokenizer: Any) -> None:
    """Give the tokenizer a padding token; padding is hidden from the model, so any will do."""
    if tokenizer.pad_token is not None:
        return
    token = tokenizer.eos_token or tokenizer.unk_token
    if token is None:
        raise ModelError(
            f"model {resolved.name!r}: its tokenizer has no padding, end or unknown token; add "
            "pad_token to its tokenizer_config.json"
        )
    tokenizer.pad_token = token
    _log.info("%s: the tokenizer has no padding token, %r is used", resolved.name, token)
