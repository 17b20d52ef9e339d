"""What the checks of the engine contract have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent_finetune.contracts import Delta, Engine, Request, Result

PATIENCE = 60.0
"""Seconds after which something that must come, or must stop, counts as never."""

_SOME = 24
"""Tokens of an answer that is long enough to see."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineCase:
    """An engine to check, best with weights in float32: rounding then decides nothing."""

    open: Callable[[], Engine]
    """Opens one more engine; all of them on the same model."""
    request: Request
    """Greedy, or with a seed. Its answer has words among its first tokens, and more than 200
    tokens when nothing ends it."""
    adapter: Path | None = None
    """A folder with an adapter that changes this answer; None leaves adapters unchecked."""

    @property
    def some(self) -> Request:
        """The request, for the beginning of its answer."""
        return replace(self.request, max_new_tokens=_SOME)

    @property
    def endless(self) -> Request:
        """The request, with as many tokens as the context holds."""
        return replace(self.request, max_new_tokens=None)


def same(what: str, found: object, expected: object) -> None:
    """Compare. pytest rewrites no assert in here, so that the message is made by hand."""
    if found != expected:
        raise AssertionError(f"{what}: found {found!r}, expected {expected!r}")


def holds(true: bool, otherwise: str) -> None:
    """Tell what is wrong unless something is true."""
    if not true:
        raise AssertionError(otherwise)


def raises(error: type[Exception], do: Callable[[], object]) -> None:
    """Do something that must be refused with this error."""
    try:
        answer = do()
    except error:
        return
    raise AssertionError(f"found {answer!r}, expected {error.__name__}")


def said(result: Result) -> tuple[Any, ...]:
    """All of an answer that does not hang on what was computed before it."""
    message = result.message
    ids = message.generation and message.generation.ids
    return message.text, message.thinking, message.tool_calls, ids, result.finish


def whole(pieces: Sequence[Delta]) -> Result:
    """The result that pieces end with; checks that they add up to it."""
    result = pieces[-1].result
    if result is None:
        raise AssertionError(f"the last piece is {pieces[-1]!r}; expected the result in it")
    message = result.message
    same("results in the pieces", [piece.result for piece in pieces if piece.result], [result])
    same("words of the pieces", "".join(piece.text for piece in pieces), message.text)
    thinking = "".join(piece.thinking for piece in pieces)
    same("thinking of the pieces", thinking or None, message.thinking)
    calls = tuple(piece.call for piece in pieces if piece.call)
    same("calls of the pieces", calls, message.tool_calls)
    return result


async def take_turns(turns: list[float]) -> None:
    """Note the time whenever the event loop turns, in seconds, until the task is cancelled."""
    while True:
        turns.append(time.perf_counter())
        await asyncio.sleep(0.002)
