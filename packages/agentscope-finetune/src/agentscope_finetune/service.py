"""AgentScope's agent service on local models: the arguments of `create_app`."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

from agentscope.agent import Agent
from agentscope.event import TextBlockDeltaEvent, TextBlockEndEvent, TextBlockStartEvent
from agentscope.middleware import MiddlewareBase
from agentscope.workspace import WorkspaceBase
from starlette.middleware import Middleware
from starlette.responses import JSONResponse

from agent_finetune.config import ModelConfig
from agent_finetune.errors import FinetuneError
from agent_finetune.models import SHIPPED
from agentscope_finetune import policy
from agentscope_finetune.agent import FineTuneAgent
from agentscope_finetune.credential import TransformersCredential
from agentscope_finetune.model import TransformersChatModel
from agentscope_finetune.recorder import ConversationRecorder

MiddlewareFactory: TypeAlias = Callable[
    [str, str, str, WorkspaceBase], Awaitable[list[MiddlewareBase]]
]
"""The host's: user, agent, session and workspace of a turn to the middlewares of its agent."""
_Scope: TypeAlias = MutableMapping[str, Any]
_Message: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[_Message]]
_Send: TypeAlias = Callable[[_Message], Awaitable[None]]
_App: TypeAlias = Callable[[_Scope, _Receive, _Send], Awaitable[None]]

_CREDENTIAL_TYPE = TransformersCredential.model_fields["type"].default
_TYPES = (_CREDENTIAL_TYPE, TransformersChatModel.type)
"""What a form may call us in the `type` of a model."""
_LARGEST = 1 << 20
"""Bytes of a request that are read for what it asks of us; such requests have a few hundred."""


def service_options(
    *,
    model_roots: Sequence[Path | str] = (),
    trust_remote_code: bool = False,
    record_to: Path | str | None = None,
    fine_tunable: bool = True,
    tools: Sequence[str] | None = None,
    runtime_state: bool = True,
    middlewares: MiddlewareFactory | None = None,
) -> dict[str, Any]:
    """Arguments for `agentscope.app.create_app(storage, message_bus, workspace_manager, **these)`.

    The host makes a model and an agent for each turn of a chat. Both cost nothing: the weights are
    loaded at the first turn, once for all users, agents and sessions of this process.

    Args:
        model_roots: Folders under which users may name models, adapters and runs.
        trust_remote_code: Whether users may have code run that comes with a model.
        record_to: Database in which each model call is kept, redacted, under the ids of its agent
            and session; None keeps nothing.
        fine_tunable: Whether agents are `FineTuneAgent`, or the host's own.
        tools: Names of the tools that agents keep. None keeps all that the service gives them:
            sixteen, some 7,000 tokens of each prompt, and Bash is among them; () keeps none.
        runtime_state: Whether the host tells the model the time, and such, behind each question. A
            small model takes that for the question.
        middlewares: Answers further middlewares, in the host's form with four arguments.

    Returns:
        extra_credentials, custom_agent_cls, extra_agent_middlewares, and extra_middlewares, which
        answer what `policy` refuses with status 422 and the reason.

    Raises:
        ConfigError: A root is no folder.
    """
    policy.allow_models(roots=model_roots, trust_remote_code=trust_remote_code)

    async def make(
        user: str, agent: str, session: str, workspace: WorkspaceBase
    ) -> list[MiddlewareBase]:
        made: list[MiddlewareBase] = [ReasonsTold()]
        if tools is not None:
            made.append(ToolsKept(tools))
        if not runtime_state:
            made.append(NoRuntimeState())
        if middlewares is not None:
            made += await middlewares(user, agent, session, workspace)
        if record_to is not None:  # the innermost: it sees the very prompt
            made.append(ConversationRecorder(record_to, agent_name=agent))
        return made

    return {
        "extra_credentials": [TransformersCredential],
        "custom_agent_cls": FineTuneAgent if fine_tunable else Agent,
        "extra_agent_middlewares": make,
        "extra_middlewares": [Middleware(Refusals)],
    }


class ReasonsTold(MiddlewareBase):
    """Says in the reply why it failed, where the user can do something about it.

    The host shows its users one fixed sentence for each kind of failure; behind a local model that
    hides that a prompt is too long or a model cannot be had. The words are only shown: the agent
    does not remember them, and the reply still ends as a failed one.
    """

    async def on_reply(
        self,
        agent: Agent,
        input_kwargs: dict[str, Any],
        next_handler: Callable[..., AsyncGenerator[Any, None]],
    ) -> AsyncGenerator[Any, None]:
        """See `MiddlewareBase.on_reply`."""
        try:
            async with aclosing(next_handler(**input_kwargs)) as items:
                async for item in items:
                    yield item
        except FinetuneError as error:
            reply, block = agent.state.reply_id, uuid4().hex
            yield TextBlockStartEvent(reply_id=reply, block_id=block)
            yield TextBlockDeltaEvent(reply_id=reply, block_id=block, delta=str(error))
            yield TextBlockEndEvent(reply_id=reply, block_id=block)
            raise


class ToolsKept(MiddlewareBase):
    """Takes the service's tools from an agent, but for some.

    An agent that keeps none of its workspace's tools is not told how to work there, either. Tools
    of MCP servers and skills stay: those the user has added.

    Args:
        names: Names of the tools that stay.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(names)
        self._untold = ""

    async def on_reply(
        self,
        agent: Agent,
        input_kwargs: dict[str, Any],
        next_handler: Callable[..., AsyncGenerator[Any, None]],
    ) -> AsyncGenerator[Any, None]:
        """See `MiddlewareBase.on_reply`; the toolkit is one of this turn alone."""
        toolkit, workspace = agent.toolkit, agent.offloader
        for group in toolkit.tool_groups:
            group.tools = [tool for tool in group.tools if tool.name in self._names]
        toolkit.tool_groups = [
            group
            for group in toolkit.tool_groups
            if group.name == "basic" or group.tools or group.mcps
        ]
        if isinstance(workspace, WorkspaceBase):
            usable = {tool.name for tool in await workspace.list_tools()} & self._names
            self._untold = "" if usable else await workspace.get_instructions()
        async with aclosing(next_handler(**input_kwargs)) as items:
            async for item in items:
                yield item

    async def on_system_prompt(self, agent: Agent, current_prompt: str) -> str:
        """See `MiddlewareBase.on_system_prompt`."""
        if not self._untold:
            return current_prompt
        return current_prompt.replace(self._untold, "").rstrip()


class NoRuntimeState(MiddlewareBase):
    """Keeps the host from adding the time, and such, to what the user says."""

    async def on_reply(
        self,
        agent: Agent,
        input_kwargs: dict[str, Any],
        next_handler: Callable[..., AsyncGenerator[Any, None]],
    ) -> AsyncGenerator[Any, None]:
        """See `MiddlewareBase.on_reply`."""
        changes = {"inject_runtime_state": False}
        agent.injection_config = agent.injection_config.model_copy(update=changes)
        async with aclosing(next_handler(**input_kwargs)) as items:
            async for item in items:
                yield item


class Refusals:
    """Answers 422 and the reason to a credential or model that `policy` refuses.

    It is not what keeps users out: a model is checked again when it is made. But there the host
    says only that the session could not be prepared.

    Args:
        app: What answers everything else.
    """

    def __init__(self, app: _App) -> None:
        self._app = app

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer one request, as ASGI says."""
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self._app(scope, receive, send)
            return
        messages = await _read(receive)
        try:
            for asked in _asked(b"".join(message.get("body", b"") for message in messages)):
                policy.check(asked)
        except FinetuneError as error:
            await JSONResponse({"detail": str(error)}, status_code=422)(scope, receive, send)
            return

        async def again() -> _Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, again, send)


async def _read(receive: _Receive) -> list[_Message]:
    """A request's body in its pieces; of a large one, the beginning."""
    messages = [await receive()]
    size = len(messages[0].get("body", b""))
    while messages[-1].get("more_body") and size <= _LARGEST:
        messages.append(await receive())
        size += len(messages[-1].get("body", b""))
    return messages


def _asked(body: bytes) -> Iterator[ModelConfig]:
    """What a request asks of us, as configs that can be checked."""
    if not any(name.encode() in body for name in _TYPES):
        return
    try:
        read = json.loads(body)
    except ValueError:  # no JSON, which the host says better
        return
    for found in _objects(read):
        if found.get("type") not in _TYPES:
            continue
        if found.get("trust_remote_code"):
            yield ModelConfig(model=next(iter(SHIPPED)), trust_remote_code=True)
        if isinstance(found.get("model"), str):
            yield ModelConfig(model=found["model"])


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _objects(each)
