"""The short way to give feedback: what one thinks of an agent's last answer.

    thumbs_down(assistant)
    correct(assistant, "Paris is in France.")
    learn(assistant)

For agents of all three AutoGens whose model is one of ours. What is said is kept, at an agent's
model, until it is learned: by `learn`, or by an `update_model` whose `preference_data` is None.
Each function answers the item that it kept, which may be given to `update_model` itself as well.
Where the agent's config has `record_to`, it is also recorded there. A correction can be learned
alone, thumbs from two answers on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from agent_finetune.contracts import Exchange
from agent_finetune.errors import ConfigError, DataError
from agent_finetune.feedback.words import clean, quoted
from agent_finetune.records import Message
from autogen_finetune.hf_client import HFModelClient
from autogen_finetune.live import IGNORED, LiveModel
from autogen_finetune.oai import to_messages
from autogen_finetune.registration import remember
from autogen_finetune.threads import Agent, newest, own_answers


def thumbs_up(agent: Any, *, answer: str | None = None) -> dict[str, Any]:
    """Say that an agent's last answer was good.

    Args:
        agent: An agent, a model client or a `LiveModel`.
        answer: The words of the answer that is meant instead.

    Returns:
        The item, `{"id", "label"}`.

    Raises:
        ConfigError: No model of ours is behind the agent.
        DataError: It said nothing yet, or which answer is meant is not known.
    """
    return live_model(agent).judge(_meant(agent, answer), value=True)


def thumbs_down(agent: Any, *, answer: str | None = None) -> dict[str, Any]:
    """Say that an agent's last answer was bad; as `thumbs_up`."""
    return live_model(agent).judge(_meant(agent, answer), value=False)


def correct(agent: Any, text: str, *, answer: str | None = None) -> dict[str, Any]:
    """Say what an agent's last answer should have been; as `thumbs_up`.

    It replaces what thumbs said of the same answer. The item is `{"id", "correction"}`.
    """
    return live_model(agent).judge(_meant(agent, answer), correction=text)


def learn(agent: Any, **options: Any) -> dict[str, Any]:
    """Learn from what was said with the three functions above, and was not learned yet.

    What an update that was rejected was put to is kept for the next one. Blocks; on an event loop
    call it by `asyncio.to_thread`.

    Args:
        agent: As `thumbs_up`.
        **options: Those of `LiveModel.update`.

    Returns:
        What `update_model` has under `update_stats`.

    Raises:
        FinetuneError: Nothing was judged, or training failed; all stands as it was.
    """
    live = live_model(agent)
    if isinstance(agent, _Named):
        options.setdefault("speaker", agent.name)
    return live.update(None, **options).stats()


def live_model(agent: Any) -> LiveModel:
    """The model behind an agent of any AutoGen, or behind a model client.

    Raises:
        ConfigError: There is none of ours.
    """
    if isinstance(agent, LiveModel):
        return agent
    if isinstance(agent, Agent):
        return _of_classic(agent)
    client = agent._model_client if isinstance(agent, _Chat) else agent
    if isinstance(agent, _Configured):
        client = agent.config
        if isinstance(client, _PerAgent):
            return client.live_of(agent)
    if isinstance(client, _Live) and isinstance(client.live, LiveModel):
        return client.live
    what = f"{type(agent).__name__} {agent.name!r}" if isinstance(agent, _Named) else f"{agent!r}"
    raise ConfigError(
        f"{what} speaks with {type(client).__name__}; feedback can be given to agents whose model "
        "is an HFModelClient, an HFChatCompletionClient or an HFConfig"
    )


def _of_classic(agent: Agent) -> LiveModel:
    clients = [] if agent.client is None else agent.client._clients
    ours = [client for client in clients if isinstance(client, HFModelClient)]
    if len(ours) == 1:
        remember(agent)
        return ours[0].live
    raise ConfigError(
        f"agent {agent.name!r} has {len(ours)} clients that are an HFModelClient; feedback needs "
        "one, registered by `attach` or `register_model_client`"
    )


def _meant(agent: Any, words: str | None) -> Exchange:
    """The exchange that feedback is about: the last one, or the last with these words."""
    log = live_model(agent).log()
    if words is not None:
        wanted = clean(words, IGNORED)
        log = [each for each in log if clean(each.result.message.text, IGNORED) == wanted]
    if not log:
        said = "nothing that its log holds" if words is None else f"not {words!r}"
        raise DataError(f"{_name(agent)} said {said}; there is no answer to judge")
    if words is not None:
        return log[-1]
    if isinstance(agent, Agent):
        return _last_of_classic(agent, _prompted(log, [agent.system_message]))
    if isinstance(agent, _Chat):
        return _last_of_chat(agent, log)
    return _last_of_ag2(agent, log) if isinstance(agent, _Configured) else log[-1]


def _last_of_classic(agent: Agent, log: Sequence[Exchange]) -> Exchange:
    """The last answer in the agent's chats; where none of the log is in one, the last of the log.

    Raises:
        DataError: Something was generated after it that is in no chat of the agent.
    """
    found = newest(log, own_answers(agent))
    if found is not None and found is not log[-1]:
        one, other = quoted(found.result.message), quoted(log[-1].result.message)
        raise DataError(
            f"{agent.name!r} said {one} in a chat and {other} after that, outside of its chats; "
            "give the words that are meant, as answer="
        )
    return log[-1]


def _last_of_chat(agent: _Chat, log: Sequence[Exchange]) -> Exchange:
    """The last answer in the agent's context, for many agents may speak through one client."""
    from autogen_core.models import SystemMessage

    told = [m.content for m in agent._system_messages if isinstance(m, SystemMessage)]
    log = _prompted(log, told)
    return newest(log, _in_context(agent)) or log[-1]


def _last_of_ag2(agent: _Configured, log: Sequence[Exchange]) -> Exchange:
    """The last answer under the agent's prompts, for many agents may learn into one adapter."""
    asked = ["\n".join(m.text for m in e.request.messages if m.role == "system") for e in log]
    told = agent.system_prompt
    own = [e for e, system in zip(log, asked, strict=True) if all(each in system for each in told)]
    return (own or log)[-1]


def _in_context(agent: _Chat) -> Iterator[Message]:
    from autogen_finetune.agentchat.messages import to_dicts

    dicts = to_dicts(agent.model_context._messages, speaker=agent.name)
    yield from (m for m in to_messages(dicts) if m.role == "assistant")


def _prompted(log: Sequence[Exchange], system: Sequence[str]) -> Sequence[Exchange]:
    """Those of the log that were asked under an agent's own system message, or all if none was.

    That leaves out a chat's summary, the choice of a next speaker, and agents that share a model.
    """
    own = [
        each
        for each in log
        if [m.text for m in each.request.messages if m.role == "system"][: len(system)]
        == list(system)
    ]
    return own or log


def _name(agent: Any) -> str:
    return repr(agent.name) if isinstance(agent, _Named) else type(agent).__name__


@runtime_checkable
class _Named(Protocol):
    name: str


@runtime_checkable
class _Live(Protocol):
    """A model client of ours, or what makes one."""

    @property
    def live(self) -> LiveModel: ...


@runtime_checkable
class _Chat(Protocol):
    """`AssistantAgent` of agentchat, which has no public name for its client."""

    _model_client: Any
    _system_messages: Sequence[Any]

    @property
    def name(self) -> str: ...

    @property
    def model_context(self) -> Any: ...


@runtime_checkable
class _Configured(Protocol):
    """`Agent` of AG2 1.x."""

    config: Any

    @property
    def system_prompt(self) -> Sequence[str]: ...


@runtime_checkable
class _PerAgent(Protocol):
    """`HFConfig`, which many agents may have."""

    def live_of(self, agent: object) -> LiveModel: ...
