"""Show on stderr how far a long piece of work is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 20.0


@contextmanager
def progress(label: str, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, elsewhere a line now and then; what it yields is an `on_progress`.

    Args:
        label: What is being done.
        console: Where to show it; stderr when None.

    Example:
        >>> with progress("held-out examples") as on_progress:  # doctest: +SKIP
        ...     report = evaluate(loaded, examples, on_progress=on_progress)
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _lines(label, console)
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(label: str, console: Console) -> Callable[[int, int], None]:
    told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        if done == total or time.monotonic() - told >= SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            console.print(f"{label}: {done} of {total}", soft_wrap=True, highlight=False)

    return tell
