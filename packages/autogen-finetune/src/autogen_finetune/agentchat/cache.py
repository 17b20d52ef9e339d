"""AutoGen's cache of answers, which knows with which weights they were made; needs autogen-ext."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autogen_ext.models.cache import ChatCompletionCache

from agent_finetune.errors import ConfigError
from autogen_finetune.agentchat.client import HFChatCompletionClient
from autogen_finetune.live import LiveModel

if TYPE_CHECKING:
    from autogen_core import CacheStore
    from autogen_core.models import CreateResult, LLMMessage
    from autogen_core.tools import Tool, ToolSchema
    from autogen_ext.models.cache import CHAT_CACHE_VALUE_TYPE
    from pydantic import BaseModel


class RevisionedCache(ChatCompletionCache):
    """`ChatCompletionCache`, whose answers are not those of weights that were since updated.

    The host's own knows an answer by what was asked alone: after an update it gives the answers
    of before, and with a store on disk those of any other model. Here they are known by the
    revision and the generation options too, so that what was kept speaks again after a roll-back.

    Args:
        client: The client that answers what is not in the cache.
        store: Where answers are kept; None is in memory.

    Raises:
        ConfigError: The client is none of ours.
    """

    component_provider_override = "autogen_finetune.agentchat.cache.RevisionedCache"

    def __init__(
        self,
        client: HFChatCompletionClient,
        store: CacheStore[CHAT_CACHE_VALUE_TYPE] | None = None,
    ) -> None:
        if not isinstance(client, HFChatCompletionClient):
            raise ConfigError(f"client is {client!r}; it must be an HFChatCompletionClient")
        super().__init__(client, store)
        self._local = client

    @property
    def live(self) -> LiveModel:
        """What answers, and learns."""
        return self._local.live

    async def update_model(
        self,
        preference_data: Sequence[Any] | None,
        inference_messages: Sequence[Mapping[str, Any]],
        **kwargs: Any,
    ) -> dict[str, Any]:
        """See `HFChatCompletionClient.update_model`."""
        return await self._local.update_model(preference_data, inference_messages, **kwargs)

    def _check_cache(
        self,
        messages: Sequence[LLMMessage],
        tools: Sequence[Tool | ToolSchema],
        json_output: bool | type[BaseModel] | None,
        extra_create_args: Mapping[str, Any],
    ) -> tuple[CreateResult | list[str | CreateResult] | None, str]:
        """The host's, asked for what this model would say now."""
        made_with = {"revision": self._local.revision, "generation": dict(self._local.generation)}
        asked = {**extra_create_args, "made_with": made_with}
        return super()._check_cache(messages, tools, json_output, asked)
