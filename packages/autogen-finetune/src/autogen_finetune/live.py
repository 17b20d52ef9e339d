"""A local model as one agent speaks with it; the same for every API of AutoGen."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_finetune import plugins
from agent_finetune.config import ModelConfig
from agent_finetune.contracts import Engine, EngineConfig, Exchange, Generation, Request, Settings
from agent_finetune.engine.local import LocalEngine
from agent_finetune.errors import ConfigError, DataError
from agent_finetune.feedback import align, read_feedback
from agent_finetune.models.adapter_folders import digest, with_base
from agent_finetune.recordings import Recordings
from agent_finetune.records import Message
from agent_finetune.settings import read_settings
from agent_finetune.versions import Versions

if TYPE_CHECKING:
    from agent_finetune.engine.updating import UpdateReport
    from agent_finetune.feedback import Learning
    from agent_finetune.update.options import UpdateConfig

STORE = "adapters"
"""Folder of all adapters, where nobody names another: STORE/NAME holds the versions of one."""
IGNORED = ("TERMINATE",)
"""What AutoGen takes out of a chat's summary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What came of feedback, and what it was put to."""

    report: UpdateReport
    learning: Learning
    adapter: Path | None
    """Folder of the adapter that speaks now; None is the base."""

    def stats(self) -> dict[str, Any]:
        """`update_stats` of every API: JSON."""
        report, learning = self.report, self.learning
        found = dict(learning.prompt_source)
        return {
            **report.stats,
            "accepted": report.accepted,
            "name": report.name,
            "version": report.version,
            "adapter": None if self.adapter is None else str(self.adapter),
            "revision": report.revision,
            "checks": [asdict(check) for check in report.checks],
            "labels_checked": report.labels_checked,
            "pairs": len(learning.preferences),
            "verdicts": len(learning.verdicts),
            "demonstrations": len(learning.demonstrations),
            "dropped": [asdict(row) for row in report.dropped],
            "prompt_source": found,
            "reconstructed": found.get("thread", 0),
            "summary": str(report),
        }


class LiveModel:
    """An engine, and the name under which what this agent learns speaks. Making one loads nothing.

    Agents whose `LiveModel` names the same weights share them; those that name the same adapter in
    the same store share that too. Without a name an agent begins as the base (or as the adapter
    in `model`) and gets an adapter of its own with its first update, so that no other changes.

    Args:
        model: Which weights.
        adapter: Name of the adapter it speaks with and learns into; its versions are in
            STORE/ADAPTER, and answers are made with the current one, or the base while there is
            none.
        store: Folder of all adapters.
        record_to: Database in which every exchange is kept; naming one is consent.
        settings: Token, cache and offline switch; None reads environment and `.env`.
        engine: One that is open already.

    Raises:
        ConfigError: A name is not legal.
    """

    def __init__(
        self,
        model: ModelConfig,
        *,
        adapter: str | None = None,
        store: str | Path | None = None,
        record_to: str | None = None,
        settings: Settings | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.model = with_base(model)
        self.store = Path(store or STORE).expanduser().absolute()
        self.name = adapter
        if adapter is not None:
            Versions(self.store, adapter)  # refuses what is no name
        self._record_to = record_to
        self.engine = engine or plugins.open_engine(
            EngineConfig(model=self.model, record_to=record_to), settings or read_settings()
        )
        self._said: deque[str] = deque(maxlen=256)
        self._judged: dict[str, tuple[Mapping[str, Any], Exchange]] = {}
        self._attached: str | None = None
        self._fresh: str | None = None
        self._lock = threading.Lock()

    @property
    def adapter(self) -> Path | None:
        """Folder of the adapter that answers the next request; None is the base."""
        versions = None if self.name is None else Versions(self.store, self.name)
        number = None if versions is None else versions.current()
        if versions is not None and number is not None:
            return versions.adapter_dir(number)
        return None if self.model.adapter is None else Path(self.model.adapter)

    @property
    def revision(self) -> str:
        """What the next answer is made with, the same after a restart; nothing is loaded for it."""
        folder = self.adapter
        weights = [self.model.model, self.model.revision, self.model.dtype, self.model.held_as]
        said = json.dumps([*weights, None if folder is None else digest(folder)])
        return f"sha256:{hashlib.sha256(said.encode()).hexdigest()}"

    def ready(self) -> None:
        """Load the model and what this agent learned before, on the calling thread.

        Raises:
            FinetuneError: They cannot be had.
        """
        with self._lock:
            name = self.name
            if name is not None and name != self._attached and self._has_versions(name):
                self.engine.attach(name, self.store / name)
                self._attached = name
        self.engine.info()

    def stream(self, request: Request) -> Generation:
        """Begin to generate, as this agent; loads what has to be loaded first."""
        self.ready()
        return self._begin(request)

    async def astream(self, request: Request) -> Generation:
        """The same on an event loop, which is never blocked."""
        await asyncio.to_thread(self.ready)
        return self._begin(request)

    def count_tokens(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        thinking: bool | None = None,
    ) -> int:
        """Tokens of a prompt, as it would be served to this agent; loads as `ready` does."""
        self.ready()
        return self.engine.count_tokens(messages, tools, self._attached, thinking=thinking)

    def log(self) -> Sequence[Exchange]:
        """What this agent was asked and said, as far as the engine still holds it."""
        said = set(self._said)
        return [exchange for exchange in self.engine.recent() if exchange.result.id in said]

    def judge(self, exchange: Exchange, **said: Any) -> dict[str, Any]:
        """Keep what somebody says about an answer until it is learned, and record it.

        Args:
            exchange: The answer, with what was asked.
            **said: `value`, thumbs up or down, or a `correction`, which says more than a thumb.

        Returns:
            The item, which `update` takes.

        Raises:
            FinetuneError: Nothing is said, or it cannot be recorded.
        """
        key = exchange.result.id
        item = {"id": key, **({"label": said["value"]} if "value" in said else said)}
        read_feedback([item])  # refuses what says nothing
        if self._record_to is not None and isinstance(self.engine, LocalEngine):
            self.engine.feedback(key, **said)
        if "correction" in item or "correction" not in self._judged.get(key, ({}, None))[0]:
            self._judged[key] = (item, exchange)
        return item

    def update(
        self,
        preference_data: Sequence[Any] | None,
        thread: Sequence[Message] = (),
        *,
        speaker: str = "agent",
        tools: Sequence[Mapping[str, Any]] = (),
        trusted: Sequence[Any] | None = None,
        threshold: float | None = None,
        config: UpdateConfig | None = None,
        on_progress: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> Update:
        """Learn from feedback; this agent speaks with what was learned if it passes the gate.

        Blocks; answers go on meanwhile.

        Args:
            preference_data: Items of every shape that `feedback.read_feedback` takes; None is what
                was judged and not learned yet.
            thread: The conversation as its host holds it; where the log has no answer to an item.
            speaker: The agent's name, of which an adapter without a name makes one.
            tools: Tools that were offered in the thread.
            trusted: Held-out items whose labels are surely right.
            threshold: Reward from which an answer is good.
            config: How to learn, and what the gate demands.
            on_progress: Gets each line of the training history.

        Raises:
            NotImplementedError: The engine is not one that can learn here.
            FinetuneError: Nothing can be learned, or training failed; all stands as it was.
        """
        if not isinstance(self.engine, LocalEngine):
            raise NotImplementedError(f"{type(self.engine).__name__} cannot learn")
        if preference_data is None:
            preference_data = self._waiting()
        held_out = None
        learning = self._learning(preference_data, "preference_data", thread, tools, threshold)
        if trusted is not None:
            held_out = self._learning(trusted, "trusted", thread, tools, threshold)
        name, fresh = self.name or fresh_name(speaker), self.name is None
        self._adopt(name)
        report = self.engine.update(
            name,
            learning,
            store=self.store,
            config=config,
            trusted=held_out,
            on_progress=on_progress,
        )
        if report.accepted:
            with self._lock:
                self.name = self._attached = name
                self._fresh = name if fresh else self._fresh
            for item in preference_data:
                self._judged.pop(str(item.get("id")) if isinstance(item, Mapping) else "", None)
        return Update(report=report, learning=learning, adapter=self.adapter)

    def roll_back(self) -> int | None:
        """Speak with the version that spoke before; answers the number of it.

        An agent that got its adapter with its first update has spoken without one before: None.

        Raises:
            ConfigError: Nothing spoke before.
        """
        with self._lock:
            try:
                return Versions(self.store, self.name or "").rollback()
            except ConfigError:
                if self.name is None or self.name != self._fresh:
                    raise
                self.name = self._attached = None
                return None

    def close(self) -> None:
        """Give up the hold on the weights."""
        self.engine.close()

    def _begin(self, request: Request) -> Generation:
        generation = self.engine.stream(replace(request, adapter=self._attached))
        self._said.append(generation.id)
        return generation

    def _has_versions(self, name: str) -> bool:
        return (self.store / name / "versions").is_dir()

    def _waiting(self) -> Sequence[Mapping[str, Any]]:
        if not self._judged:
            raise DataError("preference_data is None, and no answer was judged that is not learned")
        return [item for item, _ in self._judged.values()]

    def _learning(
        self,
        items: Sequence[Any],
        source: str,
        thread: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        threshold: float | None,
    ) -> Learning:
        path = None if self._record_to is None else Path(self._record_to)
        log = self.log()
        held = {exchange.result.id for exchange in log}
        judged = [exchange for _, exchange in self._judged.values()]
        return align(
            read_feedback(items, source=source),
            [*(each for each in judged if each.result.id not in held), *log],
            thread,
            tools=tools,
            more=Recordings(path) if path is not None and path.exists() else None,
            ignoring=IGNORED,
            threshold=threshold,
        )

    def _adopt(self, name: str) -> None:
        """Let learning go on from the adapter that the agent began with, as version 1."""
        versions = Versions(self.store, name)
        if self.model.adapter is None or versions.current() is not None:
            return
        with versions.begin() as staging:
            shutil.copytree(self.model.adapter, staging / "adapter")
            versions.use(versions.commit(staging, {"adopted": self.model.adapter}))


def fresh_name(speaker: str) -> str:
    """A legal adapter name that no other update has, made of an agent's name and the time."""
    legal = re.sub(r"[^A-Za-z0-9._-]+", "-", speaker).strip("-._")[:32] or "agent"
    return f"{legal}-{datetime.now():%Y%m%d-%H%M%S-%f}"
