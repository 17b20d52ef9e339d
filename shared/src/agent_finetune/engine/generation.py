"""One answer while it comes: written by the engine's thread, read by any thread or event loop."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

from agent_finetune.contracts import Delta, Result


class LiveGeneration:
    """An answer that a worker is making; `contracts.Generation` says what its readers may do.

    Any number of readers may follow it, each from the first piece on.

    Args:
        on_result: Gets the result before any reader does, on the engine's thread: be quick.
    """

    def __init__(self, on_result: Callable[[Result], None] | None = None) -> None:
        self._on_result = on_result
        self._id = uuid.uuid4().hex
        self._pieces: list[Delta] = []
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._cancelled = False
        self._changed = threading.Condition()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @property
    def id(self) -> str:
        """What `Engine.recent` finds the result by."""
        return self._id

    @property
    def cancelled(self) -> bool:
        """Whether a reader has asked for the work to stop."""
        return self._cancelled

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self._result is not None or self._error is not None

    def cancel(self) -> None:
        """See `contracts.Generation`; once it is done, this changes nothing."""
        self._cancelled = True

    # For the worker.

    def put(self, piece: Delta) -> None:
        """Hand a piece to the readers."""
        with self._changed:
            self._pieces.append(piece)
            self._wake()

    def finish(self, result: Result) -> None:
        """Hand over the last piece, with the whole result."""
        if self._on_result is not None and not self.done:
            self._on_result(result)
        with self._changed:
            if not self.done:
                self._pieces.append(Delta(result=result))
                self._result = result
                self._wake()

    def fail(self, error: BaseException) -> None:
        """Hand over what went wrong; every reader gets it raised."""
        with self._changed:
            if not self.done:
                self._error = error
                self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        waiting, self._waiting = self._waiting, []
        for loop, future in waiting:
            try:
                loop.call_soon_threadsafe(_set, future)
            except RuntimeError:  # the loop is closed: nobody is left to read
                self._cancelled = True

    # For readers.

    def __iter__(self) -> Iterator[Delta]:
        place = 0
        while True:
            with self._changed:
                while not self._news(place):
                    self._changed.wait()
                pieces = self._pieces[place:]
            yield from pieces
            place += len(pieces)
            if self._ended(place):
                return

    async def __aiter__(self) -> AsyncIterator[Delta]:
        place = 0
        while True:
            await self._news_on_loop(place)
            pieces = self._pieces[place:]
            for piece in pieces:
                yield piece
            place += len(pieces)
            if self._ended(place):
                return

    def result(self, timeout: float | None = None) -> Result:
        """See `contracts.Generation`."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.done, timeout):
                raise TimeoutError(f"no whole answer within {timeout} seconds; it goes on")
        return self._outcome()

    async def aresult(self) -> Result:
        """See `contracts.Generation`."""
        while not self.done:
            await self._news_on_loop(len(self._pieces))
        return self._outcome()

    def _news(self, place: int) -> bool:
        return self.done or len(self._pieces) > place

    def _ended(self, place: int) -> bool:
        """Whether a reader has read everything; raises what went wrong, behind the last piece."""
        with self._changed:
            if not self.done or place < len(self._pieces):
                return False
        self._outcome()
        return True

    def _outcome(self) -> Result:
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    async def _news_on_loop(self, place: int) -> None:
        """Wait without blocking the loop; a task that is cancelled here cancels the work."""
        loop = asyncio.get_running_loop()
        with self._changed:
            if self._news(place):
                return
            future: asyncio.Future[None] = loop.create_future()
            self._waiting.append((loop, future))
        try:
            await future
        except asyncio.CancelledError:
            self.cancel()
            raise


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
