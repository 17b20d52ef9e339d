"""The thread that owns a loaded model, and everything that touches it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import torch

from agent_finetune.contracts import EngineConfig, Exchange, LoadedModel, Request, Result
from agent_finetune.engine.generation import LiveGeneration
from agent_finetune.engine.served import Served, unload
from agent_finetune.errors import EngineError, FinetuneError

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
        self._folders: dict[str, tuple[Path, object]] = {}

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
        seen = _signature(folder)
        served = self.call(lambda served: served)
        voice = served.make_voice(folder)
        self.call(lambda served: served.install(name, voice, folder))
        self._folders[name] = (folder, seen)
        return voice.revision

    def speaks(self, name: str, folder: Path) -> bool:
        """Whether a name stands for what is in this folder now."""
        return self._folders.get(name) == (folder, _signature(folder))

    def detach(self, name: str) -> None:
        """See `contracts.Engine.detach`."""
        self.call(lambda served: served.remove(name))
        self._folders.pop(name, None)

    def recent(self) -> Sequence[Exchange]:
        """The last exchanges, the oldest first."""
        with self._changed:
            return tuple(self._recent)

    def close(self) -> None:
        """End the thread and give the model's memory back; what is under way fails."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._changed:
            self._closing = False

    def _put(self, run: Callable[[Served], None], fail: Callable[[BaseException], None]) -> None:
        with self._changed:
            self._jobs.append((run, fail))
            self._changed.notify_all()
            if self._thread is None:
                name = f"agent-finetune {self._config.model.model}"
                # A daemon: it must not keep a program alive that has nothing else to do. The
                # registry ends it in good order.
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
            while not (self._jobs or served.busy or self._closing):
                left = None if self._holds else self._idle_since + self._config.keep_alive
                left = left and left - time.monotonic()
                if left is not None and left <= 0:
                    self._thread = None
                    return False
                self._changed.wait(left)
            return not self._closing

    def _take_jobs(self) -> list[Job]:
        with self._changed:
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
        for name, (folder, _) in list(self._folders.items()):
            try:
                served.install(name, served.make_voice(folder), folder)
            except FinetuneError as error:
                logger.warning("adapter %r cannot be attached again: %s", name, error)
                del self._folders[name]

    def _note(self, request: Request, result: Result) -> None:
        exchange = Exchange(request=request, result=result, time=time.time())
        with self._changed:
            self._recent.append(exchange)


def _signature(folder: Path) -> object:
    """What tells that an adapter's folder was written anew."""
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        return None
    stat = weights.stat()
    return stat.st_mtime_ns, stat.st_size
