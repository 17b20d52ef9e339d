"""What a config of AutoGen says about a local model; one reading for every API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError
from autogen_finetune.live import LiveModel

MODEL_KEYS = tuple(spec.name for spec in fields(ModelConfig) if spec.name != "adapter")
LIVE_KEYS = ("adapter", "store", "record_to")
GENERATION_KEYS: Mapping[str, str] = {
    "max_tokens": "max_new_tokens",
    "max_new_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "repetition_penalty": "repetition_penalty",
    "seed": "seed",
    "stop": "stop",
    "thinking": "thinking",
}
"""What a config calls an option, and what a request calls it."""
NESTED = ("extra_body", "params")
"""Keys whose object is read as if its keys stood beside them: hosts that refuse keys they do not
know let `extra_body` through, and AutoGen's notebook of custom clients has `params`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientConfig:
    """A local model, the adapter that it learns into, and how it generates."""

    model: ModelConfig
    adapter: str | None = None
    """Name of an adapter in `store`; a folder of one is in `model` instead."""
    store: str | None = None
    record_to: str | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Options of `contracts.Request`, by their names there."""

    def open(self, settings: Settings | None = None) -> LiveModel:
        """The live model; nothing is loaded."""
        return LiveModel(
            self.model,
            adapter=self.adapter,
            store=self.store,
            record_to=self.record_to,
            settings=settings,
        )


def read_config(
    entry: Mapping[str, Any], *, ignored: tuple[str, ...] = (), what: str = "config"
) -> ClientConfig:
    """Read a config entry.

    `adapter` is the name of an adapter whose versions are in `store`, or the folder of one.

    Args:
        entry: Keys of MODEL_KEYS, LIVE_KEYS and GENERATION_KEYS, beside each other or under the
            NESTED ones.
        ignored: Keys that are the host's own.
        what: What the entry is called in messages.

    Raises:
        ConfigError: A key is not known, comes twice with different values, or has no legal value.
    """
    said = _flat(entry, what)
    legal = {*MODEL_KEYS, *LIVE_KEYS, *GENERATION_KEYS, *NESTED}
    for key in said.keys() - legal - set(ignored):
        known = ", ".join(sorted(legal - set(NESTED)))
        raise ConfigError(f"{what}: no key {key!r} is known; legal are {known}")
    if not said.get("model"):
        raise ConfigError(f"{what}: no model; give a hub id, a folder or a GGUF file")
    adapter = said.get("adapter")
    folder = None
    if adapter is not None and (Path(adapter) / "adapter_config.json").is_file():
        adapter, folder = None, str(adapter)
    return ClientConfig(
        model=ModelConfig(**{k: said[k] for k in MODEL_KEYS if k in said}, adapter=folder),
        adapter=adapter,
        store=said.get("store"),
        record_to=said.get("record_to"),
        generation=read_options(said, what),
    )


def _flat(entry: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The entry with what is nested laid beside the rest; None counts as not said."""
    said = {key: value for key, value in entry.items() if value is not None and key not in NESTED}
    for nest in NESTED:
        inner = entry.get(nest) or {}
        if not isinstance(inner, Mapping):
            raise ConfigError(f"{what}: {nest} is {inner!r}; it must be an object")
        for key, value in inner.items():
            if said.setdefault(key, value) != value:
                raise ConfigError(f"{what}: {key} is {said[key]!r} and in {nest} {value!r}")
    return said


def read_options(said: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Options of `contracts.Request` among keys of GENERATION_KEYS; others are passed over.

    Raises:
        ConfigError: Two keys mean one option and differ.
    """
    options: dict[str, Any] = {}
    for key, name in GENERATION_KEYS.items():
        if key in said and options.setdefault(name, said[key]) != said[key]:
            raise ConfigError(f"{what}: {name} is {options[name]!r} and, as {key}, {said[key]!r}")
    stop = options.get("stop")
    if isinstance(stop, str):
        options["stop"] = (stop,)
    return options
