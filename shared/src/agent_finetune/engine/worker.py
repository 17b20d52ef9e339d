"""The thread that owns a loaded model, and everything that touches it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from agent_finetune.contracts import EngineConfig, Exchange, LoadedModel, Request, Result
from agent_finetune.engine.generation import LiveGeneration
from agent_finetune.engine.served import Served, unload
from agent_finetune.engine.spoken import Spoken
from agent_finetune.errors import BusyError, EngineError, FinetuneError

logger = logging.getLogger(__name__)
T = TypeVar("T")
Job = tuple[Callable[[Served], None], Callable[[BaseException], None]]
"""What to do, and whom to tell when it cannot be done."""

_RECENT = 256
"""Exchanges that are kept in memory."""


class Worker:
    """One loaded model and its thread; engines that serve it hold it.

    The thread starts, and loads, with the first thing asked of it. It ends when it is closed, when
    loading failed, or when nobody has held it for `keep_alive` seconds; asked again, it starts
    again, and attaches again what was attached.

    Args:
        config: The first engine's.
        load: Loads the base; called on the thread.
    """

    def __init__(self, config: EngineConfig, load: Callable[[], LoadedModel]) -> None:
        self._config = config
        self._load = load
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._last: threading.Thread | None = None
        self._closing = False
        self._holds = 0
        self._idle_since = time.monotonic()
        self._jobs: deque[Job] = deque()
        self._recent: deque[Exchange] = deque(maxlen=_RECENT)
        self._spoken: dict[str, Spoken] = {}
        self._away = False

    @property
    def loaded(self) -> bool:
        """Whether its thread runs, with a model that is loaded or being loaded."""
        return self._thread is not None

    def hold(self) -> None:
        """Keep the model loaded until `release`."""
        with self._changed:
            self._holds += 1

    def release(self) -> None:
        """Undo one `hold`."""
        with self._changed:
            self._holds -= 1
            self._idle_since = time.monotonic()
            self._changed.notify_all()

    def submit(self, generation: LiveGeneration, request: Request) -> None:
        """Let a request be answered; what is wrong with it comes out of the generation."""
        if self._away and self._config.when_busy == "error":
            generation.fail(BusyError("the model is being updated; ask again in a while"))
            return

        def start(served: Served) -> None:
            try:
                served.start(generation, request)
            except Exception as error:  # ours or a template's, its reader must hear of it
                generation.fail(error)

        self._put(start, generation.fail)

    def call(self, function: Callable[[Served], T]) -> T:
        """Run a function on the thread, between two forward passes, and wait for its answer."""
        future: Future[T] = Future()

        def run(served: Served) -> None:
            try:
                future.set_result(function(served))
            except Exception as error:  # handed to whoever waits
                future.set_exception(error)

        self._put(run, future.set_exception)
        return future.result()

    def attach(self, name: str, folder: Path) -> str:
        """See `contracts.Engine.attach`; what can be, is read while others are served."""
        spoken = Spoken.now(folder)
        served = self.call(lambda served: served)
        voice = served.make_voice(spoken.adapter) if spoken.adapter else served.base
        self.call(lambda served: served.install(name, voice, spoken.adapter))
        self._spoken[name] = spoken
        return voice.revision

    def speaks(self, name: str, folder: Path) -> bool:
        """Whether a name stands for what is in this folder now."""
        return self._spoken.get(name) == Spoken.now(folder)

    def folder_of(self, name: str) -> Path | None:
        """The folder that was attached under a name."""
        spoken = self._spoken.get(name)
        return spoken.folder if spoken else None

    def detach(self, name: str) -> None:
        """See `contracts.Engine.detach`."""
        self.call(lambda served: served.remove(name))
        self._spoken.pop(name, None)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Give the model's memory back for the length of a block, once what is under way is done.

        What is asked meanwhile waits, or is refused with a `BusyError` if the config says so.
        """
        with self._changed:
            if self._away:
                raise BusyError("another update of this model is under way")
            self._away = True
            self._changed.notify_all()
            thread = self._thread
        try:
            if thread is not None:
                thread.join()
            yield
        finally:
            with self._changed:
                self._away = False
                if self._jobs:
                    self._start()

    def recent(self) -> Sequence[Exchange]:
        """The last exchanges, the oldest first."""
        with self._changed:
            return tuple(self._recent)

    def close(self) -> None:
        """End the thread and give the model's memory back; what is under way fails."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            # Also one that ends by itself and still gives memory back: a program that exits under
            # it is aborted by torch.
            thread = self._last
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._changed:
            self._closing = False

    def _put(self, run: Callable[[Served], None], fail: Callable[[BaseException], None]) -> None:
        with self._changed:
            self._jobs.append((run, fail))
            self._changed.notify_all()
            if self._thread is None and not self._away:
                self._start()

    def _start(self) -> None:
        name = f"agent-finetune {self._config.model.model}"
        # A daemon: it must not keep a program alive that has nothing else to do. The registry
        # ends it in good order.
        self._thread = threading.Thread(
            target=self._run, args=(self._last,), name=name, daemon=True
        )
        self._last = self._thread
        self._thread.start()

    # On the thread.

    def _run(self, last: threading.Thread | None) -> None:
        served: Served | None = None
        try:
            if last is not None:
                last.join()  # two copies of the weights may not fit
            served = Served(self._load(), self._config, self._note)
            self._attach_again(served)
            with torch.inference_mode():
                while self._wait(served):
                    for run, _ in self._take_jobs():
                        run(served)
                    served.step()
            self._end(served, EngineError("the engine was closed"))
        except BaseException as error:  # it must reach whoever waits, or they wait forever
            if not isinstance(error, FinetuneError):
                logger.exception("the engine's thread ended")
            self._end(served, error)
        finally:
            del served
            unload()

    def _wait(self, served: Served) -> bool:
        """Sleep until there is something to do; False when the thread should end.

        Ending is decided under the lock: a job put afterwards starts a new thread.
        """
        with self._changed:
            while not (served.busy or self._closing):
                if self._away:
                    self._thread = None
                    return False
                if self._jobs:
                    break
                left = None if self._holds else self._idle_since + self._config.keep_alive
                left = left and left - time.monotonic()
                if left is not None and left <= 0:
                    self._thread = None
                    return False
                self._changed.wait(left)
            return not self._closing

    def _take_jobs(self) -> list[Job]:
        with self._changed:
            if self._away:
                return []
            jobs = list(self._jobs)
            self._jobs.clear()
        return jobs

    def _end(self, served: Served | None, error: BaseException) -> None:
        """Tell everyone who waits, and let the next job start a new thread."""
        if served is not None:
            served.fail_all(error)
        with self._changed:
            if self._thread is not threading.current_thread():
                return  # nobody held it any more; jobs that came since belong to another thread
            self._thread = None
            jobs = list(self._jobs)
            self._jobs.clear()
        for _, fail in jobs:
            fail(error)

    def _attach_again(self, served: Served) -> None:
        for name, spoken in list(self._spoken.items()):
            adapter = spoken.adapter
            try:
                served.install(
                    name, served.make_voice(adapter) if adapter else served.base, adapter
                )
            except FinetuneError as error:
                logger.warning("adapter %r cannot be attached again: %s", name, error)
                del self._spoken[name]

    def _note(self, request: Request, result: Result) -> None:
        exchange = Exchange(request=request, result=result, time=time.time())
        with self._changed:
            self._recent.append(exchange)
