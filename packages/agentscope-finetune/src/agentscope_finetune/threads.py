"""Blocking work beside the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def aside(work: Callable[[], T]) -> T:
    """Do blocking work on a thread of its own, and wait for it without blocking the loop.

    Not on the loop's own executor: `asyncio.run` waits at its end for everything in there, and a
    model that is being loaded would hold up a program that was interrupted. A cancelled caller
    leaves at once; the work goes on, and its outcome is forgotten.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        value, problem = None, None
        try:
            value = work()
        except BaseException as error:  # whoever waits must hear of it, whatever it is
            problem = error
        try:
            loop.call_soon_threadsafe(settle, value, problem)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    threading.Thread(target=run, name="agentscope-finetune", daemon=True).start()
    return await future
