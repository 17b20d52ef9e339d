"""Writes exchanges to a store of recordings, away from the thread that runs the model.

Nothing is recorded unless an engine was opened with `EngineConfig.record_to`.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
from dataclasses import dataclass
from pathlib import Path

from agent_finetune.contracts import Exchange
from agent_finetune.errors import FinetuneError
from agent_finetune.recordings import Recordings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One exchange to write."""

    exchange: Exchange
    model: str
    adapter: str | None


class Recorder:
    """One store's writer: a queue, and a thread that empties it.

    Args:
        path: The database; made, readable by its owner alone, with the first exchange.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: queue.SimpleQueue[Entry | threading.Event] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="recorder", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Let an exchange be written soon."""
        self._entries.put(entry)

    def flush(self, timeout: float = 30.0) -> None:
        """Wait until everything put so far is written."""
        done = threading.Event()
        self._entries.put(done)
        if not done.wait(timeout):
            logger.error("%s: not everything was recorded within %g s", self._path, timeout)

    def _write(self) -> None:
        recordings: Recordings | None = None
        while True:
            entry = self._entries.get()
            if isinstance(entry, threading.Event):
                entry.set()
                continue
            try:
                recordings = recordings or Recordings(self._path)
                recordings.add(entry.exchange, model=entry.model, adapter=entry.adapter)
            except Exception as error:  # the next exchange is written all the same
                known = isinstance(error, FinetuneError)
                logger.error("not recorded: %s", error, exc_info=not known)


_lock = threading.Lock()
_recorders: dict[Path, Recorder] = {}


def recorder(path: Path) -> Recorder:
    """The writer of a store; one for each in this process."""
    path = path.expanduser().absolute()
    with _lock:
        if path not in _recorders:
            if not _recorders:
                atexit.register(flush_all)
            _recorders[path] = Recorder(path)
        return _recorders[path]


def flush_all() -> None:
    """Wait until every exchange of this process is written."""
    with _lock:
        recorders = list(_recorders.values())
    for each in recorders:
        each.flush()
