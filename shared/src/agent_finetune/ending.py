"""How a command ends that somebody ends: Ctrl-C, or SIGTERM as systems and launchers send it.

Both become an exception, so that what tidies up after one does so after the other.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
_REPEATED = 2.0
"""Seconds in which a second signal is the first one told again: a launcher hands on what a terminal
has sent to all."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextmanager
def by_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the block by an exception, once.

    A second one, later, ends what tidies up as well. Signals that somebody else handles, or has
    told to be ignored, are left alone.

    Raises:
        KeyboardInterrupt: SIGINT came.
        Terminated: SIGTERM came.
    """
    first: float | None = None

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if first is not None and now - first < _REPEATED:
            return
        first = now
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    ours = [number for number, handler in usual.items() if signal.getsignal(number) is handler]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, usual[number])


def word(error: KeyboardInterrupt) -> str:
    """What happened, for the beginning of the last line."""
    return "terminated" if isinstance(error, Terminated) else "interrupted"


def code(error: KeyboardInterrupt) -> int:
    """The exit code that shells expect."""
    return TERMINATED if isinstance(error, Terminated) else INTERRUPTED
