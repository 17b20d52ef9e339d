"""Imports in a process of their own: what is broken may crash, hang or print there."""

from __future__ import annotations

import importlib
import os
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one step in another process."""

    name: str
    answer: Any
    """What it answered; None where it failed."""
    failure: str | None
    """Why it failed, in one line."""
    seconds: float


def run(steps: Sequence[tuple[str, Callable[[], Any]]], *, seconds: float) -> tuple[Outcome, ...]:
    """Take steps one after the other in one new process; none follows a crash or a hang.

    Args:
        steps: Names, and functions that can be pickled and answer what can.
        seconds: How long all of it may take.
    """
    # Spawned: this process may have threads, and torch's must not be copied.
    context = get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(there, list(steps)), daemon=True)
    process.start()
    there.close()
    begun = time.monotonic()
    try:
        return tuple(_collect(here, process, [name for name, _ in steps], begun + seconds, seconds))
    finally:
        process.kill()
        process.join()
        here.close()


def _collect(
    here: Connection, process: Any, names: Sequence[str], deadline: float, seconds: float
) -> list[Outcome]:
    found: list[Outcome] = []
    for name in names:
        begun = time.monotonic()
        if not here.poll(max(0.0, deadline - begun)):
            failure = f"it was not done after {seconds:.0f} seconds"
        else:
            try:
                found.append(here.recv())
                continue
            except EOFError:
                process.join()
                failure = _ended(process.exitcode)
        found.append(
            Outcome(name=name, answer=None, failure=failure, seconds=time.monotonic() - begun)
        )
        break
    return found


def _ended(code: int) -> str:
    if code >= 0:
        return f"the process ended with code {code}"
    return f"the process was ended by {signal.Signals(-code).name}"


def _serve(there: Connection, steps: Sequence[tuple[str, Callable[[], Any]]]) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # libraries print while they are imported
    os.dup2(nowhere, 2)
    warnings.simplefilter("ignore")
    for name, step in steps:
        begun = time.monotonic()
        answer, failure = None, None
        try:
            answer = step()
        except Exception as error:  # whatever it is, that is what the user is told
            said = " ".join(str(error).split())[:300]
            failure = f"{type(error).__name__}: {said}" if said else type(error).__name__
        there.send(
            Outcome(name=name, answer=answer, failure=failure, seconds=time.monotonic() - begun)
        )


@dataclass(frozen=True, slots=True)
class Import:
    """A step that imports a module; a class, since it goes into another process."""

    module: str

    def __call__(self) -> None:
        importlib.import_module(self.module)
