"""One answer of an engine as AgentScope's chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any

from agentscope.message import TextBlock, ThinkingBlock, ToolCallBlock
from agentscope.model import ChatResponse, FinishedReason

from agent_finetune.contracts import Delta, Engine, Generation, Result
from agentscope_finetune import convert


class Answer:
    """Takes an answer's pieces, and says them as chunks whose blocks keep their ids.

    Args:
        id: The engine's name for the answer; it becomes `ChatResponse.id`.
        tools: Tools that were offered.
    """

    def __init__(self, id: str, tools: Sequence[Mapping[str, Any]]) -> None:
        self._id = id
        self._tools = [str(tool["function"]["name"]) for tool in tools]
        self._text_id = uuid.uuid4().hex
        self._thinking_id = uuid.uuid4().hex
        self._calls: list[ToolCallBlock] = []
        self._note = ""
        self._started = time.monotonic()

    def chunks(self, piece: Delta) -> list[ChatResponse]:
        """What a piece adds, and behind the last one the whole answer."""
        made = ChatResponse(content=[], is_last=False, id=self._id)
        if piece.thinking:
            made.append_thinking(piece.thinking, block_id=self._thinking_id)
        if piece.text:
            made.append_text(piece.text, block_id=self._text_id)
        if piece.call is not None:
            self._add(made, convert.call_block(piece.call))
        if piece.result is not None:
            self._end(made, piece.result)
        chunks = [made] if made.content else []
        return chunks if piece.result is None else [*chunks, self._whole(piece.result)]

    def _add(self, made: ChatResponse, call: ToolCallBlock) -> None:
        self._calls.append(call)
        made.content.append(call.model_copy(deep=True))

    def _end(self, made: ChatResponse, result: Result) -> None:
        """What no piece brought: calls that do not parse, and why there is no answer."""
        cut_at = result.usage.completion_tokens if result.finish == "length" else None
        for raw in result.broken_calls:
            self._add(made, convert.broken_call_block(raw, self._tools, cut_at=cut_at))
        message = result.message
        if cut_at is not None and message.thinking and not (message.text or self._calls):
            # An agent takes thinking alone as a step on the way, and would ask again and again,
            # each time for as many tokens.
            self._note = f"(Cut off after {cut_at} tokens, while still thinking: no answer.)"
            made.append_text(self._note, block_id=self._text_id)

    def _whole(self, result: Result) -> ChatResponse:
        message = result.message
        content: convert.Blocks = []
        if message.thinking:
            content.append(ThinkingBlock(thinking=message.thinking, id=self._thinking_id))
        if text := message.text or self._note:
            content.append(TextBlock(text=text, id=self._text_id))
        cancelled = result.finish == "cancelled"
        return ChatResponse(
            content=[*content, *self._calls],
            is_last=True,
            id=self._id,
            usage=convert.usage_of(result, time.monotonic() - self._started),
            finished_reason=FinishedReason.INTERRUPTED if cancelled else FinishedReason.COMPLETED,
            metadata={"stop_reason": result.finish, "revision": result.revision},
        )


async def chunks_of(
    engine: Engine,
    generation: Generation,
    answer: Answer,
    first: Delta,
    pieces: AsyncIterator[Delta],
) -> AsyncGenerator[ChatResponse, None]:
    """The chunks of an answer; whoever stops reading stops the work.

    It holds the engine, since one that nobody holds gives its weights up.
    """
    try:
        for chunk in answer.chunks(first):
            yield chunk
        async for piece in pieces:
            for chunk in answer.chunks(piece):
                yield chunk
    finally:
        generation.cancel()
