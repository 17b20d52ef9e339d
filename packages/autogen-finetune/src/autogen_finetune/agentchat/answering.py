"""One answer of a live model on an event loop, which a token of AutoGen can end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from autogen_core.models import RequestUsage

from agent_finetune.contracts import Delta, Request, Result
from autogen_finetune.live import LiveModel

if TYPE_CHECKING:
    from autogen_core import CancellationToken

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answered:
    """A whole answer, and the tokens of all that was generated for it."""

    result: Result
    usage: RequestUsage


async def answered(
    live: LiveModel,
    request: Request,
    token: CancellationToken | None,
    fits: Callable[[str], bool],
) -> AsyncIterator[str | Answered]:
    """The text of an answer as it comes, and the whole of it at the end.

    With tools and a schema, as an agent with an output type asks, the model may call or write an
    object. It answers freely first, and what is neither is not handed on but made again, held to
    the schema.

    Args:
        live: Who answers.
        request: What is asked.
        token: Ends the work when it is used.
        fits: Whether words that were not held to the schema match it all the same.

    Raises:
        FinetuneError: The model cannot be had, or the conversation not be answered.
        asyncio.CancelledError: The token was used.
    """
    usage = RequestUsage(prompt_tokens=0, completion_tokens=0)
    if request.schema is not None and request.tools and request.tool_choice == "auto":
        free = [piece async for piece in _pieces(live, replace(request, schema=None), token)]
        result = free[-1].result
        assert result is not None  # as `contracts.Delta` promises
        _add(usage, result)
        calls = bool(result.message.tool_calls or result.broken_calls)
        if calls or fits(result.message.text):
            if not calls:
                yield result.message.text
            yield Answered(result, usage)
            return
    async for piece in _pieces(live, request, token):
        if piece.text:
            yield piece.text
        if piece.result is not None:
            _add(usage, piece.result)
            yield Answered(piece.result, usage)


def _add(usage: RequestUsage, result: Result) -> None:
    usage.prompt_tokens += result.usage.prompt_tokens
    usage.completion_tokens += result.usage.completion_tokens


async def _pieces(
    live: LiveModel, request: Request, token: CancellationToken | None
) -> AsyncIterator[Delta]:
    """Pieces of one generation, which ends when its reader does or the token says so."""
    queue: asyncio.Queue[Delta | None] = asyncio.Queue()
    task = _begun(_generate(live, request, queue), token)
    task.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (piece := await queue.get()) is not None:
            yield piece
        await task  # which raises what went wrong
    finally:
        task.cancel()


async def _generate(live: LiveModel, request: Request, queue: asyncio.Queue[Delta | None]) -> None:
    generation = await live.astream(request)
    try:
        async for piece in generation:
            queue.put_nowait(piece)
    finally:
        generation.cancel()


def _begun(work: Coroutine[Any, Any, T], token: CancellationToken | None) -> asyncio.Task[T]:
    """Begin work that a token ends, from whichever thread it is used."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if not task.done():
            loop.call_soon_threadsafe(task.cancel)

    if token is not None:
        token.add_callback(stop)
    return task
