"""What an adapter's folder says of itself; reading it needs neither PEFT nor any weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent_finetune.config import ModelConfig
from agent_finetune.errors import ModelError
from agent_finetune.models.foreign import is_panic

ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"


def read_config(folder: Path) -> dict[str, Any]:
    """PEFT's own description of an adapter.

    Raises:
        ModelError: There is none in this folder, or it is not a JSON object.
    """
    try:
        described = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{folder}: no adapter here; an adapter folder has {ADAPTER_CONFIG}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{folder / ADAPTER_CONFIG}: cannot be read: {error}") from error
    if not isinstance(described, dict):
        kind = type(described).__name__
        raise ModelError(f"{folder / ADAPTER_CONFIG}: holds a {kind}; expected an object")
    return described


def base_of(folder: Path) -> dict[str, Any]:
    """`model` and `revision` of the base that an adapter names.

    Raises:
        ModelError: It cannot be read, or names none.
    """
    described = read_config(folder)
    name = described.get("base_model_name_or_path")
    if not name:
        raise ModelError(f"{folder / ADAPTER_CONFIG}: names no base model; give the model as well")
    named = {"model": name, "revision": described.get("revision")}
    for key, value in named.items():
        if not isinstance(value, str | None) or "\0" in (value or ""):
            raise ModelError(
                f"{folder / ADAPTER_CONFIG}: {key} of the base is {value!r:.60}; expected a name"
            )
    return named


def with_base(config: ModelConfig) -> ModelConfig:
    """Where an adapter's folder stands in for the model, name the base and the adapter apart.

    Raises:
        ModelError: The folder does not name its base.
    """
    folder = Path(config.model)
    if config.adapter is not None or not (folder / ADAPTER_CONFIG).is_file():
        return config
    return replace(config, **base_of(folder), adapter=str(folder))


def check_weights(folder: Path) -> None:
    """Refuse an adapter that has no safetensors file: PEFT would read a pickle, or ask a hub.

    Raises:
        ModelError: It has none.
    """
    if (folder / WEIGHTS).is_file():
        return
    if (folder / _PICKLE).is_file():
        raise ModelError(
            f"{folder}: its weights are {_PICKLE}, a pickle; pickles can run code and are not "
            f"read. Where the adapter was made, save it as {WEIGHTS} with save_pretrained"
        )
    raise ModelError(f"{folder / WEIGHTS}: not there; adapters are read from this file only")


def own_tokenizer(folder: Path, config: ModelConfig) -> Any | None:
    """The tokenizer that an adapter's folder holds, chat template included, or None.

    Raises:
        ModelError: It needs code of its own and that is off, or it cannot be read.
    """
    if not (folder / "tokenizer_config.json").is_file():
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=config.trust_remote_code
        )
        tokenizer("a")  # a broken one shows when it is used
        return tokenizer
    except BaseException as error:  # whatever a broken file makes of it means the same to the user
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        text = " ".join(str(error).split())
        if "trust_remote_code" in text:
            raise ModelError(
                f"{folder}: its tokenizer needs Python code that comes with it, and running that "
                "is off; read the code, then allow it with --trust-remote-code"
            ) from error
        raise ModelError(
            f"{folder}: its tokenizer cannot be read: {text[:300] or type(error).__name__}"
        ) from error


@contextmanager
def unchanging(folder: Path) -> Iterator[None]:
    """Refuse what the block has read of a folder that another one took the place of meanwhile.

    A run that is resumed puts its new adapter there in one step; who reads several files may then
    have some of the old one and some of the new.

    Raises:
        ModelError: It was replaced.
    """
    before = _identity(folder)
    try:
        yield
    except Exception as error:
        if _identity(folder) != before:
            raise replaced(folder) from error
        raise
    if _identity(folder) != before:
        raise replaced(folder)


def replaced(folder: Path) -> ModelError:
    """The error for a folder of which no whole state could be read."""
    return ModelError(f"{folder}: another adapter took its place while it was read; try again")


def _identity(folder: Path) -> tuple[int, ...] | None:
    try:
        found = folder.stat()
    except OSError:  # the reader says it better
        return None
    # The number alone is given again to the folder after the next.
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def digest(folder: Path) -> str:
    """sha256 over everything in an adapter's folder that changes an answer, as `sha256:...`.

    Left out are what only people read, and files of a training checkpoint.
    """
    names = (
        path for path in folder.iterdir() if path.suffix in (".safetensors", ".json", ".jinja")
    )
    total = hashlib.sha256()
    for path in sorted(names):
        with path.open("rb") as file:
            total.update(
                f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode()
            )
    return f"sha256:{total.hexdigest()}"
