"""Take a turn apart while it comes, saying only what is certain."""

from __future__ import annotations

from collections.abc import Sequence

import regex

from agent_finetune.records import ToolCall
from agent_finetune.toolcalls.forms import PLAIN, Block, Form, Region
from agent_finetune.toolcalls.reading import is_json, unfenced
from agent_finetune.toolcalls.turn import ParsedTurn, Piece, joined
from agent_finetune.toolcalls.words import StopSearch, Words

_KEPT = 4096
"""Characters of decided text that may wait before they are let go."""


class TextStream:
    """Takes a turn apart that comes as text, in pieces of any size.

    The pieces that come out add up to the turn that `finish` answers, however the text was cut.
    Words and thinking come out as soon as no markup can begin in them, blanks when something
    follows them, a call when it has closed. Work per character does not grow with the turn.

    Args:
        form: How the turn is written.
        stop: Strings that end the turn; the one that first is whole counts.
    """

    def __init__(self, form: Form = PLAIN, stop: Sequence[str] = ()) -> None:
        self._form = form
        self._stop = StopSearch(stop)
        self._buffer = ""
        self._place = 0  # in the buffer: what is before it has been decided
        self._region = form.inside
        self._body = 0  # where the inside of an open call begins
        self._scanned = 0  # an open call does not close before here
        self._unquoted = 0  # a place in an open call outside of its JSON strings
        self._in_string: tuple[int, int] | None = None  # its first close, if that is in a string
        self._name: str | None = None
        self._text, self._thinking = Words(), Words()
        self._outside = ""
        self._fresh = True  # no words and no calls so far
        self._calls: list[ToolCall] = []
        self._broken: list[str] = []
        self._out: list[Piece] = []

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come out whole; what is fed from then on is left out."""
        return self._stop.found

    def feed(self, text: str) -> list[Piece]:
        """Take more of the turn, and answer what has become certain."""
        self._take(self._stop.feed(text), final=False)
        return self._flush()

    def finish(self) -> tuple[list[Piece], ParsedTurn]:
        """End the turn: the last pieces, and all of it. Never raises for what the turn says."""
        self._take(self._stop.rest(), final=True)
        self._settle_outside()
        return self._flush(), ParsedTurn(
            text=self._text.said,
            thinking=self._thinking.said or None,
            calls=tuple(self._calls),
            broken=tuple(self._broken),
        )

    def _flush(self) -> list[Piece]:
        out, self._out = self._out, []
        return joined(out)

    def _take(self, text: str, *, final: bool) -> None:
        if not text and not final:
            return
        self._buffer += text
        while self._step(final):
            pass
        if self._place > _KEPT:
            self._let_go(self._place - 1)  # one is kept: a line's beginning is seen by it

    def _let_go(self, count: int) -> None:
        self._buffer = self._buffer[count:]
        self._place -= count
        self._body -= count
        self._scanned -= count
        self._unquoted -= count
        if self._in_string:
            self._in_string = (self._in_string[0] - count, self._in_string[1] - count)

    def _step(self, final: bool) -> bool:
        """Pass one border between regions; False when there is none yet."""
        if self._region is None:
            return self._step_outside(final)
        if self._region.kind == "call":
            return self._step_call(self._region, final)
        return self._step_words(self._region, final)

    def _step_outside(self, final: bool) -> bool:
        found: tuple[Region, regex.Match[str]] | None = None
        certain = len(self._buffer)
        for region in self._form.regions:
            match = self._opening(region, final)
            if match is None:
                continue
            if self._pending(match, final):
                certain = min(certain, match.start())
            elif found is None or match.start() < found[1].start():
                found = region, match
        if found is None or found[1].start() >= certain:
            self._pass(certain, "text")
            return False
        region, match = found
        self._pass(match.start(), "text")
        self._settle_outside()
        if region.kind == "markup":
            self._place = match.end()
            return True
        self._open(region, match)
        return True

    def _opening(self, region: Region, final: bool) -> regex.Match[str] | None:
        if region.open is None or (region.first and not self._fresh):
            return None
        find = region.open.match if region.first else region.open.search
        return find(self._buffer, self._place, partial=not final)

    def _pending(self, match: regex.Match[str], final: bool) -> bool:
        """Whether more text could make another match of it."""
        return not final and (match.partial or match.end() == len(self._buffer))

    def _open(self, region: Region, match: regex.Match[str]) -> None:
        self._region = region
        self._body = self._scanned = self._unquoted = match.end()
        self._in_string = None
        self._name = match.groupdict().get("name")
        if region.kind == "call":
            self._place = match.start()
            return
        self._place = match.end()
        (self._thinking if region.kind == "thinking" else self._text).divide()

    def _step_words(self, region: Region, final: bool) -> bool:
        """Inside of thinking, or of words that have markup."""
        kind = "thinking" if region.kind == "thinking" else "inside"
        close = region.close
        match = close.search(self._buffer, self._place, partial=not final) if close else None
        if match is None or self._pending(match, final):
            self._pass(match.start() if match else len(self._buffer), kind)
            return False
        self._pass(match.start(), kind)
        self._place = match.end()
        self._region = None
        return True

    def _step_call(self, region: Region, final: bool) -> bool:
        while region.close:
            match = region.close.search(self._buffer, self._scanned, partial=not final)
            if match is None:
                break
            if self._pending(match, final):
                self._scanned = match.start()
                return False
            if not (region.quoted and self._quotes(match.start())):
                followed = match.groupdict().get("next") is not None
                end = match.start("next") if followed else match.end()
                self._close_call(region, match.start(), end, closed=not followed)
                return True
            self._in_string = self._in_string or (match.start(), match.end())
            self._scanned = match.end()
        if not final:
            self._scanned = len(self._buffer)
            return False
        self._close_call(region, self._half_closed(region), len(self._buffer), closed=False)
        return True

    def _half_closed(self, region: Region) -> int:
        """Where the closing markup begins that the end of the turn cut off."""
        end = len(self._buffer)
        half = region.close and region.close.search(self._buffer, self._scanned, partial=True)
        return half.start() if half and half.partial else end

    def _quotes(self, place: int) -> bool:
        """Whether a place in an open call is inside of a JSON string."""
        while (start := self._buffer.find('"', self._unquoted, place)) >= 0:
            string = _STRING.match(self._buffer, start, place)
            if string is None:
                self._unquoted = start
                return True
            self._unquoted = string.end()
        return False

    def _close_call(self, region: Region, body_end: int, end: int, *, closed: bool) -> None:
        calls = self._read(region, body_end, end, closed=closed)
        if not calls and self._in_string:
            # No JSON at all, so that its quotes say nothing: the first close was one.
            body_end, end = self._in_string
            calls = self._read(region, body_end, end, closed=True)
        raw = self._buffer[self._place : end]
        self._region, self._place = None, end
        if calls or not region.whole:
            self._add(calls, raw)
        else:
            self._read_again(region, raw)

    def _read(
        self, region: Region, body_end: int, end: int, *, closed: bool
    ) -> tuple[ToolCall, ...]:
        block = Block(
            raw=self._buffer[self._place : end],
            body=self._buffer[self._body : body_end],
            name=self._name,
            closed=closed,
        )
        return region.read(block) if region.read else ()

    def _add(self, calls: Sequence[ToolCall], raw: str) -> None:
        self._fresh = False
        self._calls += calls
        self._out += [Piece(call=call) for call in calls]
        if not calls and raw.strip():
            self._broken.append(raw.strip())

    def _read_again(self, region: Region, raw: str) -> None:
        """What looked like a call to its end is words, or has calls of another form in it."""
        others = tuple(other for other in self._form.regions if other is not region)
        inner = TextStream(Form(regions=others))
        pieces = inner.feed(raw)
        last, turn = inner.finish()
        if not (turn.calls or turn.broken or is_json(unfenced(raw))):
            self._add((), raw)
            return
        for piece in (*pieces, *last):
            if piece.call:
                self._add((piece.call,), "")
            self._say("text", piece.text)
            self._say("thinking", piece.thinking)
        self._broken += turn.broken

    def _pass(self, end: int, kind: str) -> None:
        """Decide that all up to `end` is of one kind."""
        text = self._buffer[self._place : end]
        self._place = max(end, self._place)
        if kind == "text" and not self._form.words:
            self._outside += text
        else:
            self._say(kind, text)
        self._fresh = self._fresh and (kind == "thinking" or not text.strip())

    def _say(self, kind: str, text: str) -> None:
        said = (self._thinking if kind == "thinking" else self._text).take(text)
        if said:
            self._out.append(Piece(thinking=said) if kind == "thinking" else Piece(text=said))

    def _settle_outside(self) -> None:
        """Keep what stood where no words should be."""
        text = self._outside.replace(self._form.header, "") if self._form.header else self._outside
        self._outside = ""
        text = text.strip()
        if not text:
            return
        if any(marker in text or marker.startswith(text) for marker in self._form.markers):
            self._broken.append(text)
        else:
            self._text.divide()
            self._say("inside", text)


_STRING = regex.compile(r'"(?:[^"\\]|\\.)*+"', regex.DOTALL)


def parse(text: str) -> ParsedTurn:
    """Take a generated turn apart. Never raises: what does not parse is kept in `broken`.

    A thinking block or call that was cut off by the end of the text counts as far as it goes: a
    call whose JSON is whole is a call, any other is broken.

    Args:
        text: The turn, without its stop token.
    """
    stream = TextStream()
    stream.feed(text)
    return stream.finish()[1]
