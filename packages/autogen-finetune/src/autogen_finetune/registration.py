"""How an agent of classic AutoGen gets `HFModelClient`, and keeps it when AutoGen rebuilds."""

from __future__ import annotations

import functools
import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, MutableMapping
from types import MethodType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from agent_finetune.errors import ConfigError
from autogen_finetune.config import read_config
from autogen_finetune.hf_client import SPEAKERS, SPEAKS_AS, HFModelClient, Speaker

Agent = TypeVar("Agent")
"""A `ConversableAgent` of any classic AutoGen; their types differ, so that none is named here."""

CLIENT = HFModelClient.__name__
"""What a config entry says under `model_client_cls`."""
REBUILDING = ("update_tool_signature", "update_function_signature")
"""Methods of an agent that make its clients again, and forget who was registered."""

_held: WeakKeyDictionary[Any, tuple[Speaker, ...]] = WeakKeyDictionary()
_marks: defaultdict[str, itertools.count[int]] = defaultdict(lambda: itertools.count(1))
_lock = threading.Lock()


def llm_config(model: str, *, cache_seed: int | None = None, **options: Any) -> dict[str, Any]:
    """An `llm_config` that every classic AutoGen takes, and that `HFModelClient` answers.

    Args:
        model: Hub id, folder or GGUF file.
        cache_seed: AutoGen's cache of answers; None, against the default of 0.2, is none.
        **options: The other keys of `config.read_config`, and `n`.

    Raises:
        ConfigError: A key is not known or has no legal value.
    """
    plain = {key: value if _is_json(value) else str(value) for key, value in options.items()}
    read_config({"model": str(model), **plain}, ignored=("n",), what="llm_config")
    entry = {"model": str(model), "model_client_cls": CLIENT, "extra_body": plain}
    return {"config_list": [entry], "cache_seed": cache_seed}


def attach(agent: Agent, **options: Any) -> Agent:
    """Register `HFModelClient` for an agent, for good.

    The client survives that a tool is registered later, and goes on with what it learned. Agents
    that AutoGen makes from this one's `llm_config`, such as the one that selects a group chat's
    next speaker, speak as this one does. Twice is fine.

    Args:
        agent: With entries in its `llm_config` that name "HFModelClient".
        **options: Those of `HFModelClient`; they go for every such entry, also where a client was
            registered before.

    Returns:
        The agent.

    Raises:
        ConfigError: No entry names HFModelClient, or an option is not legal.
    """
    _attach(agent, options)
    return agent


def _attach(agent: Any, options: Mapping[str, Any]) -> None:
    if agent.client is None:
        raise ConfigError(f"agent {agent.name!r} has no llm_config; there is nothing to register")
    clients = agent.client._clients
    for index, client in enumerate(clients):
        if isinstance(client, HFModelClient) and options:
            clients[index] = HFModelClient(client.written, before=client.speaker, **options)
    _register(agent.client, options)
    if not remember(agent):
        raise ConfigError(
            f"agent {agent.name!r}: no entry of llm_config has 'model_client_cls': {CLIENT!r}"
        )
    for name in REBUILDING:
        agent.__dict__[name] = MethodType(_REBUILDS[name], agent)


def remember(agent: Any) -> int:
    """Mark in an agent's own `llm_config` who speaks behind its clients of ours.

    A client that is registered for it again, by anyone, then goes on with what was learned.

    Returns:
        How many clients of ours it has.
    """
    ours = {i: c for i, c in enumerate(agent.client._clients) if isinstance(c, HFModelClient)}
    config = agent.llm_config
    if isinstance(config, dict) and "config_list" in config:  # in 0.2 one dict may be there twice
        config["config_list"] = [dict(entry) for entry in config["config_list"]]
    for index, client in ours.items():
        _mark(agent, _entries(agent)[index], client.speaker)
    _held[agent] = tuple(client.speaker for client in ours.values())
    return len(ours)


def detach(agent: Any) -> None:
    """Undo what `attach` did to an agent; its client stays until AutoGen makes it again."""
    for name in REBUILDING:
        agent.__dict__.pop(name, None)
    for entry in _entries(agent):
        extra = {k: v for k, v in (entry.get("extra_body") or {}).items() if k != SPEAKS_AS}
        entry["extra_body"] = extra or None
    _held.pop(agent, None)


class _AutoRegistration:
    """The one change to AutoGen's code: wrappers register `HFModelClient` as they are made."""

    original: Callable[..., None] | None = None
    ours: Callable[..., None] | None = None
    options: Mapping[str, Any] | None = None


def enable_auto_registration(**options: Any) -> None:
    """Register `HFModelClient` wherever a config names it, as soon as AutoGen reads the config.

    That reaches agents which AutoGen makes for itself and where nobody can register anything: the
    one that selects a group chat's next speaker in 0.2, those of capabilities and guardrails. It
    wraps `OpenAIWrapper._register_default_client`, for agents that are made from now on.
    `disable_auto_registration` takes it back; twice is fine.

    Args:
        **options: Those of `HFModelClient`, for every client that is made so.
    """
    wrapper = _wrapper()
    with _lock:
        _AutoRegistration.options = options
        if _AutoRegistration.ours is not None:
            return
        original = wrapper._register_default_client

        @functools.wraps(original)
        def register(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            if _AutoRegistration.options is not None:
                _register(self, _AutoRegistration.options)

        _AutoRegistration.original, _AutoRegistration.ours = original, register
        wrapper._register_default_client = register


def disable_auto_registration() -> None:
    """Take `enable_auto_registration` back; clients that were made stay."""
    wrapper = _wrapper()
    with _lock:
        _AutoRegistration.options = None
        if wrapper._register_default_client is _AutoRegistration.ours:
            wrapper._register_default_client = _AutoRegistration.original
            _AutoRegistration.original = _AutoRegistration.ours = None


def _wrapper() -> Any:
    from autogen import OpenAIWrapper

    return OpenAIWrapper


def _register(wrapper: Any, options: Mapping[str, Any]) -> None:
    from autogen.oai.client import PlaceHolderClient

    for client in list(wrapper._clients):
        if isinstance(client, PlaceHolderClient) and client.config["model_client_cls"] == CLIENT:
            wrapper.register_model_client(HFModelClient, **options)


def _rebuild(name: str, agent: Any, *args: Any, **kwargs: Any) -> None:
    """Let AutoGen make the clients again, and register ours, which find their speakers."""
    getattr(type(agent), name)(agent, *args, **kwargs)
    _register(agent.client, {})


_REBUILDS = {name: functools.partial(_rebuild, name) for name in REBUILDING}


def _mark(agent: Any, entry: MutableMapping[str, Any], speaker: Speaker) -> None:
    """Write into an agent's own config who speaks; the same in every run of a program."""
    extra = entry.get("extra_body") or {}
    mark = extra.get(SPEAKS_AS)
    if mark is None or SPEAKERS.get(mark) is not speaker:
        with _lock:
            mark = f"{agent.name}#{next(_marks[agent.name])}"
        entry["extra_body"] = {**extra, SPEAKS_AS: mark}
    SPEAKERS[mark] = speaker


def _entries(agent: Any) -> list[MutableMapping[str, Any]]:
    """Entries of the agent's config, in the order of its clients."""
    config = agent.llm_config
    if not config:
        return []
    return list(config["config_list"]) if "config_list" in config else [config]


def _is_json(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float, bool, list, dict))
