"""A chat model that plays one role: its view of the conversation, through its adapter."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from agentscope.model import ChatModelBase, ChatResponse

from agent_finetune.records import Message
from agent_finetune.roles.prompts import Part, Plan, read_plan, see
from agentscope_finetune.model import Errors, TransformersChatModel
from agentscope_finetune.parameters import GenerationParameters

if TYPE_CHECKING:
    from agentscope.message import Msg
    from agentscope.tool import ToolChoice

    from agentscope_finetune.multi_role.adapters import Voices


class RoleChatModel(ChatModelBase):
    """A `TransformersChatModel` as one role is to speak through it, for one call.

    Args:
        inner: The model that is spoken through.
        part: The role.
        plan: What the planner just said; None for the planner.
        voices: The adapters of the roles.
        force_call: Hold the caller's words to a call of an offered tool.
    """

    class Parameters(GenerationParameters):
        """How to generate."""

    type: Literal["transformers_role"] = "transformers_role"
    """The type of the chat model."""

    def __init__(
        self,
        inner: TransformersChatModel,
        part: Part,
        plan: Plan | None,
        voices: Voices,
        *,
        force_call: bool = False,
    ) -> None:
        self.inner = inner
        self.part = part
        self._plan = plan
        self._voices = voices
        self._force_call = force_call
        super().__init__(
            credential=inner.credential,
            model=inner.model,
            parameters=inner.parameters,
            stream=inner.stream,
            max_retries=inner.max_retries,
            retry_delay=inner.retry_delay,
            context_size=inner.context_size,
        )
        self.formatter = inner.formatter

    @classmethod
    def _get_retryable_exceptions(cls) -> Errors:
        return TransformersChatModel._get_retryable_exceptions()

    async def count_tokens(self, messages: list[Msg], tools: list[dict[str, Any]] | None) -> int:
        """Tokens, as the inner model counts them."""
        return await self.inner.count_tokens(messages, tools)

    async def _call_api(
        self,
        model_name: str,
        messages: list[Msg],
        tools: list[dict[str, Any]] | None = None,
        tool_choice: ToolChoice | None = None,
        **kwargs: Any,
    ) -> ChatResponse | AsyncGenerator[ChatResponse, None]:
        """Generate what the role says; see `TransformersChatModel`."""
        request = await self.inner.request_of(messages, tools, tool_choice, kwargs)
        seen = see(self.part, history_of(request.messages), request.tools, self._plan)
        choice = request.tool_choice if seen.tools else "auto"
        if self._force_call and self.part is Part.CALLER and choice == "auto" and seen.tools:
            choice = "required"
        adapter = await self._voices.name(self.inner.engine, self.part)
        return await self.inner.respond(
            replace(
                request,
                messages=seen.messages,
                tools=seen.tools,
                tool_choice=choice,
                adapter=adapter,
            )
        )


def history_of(messages: Sequence[Message]) -> tuple[Message, ...]:
    """A conversation of the host as the roles' histories are: thoughts without what came next.

    A plan that nobody carried out, because the reply was stopped or because it is just being
    carried out, is no turn; neither is a system message that says nothing.
    """
    turns = []
    for message in messages:
        if message.role == "system" and not message.text.strip():
            continue
        if message.role == "assistant":
            if not message.text and not message.tool_calls:
                continue
            plan = read_plan(message.thinking or "")
            if plan.next is not None:
                message = replace(message, thinking=plan.thought or None)
        turns.append(message)
    return tuple(turns)


def role_name(model: ChatModelBase, agent: str | None) -> str | None:
    """The name that an agent's calls of a model are recorded under: `agent/role` of a role's."""
    if not isinstance(model, RoleChatModel):
        return agent
    return "/".join(filter(None, (agent, model.part.value)))
