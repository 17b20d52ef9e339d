"""`HFConfig`: a local model, as an agent of AG2 1.x is given one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from agent_finetune.contracts import Settings
from agent_finetune.errors import ConfigError
from autogen_finetune.ag2.client import HFClient
from autogen_finetune.config import read_config
from autogen_finetune.live import LiveModel
from autogen_finetune.oai import to_messages


class HFConfig:
    """A model of this process for agents: `Agent("helper", config=HFConfig(model=...))`.

    Making one loads nothing; the weights are loaded at the first answer, off the event loop, once
    for all configs that name the same. Agents that share a config share the weights and not what
    they learn: each has an adapter of its own, from its first update on, and so has each agent that
    AG2 makes for a subtask. Agents that are to learn together, or to know after a restart what
    they learned, name an adapter.

    Args:
        model: Hub id, local folder, GGUF file, or a shipped model.
        adapter: Name of the adapter that all agents of this config speak with and learn into, or
            the folder of one that each of them begins with.
        store: Folder in which the adapters of all names are.
        live: A live model to speak through, for all agents, instead of those opened from the rest.
        settings: Token, cache and offline switch; None reads environment and `.env`.
        **options: The other keys of `config.read_config`: how to hold the weights (`dtype`,
            `quantization`, `device`, ...), `record_to`, and how to generate (`max_tokens`,
            `temperature`, `seed`, `stop`, `thinking`, ...).

    Raises:
        ConfigError: A key is not known or has no legal value.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        adapter: str | Path | None = None,
        store: str | Path | None = None,
        live: LiveModel | None = None,
        settings: Settings | None = None,
        **options: Any,
    ) -> None:
        paths = {"model": model, "adapter": adapter, "store": store}
        self._entry = {
            **{key: str(value) for key, value in paths.items() if value is not None},
            **options,
        }
        self._config = read_config(self._entry, what="HFConfig")
        self._settings = settings
        self._given = live
        self._lives: WeakKeyDictionary[object, LiveModel] = WeakKeyDictionary()
        self._common: LiveModel | None = None
        self._lock = threading.Lock()

    @property
    def provider(self) -> Any:
        """None of AG2's.

        Raises:
            NotImplementedError: Always; AG2's enum of providers is closed, and this is how a config
                says that it is not in it.
        """
        raise NotImplementedError("a local model is none of AG2's providers")

    @property
    def model(self) -> str:
        """What the user typed."""
        return self._config.model.model

    @property
    def generation(self) -> Mapping[str, Any]:
        """How answers are generated: options of `contracts.Request`."""
        return self._config.generation

    def copy(self, /, **overrides: Any) -> HFConfig:
        """The same with other options; nothing that agents learned without a name is in it."""
        options = {"live": self._given, "settings": self._settings, **self._entry, **overrides}
        return HFConfig(**options)

    def create(self) -> HFClient:
        """A client, as AG2 makes one for every turn; it holds nothing but this config."""
        return HFClient(self)

    def create_files_client(self) -> Any:
        """There are no files.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(f"{type(self).__name__} does not support Files API.")

    def live_of(self, agent: object | None) -> LiveModel:
        """What answers an agent, and learns from it.

        Args:
            agent: None is whoever calls a client without an agent, such as a compaction.
        """
        if self._given is not None:
            return self._given
        with self._lock:
            if agent is None or self._config.adapter is not None:
                if self._common is None:
                    self._common = self._config.open(self._settings)
                return self._common
            if agent not in self._lives:
                self._lives[agent] = self._config.open(self._settings)
            return self._lives[agent]

    @property
    def live(self) -> LiveModel:
        """What answers the one agent that speaks through this config.

        Raises:
            ConfigError: Several do, each with an adapter of its own.
        """
        with self._lock:
            agents = list(self._lives)
        if len(agents) > 1:
            raise ConfigError(
                f"{len(agents)} agents speak through this HFConfig, and each learns by itself; "
                "give the agent that is meant, or name an adapter for all"
            )
        return self.live_of(*agents or [None])

    async def update_model(
        self,
        preference_data: Sequence[Any] | None,
        inference_messages: Sequence[Mapping[str, Any]],
        *,
        agent: object | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Learn from feedback, in a worker thread; answers go on meanwhile.

        Args:
            preference_data: As `LiveModel.update`.
            inference_messages: The conversation, as OpenAI's chat dicts.
            agent: Who learns; None is the one agent of this config.
            **kwargs: Those of `LiveModel.update`.

        Raises:
            FinetuneError: Nothing can be learned, or training failed; all stands as it was.
        """
        live = self.live if agent is None else self.live_of(agent)
        thread = to_messages(inference_messages, "inference_messages")
        update = await asyncio.to_thread(live.update, preference_data, thread, **kwargs)
        return update.stats()
