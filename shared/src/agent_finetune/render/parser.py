"""Generated ids to a turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agent_finetune.render.adapt import Probed
from agent_finetune.render.family import Family
from agent_finetune.render.stream import TurnStream
from agent_finetune.toolcalls import ParsedTurn, TextStream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Parser:
    """Reads what a model said, in its family's form where that is known."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, probed: Probed, stop_ids: Sequence[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._stops = (probed.text_stop.text, probed.call_stop.text)
        self._stop_ids = frozenset(stop_ids)
        self._header = probed.header
        self._family = Family(tokenizer, probed)

    def open(
        self,
        tools: Sequence[Mapping[str, Any]],
        stop: Sequence[str],
        *,
        calls: bool = True,
        asking: str | None = None,
    ) -> TurnStream:
        """See `Renderer.open_turn`."""
        form = self._family.form(tools, self._header if asking is None else asking)
        # A stop that is no single token, or was spelled out, is among the words.
        text = TextStream(form if calls else form.without_calls(), (*self._stops, *stop))
        return TurnStream(self._tokenizer, self._stop_ids, text)

    def parse(self, ids: Sequence[int], tools: Sequence[Mapping[str, Any]]) -> ParsedTurn:
        """See `Renderer.parse`."""
        stream = self.open(tools, ())
        stream.feed(ids)
        return stream.finish()[1]
