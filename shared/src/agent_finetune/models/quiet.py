"""Keep Transformers from talking over us while we load, and put its settings back afterwards."""

from __future__ import annotations

import io
import logging as standard
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

from transformers.utils import logging as _logging

logging: Any = _logging  # its functions carry no types


@contextmanager
def quiet() -> Iterator[None]:
    """Only errors of Transformers are logged; progress bars are drawn on a terminal only.

    What its warnings say about loading, we check ourselves and raise. The same goes for
    bitsandbytes, which says at import that it may be faster.
    """
    other = standard.getLogger("bitsandbytes")
    level = other.level
    other.setLevel(standard.ERROR)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with bars_on_a_terminal():
            yield
    finally:
        other.setLevel(level)
        logging.set_verbosity(verbosity)


@contextmanager
def bars_on_a_terminal() -> Iterator[None]:
    """Transformers draws its progress bars on a terminal only."""
    hide = logging.is_progress_bar_enabled() and not _on_terminal()
    if hide:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            logging.enable_progress_bar()


@contextmanager
def no_bar_in_a_log() -> Iterator[None]:
    """Swallow a progress bar that has no switch of its own, unless a terminal can draw it."""
    if _on_terminal():
        yield
        return
    with redirect_stderr(io.StringIO()):
        yield


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
