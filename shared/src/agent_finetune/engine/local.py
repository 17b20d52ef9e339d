"""`LocalEngine`: a handle on a model that lives in this process."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_finetune.config import ModelConfig, RunConfig
from agent_finetune.contracts import (
    EngineConfig,
    EngineInfo,
    Exchange,
    Request,
    Result,
    Settings,
    TrainResult,
)
from agent_finetune.engine import registry
from agent_finetune.engine.generation import LiveGeneration
from agent_finetune.errors import ConfigError, EngineError, FinetuneError
from agent_finetune.models.adapter_folders import with_base
from agent_finetune.records import Message

if TYPE_CHECKING:
    from agent_finetune.engine.updating import UpdateReport
    from agent_finetune.engine.worker import Worker
    from agent_finetune.feedback import Learning
    from agent_finetune.update.options import UpdateConfig


class LocalEngine:
    """See `contracts.Engine`. Making one loads nothing; engines on the same weights share them.

    Args:
        config: What to serve.
        settings: Cache, token and offline switch.
    """

    def __init__(self, config: EngineConfig, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._hold = _Hold()
        weakref.finalize(self, self._hold.let_go)
        self._lock = threading.Lock()
        self._finding = False
        self._pending: list[tuple[LiveGeneration, Request]] = []
        self._generations: weakref.WeakSet[LiveGeneration] = weakref.WeakSet()

    @property
    def config(self) -> EngineConfig:
        """What is served; known before anything is loaded."""
        return self._config

    def generate(self, request: Request) -> Result:
        """See `contracts.Engine`."""
        return self.stream(request).result()

    def stream(self, request: Request) -> LiveGeneration:
        """See `contracts.Engine`."""
        generation = LiveGeneration(self._recorded(request))
        with self._lock:
            self._hold.check_open()
            self._generations.add(generation)
            try:
                worker = None if self._pending else self._known()
                if worker is not None and self._unspoken(worker, request.adapter) is None:
                    worker.submit(generation, self._named(request))
                    return generation
            except FinetuneError as error:  # a folder that cannot be read
                generation.fail(error)
                return generation
            self._pending.append((generation, request))
            if not self._finding:
                self._finding = True
                threading.Thread(target=self._find, name="agent-finetune find", daemon=True).start()
        return generation

    def count_tokens(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        adapter: str | None = None,
        *,
        thinking: bool | None = None,
    ) -> int:
        """See `contracts.Engine`."""
        request = self._named(
            Request(messages=messages, tools=tools, adapter=adapter, thinking=thinking)
        )
        worker = self._worker()
        self._speak(worker, adapter)
        return worker.call(lambda served: len(served.voice(request.adapter).prompt(request).ids))

    def attach(self, name: str, folder: Path) -> str:
        """See `contracts.Engine`."""
        return self._worker().attach(name, Path(folder).resolve())

    def detach(self, name: str) -> None:
        """See `contracts.Engine`."""
        self._worker().detach(name)

    def adapters(self) -> Mapping[str, str]:
        """See `contracts.Engine`."""
        return self._worker().call(lambda served: served.names())

    def update(
        self,
        name: str,
        learning: Learning,
        *,
        store: Path,
        config: UpdateConfig | None = None,
        trusted: Learning | None = None,
        on_progress: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> UpdateReport:
        """Learn from feedback, and let a name speak with what was learned if it passes the gate.

        Training runs in a process of its own, beside the model that serves where both fit, else
        the model is away until it is done. Blocks; answers go on meanwhile.

        Args:
            name: Adapter name; its versions are in `store`, and it follows them from now on.
            learning: What `feedback.align` made.
            store: Folder of all adapters (`versions.Versions`).
            config: How to learn, and what the gate demands.
            trusted: Held-out feedback with labels that are surely right; the update must not
                make the model worse on it.
            on_progress: Gets each line of the training history as it is written; before that a
                line `waiting`, where another process is updating this name and has to end first.

        Raises:
            BusyError: This process is updating the name already.
            DataError: There is nothing to learn from.
            TrainError: Training failed; everything stands as it was.
        """
        from agent_finetune.engine.updating import update
        from agent_finetune.update.options import UpdateConfig

        return update(
            self._worker(),
            name,
            learning,
            store=Path(store),
            config=config or UpdateConfig(),
            settings=self._settings,
            trusted=trusted,
            on_progress=on_progress,
        )

    def train(
        self,
        config: RunConfig,
        *,
        on_progress: Callable[[Mapping[str, Any]], None] | None = None,
        report: Callable[[str], None] | None = None,
        stop: threading.Event | None = None,
        processes: int = 1,
    ) -> TrainResult:
        """Do a whole training run, as `agent-finetune train` does, while the model serves.

        It runs in a process of its own, beside the model where both fit, else the model is away
        until it is done: requests then wait, or are refused if the engine was opened so. It ends
        with this process. Nothing of the engine changes: to let the result speak, attach
        `adapter_dir`, or open another engine on it. Blocks.

        Args:
            config: The run. Memory is reckoned as if its model were the one that serves.
            on_progress: Gets each line of the run's history as it is written; where a run is
                taken up again, those before the interruption first.
            report: Gets one line for each thing that was derived.
            stop: Ends the run when it is set; checkpoints stay, and it may be taken up again.
            processes: Processes that train, one for each GPU.

        Raises:
            TrainError: It failed, was stopped or was killed.
            BusyError: The model has to be away, and is already for something else.
            FinetuneError: Whatever else the run says the user must change.
        """
        from agent_finetune.engine.training import train

        return train(
            self._worker(),
            config,
            self._settings,
            on_progress=on_progress,
            report=report,
            stop=stop,
            processes=processes,
        )

    def recent(self) -> Sequence[Exchange]:
        """See `contracts.Engine`."""
        worker = self._hold.worker
        return worker.recent() if worker is not None else ()

    def info(self) -> EngineInfo:
        """See `contracts.Engine`."""
        return self._worker().call(lambda served: served.info())

    def feedback(
        self,
        id: str,
        *,
        value: bool | None = None,
        correction: str | Message | None = None,
        reward: float | None = None,
        comment: str | None = None,
    ) -> None:
        """Attach what somebody said to a recorded answer; see `Recordings.feedback`.

        Raises:
            ConfigError: This engine records nothing.
            DataError: There is no such answer, or nothing is said.
        """
        if self._config.record_to is None:
            raise ConfigError("this engine records nothing; open it with EngineConfig.record_to")
        from agent_finetune.recordings import Recordings
        from agent_finetune.recordings.writer import writer

        path = Path(self._config.record_to)
        writer(path).flush()
        Recordings(path).feedback(
            id, value=value, correction=correction, reward=reward, comment=comment
        )

    def close(self) -> None:
        """See `contracts.Engine`."""
        with self._lock:
            self._hold.let_go()
            pending, self._pending = self._pending, []
            for generation in self._generations:
                generation.cancel()
        for generation, _ in pending:
            generation.fail(EngineError("the engine was closed"))

    def _recorded(self, request: Request) -> Callable[[Result], None] | None:
        """What keeps the answer to a request, when this engine has the consent to keep any."""
        if self._config.record_to is None:
            return None
        from agent_finetune.recordings.writer import writer

        writes = writer(Path(self._config.record_to))
        named, model = self._named(request), self._config.model.model

        def keep(result: Result) -> None:
            exchange = Exchange(request=named, result=result, time=time.time())
            writes.put(lambda recordings: recordings.add(exchange, model=model))

        return keep

    def _named(self, request: Request) -> Request:
        """The request with this engine's own adapter, where it names none."""
        own = _own_adapter(self._config.model)
        if request.adapter is not None or own is None:
            return request
        return replace(request, adapter=str(own))

    def _known(self) -> Worker | None:
        """The worker, when nothing has to be looked up to find it."""
        return self._hold.worker or self._hold.take(registry.known(self._base()))

    def _worker(self) -> Worker:
        """The worker; looked up on the calling thread when it is not known."""
        self._hold.check_open()
        found = self._known() or self._hold.take(registry.find(self._base(), self._settings))
        assert found is not None
        return found

    def _base(self) -> EngineConfig:
        return replace(self._config, model=with_base(self._config.model))

    def _unspoken(self, worker: Worker, adapter: str | None) -> tuple[str, Path] | None:
        """Name and folder of an adapter that has to be read before it can speak, or None."""
        own = _own_adapter(self._config.model)
        name = str(own) if adapter is None and own is not None else adapter
        if name is None:
            return None
        folder = own if adapter is None else worker.folder_of(name)
        return None if folder is None or worker.speaks(name, folder) else (name, folder)

    def _speak(self, worker: Worker, adapter: str | None) -> None:
        """Read an adapter if that has to be done, on the calling thread."""
        unspoken = self._unspoken(worker, adapter)
        if unspoken is not None:
            worker.attach(*unspoken)

    def _find(self) -> None:
        """Look up and read what pending requests need, away from whoever asked, one by one."""
        while True:
            with self._lock:
                if not self._pending:
                    self._finding = False
                    return
                generation, request = self._pending[0]
            worker, error = None, None
            try:
                worker = self._worker()
                self._speak(worker, request.adapter)
            except Exception as problem:  # its reader must hear of it, whatever it is
                error = problem
            with self._lock:
                if self._pending and self._pending[0][0] is generation:
                    del self._pending[0]
                    if worker is None or error is not None:
                        generation.fail(error or EngineError("the engine was closed"))
                    else:
                        worker.submit(generation, self._named(request))


def _own_adapter(config: ModelConfig) -> Path | None:
    """The adapter that an engine speaks through when a request names none."""
    adapter = with_base(config).adapter
    return None if adapter is None else Path(adapter).expanduser().resolve()


class _Hold:
    """An engine's hold on its worker, given up once: by `close`, or when nobody has the engine."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self._closed = False
        self._lock = threading.Lock()

    def take(self, held: Worker | None) -> Worker | None:
        """Keep a worker that is held; one of two that came at the same time is let go."""
        with self._lock:
            if held is not None and (self.worker is not None or self._closed):
                held.release()
            elif held is not None:
                self.worker = held
            return self.worker or held

    def check_open(self) -> None:
        """Refuse what is asked of a closed engine."""
        if self._closed:
            raise EngineError("the engine is closed; open another one")

    def let_go(self) -> None:
        """Give the worker up."""
        with self._lock:
            if not self._closed:
                self._closed = True
                if self.worker is not None:
                    self.worker.release()
