"""A turn taken apart while its ids are generated."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from agent_finetune.render.template import common_prefix
from agent_finetune.render.tokens import decode
from agent_finetune.toolcalls import ParsedTurn, Piece, TextStream, joined

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_UNFINISHED = "\ufffd"
"""What bytes decode to that are not a whole character, or not yet."""
_WINDOW = 16
"""Most ids that are decoded again, unless a character is not whole."""
_CONTEXT = 4
"""Ids before the new ones that are decoded with them: some decoders look at a text's beginning."""


class TurnStream:
    """Takes a turn apart, id by id: words and thinking as they come, a call when it has closed.

    The pieces add up to the turn that `finish` answers, which is the one that `Renderer.parse`
    makes of the same ids, however they were divided among the calls of `feed`.

    Args:
        tokenizer: What the ids are of.
        stop_ids: Ids that end the turn; what comes behind the first is left out.
        text: What takes the decoded text apart.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop_ids: Collection[int], text: TextStream
    ) -> None:
        self._decoder = _Decoder(tokenizer)
        self._stop_ids = frozenset(stop_ids)
        self._text = text
        self._ended = False

    @property
    def stopped(self) -> bool:
        """Whether the turn is over: a stop string has come out whole, or an id that stops."""
        return self._ended or self._text.stopped

    def feed(self, ids: Sequence[int]) -> list[Piece]:
        """Take the ids that were generated next, and answer what has become certain."""
        pieces: list[Piece] = []
        # One by one, so that nothing can depend on how the ids came.
        for token in ids:
            self._ended = self._ended or token in self._stop_ids
            if self.stopped:
                break
            pieces += self._text.feed(self._decoder.feed(token))
        return joined(pieces)

    def finish(self) -> tuple[list[Piece], ParsedTurn]:
        """End the turn: the last pieces, and all of it. Never raises for what the turn says."""
        pieces = self._text.feed(self._decoder.rest())
        last, turn = self._text.finish()
        return joined([*pieces, *last]), turn


class _Decoder:
    """Ids to text, never half a character; the cost of an id does not grow with the turn."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._given = 0
        """Characters of the decoded window that were given out."""

    def feed(self, token: int) -> str:
        self._ids.append(token)
        text = decode(self._tokenizer, self._ids)
        certain = text.rstrip(_UNFINISHED)
        new = certain[self._given :]
        self._given = max(self._given, len(certain))
        if len(self._ids) > _WINDOW and len(certain) == len(text):
            self._shorten(text)
        return new

    def rest(self) -> str:
        text = decode(self._tokenizer, self._ids)
        new = text[self._given :]
        self._given = max(self._given, len(text))
        return new

    def _shorten(self, text: str) -> None:
        """Forget ids at a place where what is kept decodes to the end of what is there."""
        kept = self._ids[-_CONTEXT:]
        tail = decode(self._tokenizer, kept)
        if common_prefix(tail[::-1], text[::-1]) == tail[::-1] and tail:
            self._ids, self._given = kept, len(tail)
