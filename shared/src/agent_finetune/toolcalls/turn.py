"""What a turn is taken apart into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent_finetune.records import ToolCall


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A part of a turn: words, thinking, or a call; one of the three."""

    text: str = ""
    thinking: str = ""
    call: ToolCall | None = None


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """The same pieces, neighbours of one kind made one."""
    out: list[Piece] = []
    for piece in pieces:
        last = out[-1] if out else None
        if last and piece.text and last.text:
            out[-1] = Piece(text=last.text + piece.text)
        elif last and piece.thinking and last.thinking:
            out[-1] = Piece(thinking=last.thinking + piece.thinking)
        else:
            out.append(piece)
    return out


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedTurn:
    """What a model said, taken apart."""

    text: str
    """Words outside of thinking and calls, without blanks around them."""
    thinking: str | None = None
    calls: tuple[ToolCall, ...] = ()
    broken: tuple[str, ...] = ()
    """Calls that do not parse, or were cut off: raw, so that nothing is lost."""
