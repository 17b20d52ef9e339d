"""What `HFModelClient` answers classic AutoGen: plain values, which may lie in its cache."""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MethodType
from typing import Any, Protocol, runtime_checkable

from agent_finetune.contracts import Result

_NAME = re.compile(r'"name"\s*:\s*"([^"]+)"')
_LETTERS = string.ascii_letters + string.digits


@runtime_checkable
class Renews(Protocol):
    """A client that can tell whether it would still answer so, and answers anew if not."""

    def renew(self, response: HFResponse) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a call asked, whoever answers it; JSON, for AutoGen logs responses."""

    messages: list[Mapping[str, Any]]
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str = "auto"
    schema: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of `contracts.Request` that go before those of the client."""
    count: int | None = None
    """How many answers; None is as many as the client is set to."""
    functions: bool = False
    """Tools were offered as the `functions` of before, which are answered by `function_call`."""


@dataclass(kw_only=True)
class Usage:
    """Tokens of all answers of a response."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(kw_only=True)
class ChoiceMessage:
    """One answer, with OpenAI's names."""

    content: str | None
    role: str = "assistant"
    tool_calls: list[dict[str, Any]] | None = None
    function_call: dict[str, Any] | None = None

    def retrieved(self) -> str | dict[str, Any]:
        """The answer as AutoGen takes it: words, or with calls a message."""
        if not self.tool_calls and not self.function_call:
            return self.content or ""
        calls = {"tool_calls": self.tool_calls, "function_call": self.function_call}
        given = {key: value for key, value in calls.items() if value}
        return json.loads(json.dumps({"content": self.content, "role": self.role, **given}))  # type: ignore[no-any-return]


@dataclass(kw_only=True)
class Choice:
    """One of the `n` answers."""

    message: ChoiceMessage
    index: int
    finish_reason: str


@dataclass(kw_only=True)
class HFResponse:
    """A response that AutoGen may keep, pickle and change; nothing of the model is in it.

    AutoGen binds `message_retrieval_function` to its client before anything else is done with a
    response, and again whenever the response comes out of a cache. The cache's key knows neither
    what was learned since nor the options of another client, so a client that would not answer so
    any more is asked anew then.
    """

    id: str
    """The engine's id of the first answer: feedback may name it."""
    choices: list[Choice]
    model: str
    created: int
    usage: Usage
    revision: str
    """Of the live model, when it was asked."""
    asked: Asked
    made_with: Mapping[str, Any]
    """Options that it was answered with."""
    cost: float = field(default_factory=float)  # no attribute of the class: see `renewed`
    config_id: int | None = None
    pass_filter: bool | None = None

    def __post_init__(self) -> None:
        self._retrieve: Callable[..., Any] | None = None
        self._kept = False

    @property
    def message_retrieval_function(self) -> Callable[..., Any] | None:
        """What AutoGen bound last."""
        return self._retrieve

    @message_retrieval_function.setter
    def message_retrieval_function(self, retrieve: Callable[..., Any] | None) -> None:
        self._retrieve = retrieve
        kept, self._kept = self._kept, True
        if kept and isinstance(retrieve, MethodType) and isinstance(retrieve.__self__, Renews):
            retrieve.__self__.renew(self)

    def renewed(self, other: HFResponse) -> None:
        """Become another response.

        Without a cost, AutoGen asks the client for it and puts the response into its cache again.
        """
        for name in ("id", "choices", "created", "usage", "revision", "made_with"):
            setattr(self, name, vars(other)[name])
        del self.cost

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_retrieve": None, "_kept": True}


def choice_of(result: Result, asked: Asked, index: int) -> Choice:
    """An answer of the engine; calls that do not parse are calls that the host answers itself."""
    message = result.message
    calls = [_call(call.name, json.dumps(call.arguments)) for call in message.tool_calls]
    calls += [_broken(raw, asked.tools) for raw in result.broken_calls]
    said = ChoiceMessage(content=message.text or None if calls else message.text)
    if asked.functions and len(calls) == 1:  # more than one is told by tool_calls alone
        said.function_call = calls[0]["function"]
    else:
        said.tool_calls = calls or None
    return Choice(message=said, index=index, finish_reason=_finish(result, said))


def _finish(result: Result, said: ChoiceMessage) -> str:
    if said.function_call and result.finish == "tool_calls":
        return "function_call"
    return result.finish


def _call(name: str, arguments: str) -> dict[str, Any]:
    """A call under a fresh id of nine letters and digits, for Mistral's templates refuse others."""
    made = "".join(secrets.choice(_LETTERS) for _ in range(9))
    return {"id": made, "type": "function", "function": {"name": name, "arguments": arguments}}


def _broken(raw: str, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A call with arguments that are no object, so that no host makes it and the model hears why.

    Args:
        raw: What the model said.
        tools: Tools offered.
    """
    names = [str(tool["function"]["name"]) for tool in tools]
    found = _NAME.search(raw)
    name = found.group(1) if found else next((n for n in names if n in raw), "unknown")
    try:
        json.loads(raw)
    except ValueError:
        return _call(name, raw)
    return _call(name, json.dumps(raw))
