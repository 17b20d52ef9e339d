"""Writes to recordings away from the thread that speaks: one queue and one thread for each file."""

from __future__ import annotations

import atexit
import logging
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from agent_finetune.errors import FinetuneError
from agent_finetune.recordings.store import Recordings

logger = logging.getLogger(__name__)

Work: TypeAlias = "Callable[[Recordings], object]"
"""Something to do with the recordings, on the writer's thread."""


class Writer:
    """One file's writer: a queue, and a thread that empties it.

    Args:
        path: The database; made, readable by its owner alone, with the first piece of work.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[Work | threading.Event] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="recordings", daemon=True)
        self._thread.start()

    def put(self, work: Work) -> None:
        """Let something be done soon, behind all that was put before; what fails is logged."""
        self._queue.put(work)

    def flush(self, timeout: float = 30.0) -> None:
        """Wait until everything put so far is done."""
        done = threading.Event()
        self._queue.put(done)
        if not done.wait(timeout):
            logger.error("%s: not everything was recorded within %g s", self._path, timeout)

    def _write(self) -> None:
        recordings: Recordings | None = None
        while True:
            work = self._queue.get()
            if isinstance(work, threading.Event):
                work.set()
                continue
            try:
                recordings = recordings or Recordings(self._path)
                work(recordings)
            except Exception as error:  # the next piece of work is done all the same
                known = isinstance(error, FinetuneError)
                logger.error("not recorded: %s", error, exc_info=not known)


_lock = threading.Lock()
_writers: dict[Path, Writer] = {}


def writer(path: Path) -> Writer:
    """The writer of a file; one for each in this process."""
    path = path.expanduser().absolute()
    with _lock:
        if path not in _writers:
            if not _writers:
                atexit.register(flush_all)
            _writers[path] = Writer(path)
        return _writers[path]


def flush_all() -> None:
    """Wait until everything that this process recorded is written."""
    with _lock:
        writers = list(_writers.values())
    for each in writers:
        each.flush()
