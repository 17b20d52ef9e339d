"""Feedback on a conversation, for the model behind an agent of classic AutoGen.

    from autogen_finetune.update_model import update_model

The tool that AutoGen shipped as a sample in 2024, for any client with a method `update_model`, of
this package or not. Nothing of AutoGen is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from autogen_finetune.hf_client import HFModelClient
from autogen_finetune.registration import remember
from autogen_finetune.threads import Agent


class UpdateableModelClient(Protocol):
    """A model client (AutoGen's `ModelClient`) that can learn."""

    def create(self, params: dict[str, Any]) -> Any: ...

    def message_retrieval(self, response: Any) -> list[Any]: ...

    def cost(self, response: Any) -> float: ...

    @staticmethod
    def get_usage(response: Any) -> dict[str, Any]: ...

    def update_model(
        self, preference_data: Any, inference_messages: list[dict[str, Any]], **kwargs: Any
    ) -> dict[str, Any]:
        """Learn from feedback.

        Args:
            preference_data: What was given to the function `update_model`, as it is.
            inference_messages: The conversation that it is about, as OpenAI's dicts.
            **kwargs: Whatever else was given.

        Returns:
            Numbers that tell what came of it.
        """
        ...


def update_model(
    update_agent: Agent,
    preference_data: Sequence[Any] | None,
    other_agent: Any,
    **kwargs: Any,
) -> dict[str, Any]:
    """Let the model behind an agent learn from feedback on a conversation.

    AutoGen clears a conversation when the next one of the same two begins: update before that. It
    blocks until the model has learned; on an event loop call it by `asyncio.to_thread`.

    Args:
        update_agent: The agent whose model learns; it has one client, which can learn.
        preference_data: Goes to the client as it is. `HFModelClient` takes items of every shape
            that `feedback.read_feedback` lists, and for None what `thumbs_up`, `thumbs_down` and
            `correct` were told.
        other_agent: Whom it spoke with; in a group chat the manager.
        **kwargs: Go to the client as they are; for `HFModelClient` those of `LiveModel.update`.

    Returns:
        `update_stats`, what the client answered; `inference_messages`, a copy of the conversation;
        and `preference_data`, the object that was given.

    Raises:
        ValueError: The agent has no client or several, or the two did not speak.
        NotImplementedError: The client cannot learn.
    """
    if update_agent.client is None:
        raise ValueError(f"agent {update_agent.name!r} has no client: its llm_config is off")
    # `get`, for asking a defaultdict for somebody unknown would make a thread.
    thread = update_agent.chat_messages.get(other_agent)
    if not thread:
        peers = ", ".join(repr(peer.name) for peer in update_agent.chat_messages) or "nobody"
        raise ValueError(
            f"agent {update_agent.name!r} has no conversation with "
            f"{getattr(other_agent, 'name', other_agent)!r}; it spoke with {peers}"
        )
    messages = [dict(message) for message in thread]
    client = _client(update_agent)
    if isinstance(client, HFModelClient):
        remember(update_agent)
        stats = client.update_model(preference_data, messages, agent=update_agent, **kwargs)
    else:
        stats = client.update_model(preference_data, messages, **kwargs)
    return {
        "update_stats": stats,
        "inference_messages": messages,
        "preference_data": preference_data,
    }


def _client(agent: Agent) -> Any:
    """The one client of an agent, which can learn."""
    clients = agent.client._clients
    if len(clients) != 1:
        raise ValueError(
            f"agent {agent.name!r} has {len(clients)} clients, one for each entry of its "
            "config_list; only an agent with one can be updated"
        )
    (client,) = clients
    if callable(getattr(client, "update_model", None)):
        return client
    kind = type(client).__name__
    if kind == "PlaceHolderClient":
        named = client.config["model_client_cls"]
        raise NotImplementedError(
            f"agent {agent.name!r}: {named} is not registered; call "
            f"agent.register_model_client(model_client_cls={named}) first, and again whenever a "
            "tool was registered after it"
        )
    raise NotImplementedError(
        f"agent {agent.name!r}: {kind} has no method update_model and cannot learn"
    )
