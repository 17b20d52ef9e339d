"""How `chat` shows an answer, and how it asks for a line."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

from rich.console import Console

from agent_finetune.cli.options import log
from agent_finetune.contracts import Delta, Generation, Result

_THINKING = "thinking: "
"""Stands before what is thought where it cannot be dimmed."""


class Screen:
    """Shows answers while they come: words, thinking apart from them, and whole calls.

    Args:
        file: Gets the answers. What is told about them goes to stderr.
    """

    def __init__(self, file: TextIO) -> None:
        self._answers = Console(file=file, highlight=False)
        self._notes = Console(stderr=True, highlight=False, soft_wrap=True)
        self._open: str | None = None  # what the line that has not ended is: text or thinking

    def follow(self, generation: Generation) -> Result:
        """Show an answer to its end; Ctrl-C cancels it.

        Raises:
            FinetuneError: It could not be generated.
        """
        begun = time.perf_counter()
        first = None
        try:
            with _interrupt_cancels(generation):
                for piece in generation:
                    first = first or time.perf_counter()
                    self._show(piece)
        finally:
            self._end_line()
        result = generation.result()
        for broken in result.broken_calls:
            log(f"a tool call that does not parse: {broken}")
        ended = time.perf_counter()
        self.note(_figures(result, (first or ended) - begun, ended - begun))
        return result

    def note(self, line: str) -> None:
        """Tell something that is no answer, on stderr, dimmed."""
        self._notes.print(line, style="dim", markup=False)

    def _show(self, piece: Delta) -> None:
        self._write("thinking", piece.thinking)
        self._write("text", piece.text)
        if piece.call is not None:
            self._end_line()
            arguments = json.dumps(dict(piece.call.arguments), ensure_ascii=False)
            self._answers.out(f"calls {piece.call.name}({arguments})", highlight=False)

    def _write(self, kind: str, words: str) -> None:
        if not words:
            return
        if self._open != kind:
            self._end_line()
            if kind == "thinking" and self._answers.color_system is None:
                self._answers.out(_THINKING, end="", highlight=False)
        self._open = kind
        style = "dim italic" if kind == "thinking" else None
        self._answers.out(words, end="", style=style, highlight=False)

    def _end_line(self) -> None:
        if self._open is not None:
            self._answers.out("")
        self._open = None


def ask(who: str) -> str | None:
    """One line of stdin, without its end; None when there are no more."""
    prompt = f"{who}> "
    if sys.stdin.isatty() and sys.stdout.isatty():
        import readline  # noqa: F401 - with it, input() lets a line be edited and recalled

        try:
            return input(prompt)
        except EOFError:
            print()  # the line of the prompt was not ended
            return None
    print(prompt, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None


@contextmanager
def _interrupt_cancels(generation: Generation) -> Iterator[None]:
    """Let the first Ctrl-C cancel, so that the last pieces still come; the next one interrupts."""
    before = signal.getsignal(signal.SIGINT)

    def cancel(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        # Not here: this thread was stopped anywhere, perhaps with the lock that cancel takes.
        threading.Thread(target=generation.cancel).start()

    signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _figures(result: Result, first: float, whole: float) -> str:
    """One line about an answer; `first` and `whole` in seconds from the question on."""
    usage = result.usage
    told = [
        f"{usage.completion_tokens} tokens in {whole:.2f} s "
        f"({usage.completion_tokens / whole:.1f}/s)",
        f"first after {first:.2f} s",
        f"{usage.cached_tokens} of {usage.prompt_tokens} prompt tokens from the cache",
    ]
    if result.finish == "length":
        told.append("cut off by max_new_tokens or the context")
    if result.finish == "cancelled":
        told.append("cancelled")
    return f"[{', '.join(told)}]"
