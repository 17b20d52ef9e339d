"""`HFClient`: answers of a local model, as events of AG2 1.x."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from ag2.events import (
    BaseEvent,
    ModelMessage,
    ModelMessageChunk,
    ModelReasoning,
    ModelResponse,
    ToolCallEvent,
    ToolCallsEvent,
    Usage,
)
from ag2.utils import AGENT_CONTEXT_DEPENDENCY_KEY

from agent_finetune.contracts import Request, Result
from autogen_finetune.ag2.messages import PROVIDER, THINKING, Serializer, to_dicts, to_tools
from autogen_finetune.oai import to_messages
from autogen_finetune.responses import Asked, choice_of

if TYPE_CHECKING:
    from ag2.context import ConversationContext
    from ag2.response import ResponseProto
    from ag2.tools.schemas import ToolSchema

    from autogen_finetune.live import LiveModel

GENERATION_ID = "generation_id"
"""Key of a message's `metadata`; the same id as `ModelResponse.response_id`, for feedback."""


class Speaks(Protocol):
    """What a client asks of its config."""

    @property
    def model(self) -> str: ...

    @property
    def generation(self) -> Mapping[str, Any]: ...

    def live_of(self, agent: object | None) -> LiveModel: ...


class HFClient:
    """AG2's side of a local model; AG2 makes one for every turn.

    Args:
        config: Whose it is.
    """

    def __init__(self, config: Speaks) -> None:
        self._config = config

    async def __call__(
        self,
        messages: Sequence[BaseEvent],
        context: ConversationContext,
        *,
        tools: Iterable[ToolSchema],
        response_schema: ResponseProto[Any] | None,
        serializer: Serializer,
    ) -> ModelResponse:
        """Answer; pieces of the answer are sent as they come. Cancelling the task stops the work.

        Words are held to a response schema while they are generated. Where there are tools as well,
        the model answers freely first, for it may call one; an answer that is neither a call nor
        what the schema asks for is made again, held to the schema.

        Args:
            messages: The history.
            context: Of the agent that asks; the answer is sent into it.
            tools: Functions only.
            response_schema: With a JSON schema, a system prompt, or both.
            serializer: Writes data in the history.

        Raises:
            UnsupportedToolError: A tool is a service of some provider.
            UnsupportedInputError: The history holds what is no text.
            FinetuneError: The model cannot be had, or the conversation not be answered.
        """
        live = self._config.live_of(context.dependencies.get(AGENT_CONTEXT_DEPENDENCY_KEY))
        request = self._request(messages, context, tools, response_schema, serializer)
        spent = Usage()
        if request.schema is not None and request.tools:
            result = await _generated(live, replace(request, schema=None), None)
            spent += _usage(result)
            if _calls(result) or _matches(result.message.text, request.schema):
                await _send(result.message.thinking, result.message.text, context)
                return await self._response(result, request, spent, context)
        result = await _generated(live, request, context)
        return await self._response(result, request, spent + _usage(result), context)

    def _request(
        self,
        messages: Sequence[BaseEvent],
        context: ConversationContext,
        tools: Iterable[ToolSchema],
        response_schema: ResponseProto[Any] | None,
        serializer: Serializer,
    ) -> Request:
        prompt, schema = list(context.prompt), None
        if response_schema is not None:
            prompt.append(response_schema.system_prompt or "")
            schema = response_schema.json_schema or None
        return Request(
            messages=to_messages(to_dicts(messages, prompt, serializer)),
            tools=to_tools(tools),
            schema=schema,
            **self._config.generation,
        )

    async def _response(
        self, result: Result, request: Request, spent: Usage, context: ConversationContext
    ) -> ModelResponse:
        """The answer whole, with its words sent as a message."""
        kept = {THINKING: result.message.thinking} if result.message.thinking else {}
        message = None
        if result.message.text:
            metadata = {GENERATION_ID: result.id, **kept}
            message = ModelMessage(result.message.text, metadata=metadata)
            await context.send(message)
        asked = Asked(messages=[], tools=tuple(request.tools))
        calls = [
            ToolCallEvent(
                id=call["id"],
                name=call["function"]["name"],
                arguments=call["function"]["arguments"],
            )
            for call in choice_of(result, asked, 0).message.tool_calls or ()
        ]
        if calls and message is None:
            calls[0].vendor_metadata = kept
        return ModelResponse(
            message=message,
            tool_calls=ToolCallsEvent(calls),
            usage=spent,
            model=self._config.model,
            provider=PROVIDER,
            finish_reason=result.finish,
            response_id=result.id,
        )


async def _generated(
    live: LiveModel, request: Request, context: ConversationContext | None
) -> Result:
    """One answer, whole; its pieces are sent into the context, if there is one."""
    generation = await live.astream(request)
    try:
        async for piece in generation:
            if context is not None:
                await _send(piece.thinking, piece.text, context)
            if piece.result is not None:
                return piece.result
    finally:
        generation.cancel()
    raise AssertionError("a generation ends with its result")  # as `contracts.Delta` promises


async def _send(thinking: str | None, text: str, context: ConversationContext) -> None:
    if thinking:
        await context.send(ModelReasoning(thinking))
    if text:
        await context.send(ModelMessageChunk(text))


def _calls(result: Result) -> bool:
    return bool(result.message.tool_calls or result.broken_calls)


def _usage(result: Result) -> Usage:
    usage = result.usage
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        cache_read_input_tokens=usage.cached_tokens,
    )


def _matches(text: str, schema: Mapping[str, Any]) -> bool:
    """Whether words that were not held to a schema match it all the same."""
    import jsonschema  # type: ignore[import-untyped]

    try:
        jsonschema.validate(json.loads(text), dict(schema))
    except (ValueError, jsonschema.ValidationError):
        return False
    return True
