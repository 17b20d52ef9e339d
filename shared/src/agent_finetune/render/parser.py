"""Generated ids to a turn."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from agent_finetune import toolcalls
from agent_finetune.records import ToolCall
from agent_finetune.render.adapt import Probed
from agent_finetune.render.folds import THINK
from agent_finetune.render.messages import plain_tools
from agent_finetune.render.preamble import own_template
from agent_finetune.render.tokens import decode
from agent_finetune.toolcalls import ParsedTurn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_JSON_CALL = re.compile(r'\[?\s*\{\s*"(?:name|function|type|id)"\s*:.*', re.DOTALL)


class Parser:
    """Reads what a model said, with its family's own response parser where there is one."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, probed: Probed, stop_ids: Sequence[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._probed = probed
        self._stop_ids = frozenset(stop_ids)

    def parse(self, ids: Sequence[int], tools: Sequence[Mapping[str, Any]]) -> ParsedTurn:
        """See `Renderer.parse`."""
        said = list(ids)
        end = next((place for place, i in enumerate(said) if i in self._stop_ids), len(said))
        if self._family is not None and end < len(said):
            # A stop that opens the next turn is no part of this one.
            own_stop = self._probed.text_stop.rendered
            parsed = self._by_family(said[: end + 1] if own_stop else said[:end], tools)
            if parsed is not None:
                return parsed
        openings = self._probed.openings
        text = decode(self._tokenizer, said[:end])
        for stop in (self._probed.text_stop.text, self._probed.call_stop.text):
            text = text.partition(stop)[0]  # a stop that is no single token is among the words
        text = text.removesuffix(openings.closing).removeprefix(openings.text)
        if THINK[0].strip() in self._probed.header.rpartition("</think>")[2]:
            text = THINK[0] + text
        if self._call_marker and self._call_marker in text:
            words, _, json_text = text.partition(self._call_marker)
            if found := toolcalls.parse(json_text).calls:
                return replace(toolcalls.parse(words), calls=found)
        return toolcalls.parse(text)

    @cached_property
    def _call_marker(self) -> str:
        """What stands before the JSON of calls, as Mistral's [TOOL_CALLS]; empty for Hermes'."""
        opening = _JSON_CALL.sub("", self._probed.openings.call).strip()
        return "" if "<tool_call>" in opening else opening

    @cached_property
    def _family(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer with its family's response template; None where calls are our text."""
        if {"tools-as-text", "chatml"} & set(self._probed.adaptation.names):
            return None
        if self._tokenizer.response_template is not None:
            return self._tokenizer
        from trl.chat_template_utils import add_response_schema

        own = own_template(self._probed.adaptation.template)
        for template in (own, own + "\n"):
            family = copy.copy(self._tokenizer)
            family.chat_template = template
            try:
                return add_response_schema(family)
            except ValueError:  # not a family that TRL knows
                continue
        return None

    def _by_family(self, said: list[int], tools: Sequence[Mapping[str, Any]]) -> ParsedTurn | None:
        """What the family's parser makes of a finished turn; None where it makes nothing."""
        assert self._family is not None
        text = decode(self._tokenizer, said)
        prefix = self._probed.header
        try:
            parsed = self._family.parse_response(text, prefix=prefix, tools=plain_tools(tools))
        except (ValueError, TypeError, LookupError, AttributeError):
            return None  # malformed: the plain parser keeps what is broken
        calls = [call.get("function", call) for call in parsed.get("tool_calls") or ()]
        good = [
            ToolCall(name=call["name"], arguments=call["arguments"])
            for call in calls
            if isinstance(call.get("name"), str) and isinstance(call.get("arguments"), dict)
        ]
        if len(good) < len(calls):
            return None
        thinking = parsed.get("reasoning_content") or parsed.get("thinking")
        words = parsed.get("content") or ""
        if "<tool_call>" in words:
            return None
        for stop in (self._probed.text_stop, self._probed.call_stop):
            words = words.removesuffix(stop.text)
        if not thinking:  # the family's markup, or ours where its template has none
            thinking, words = toolcalls.split_thinking(words)
        thinking = (thinking or "").strip() or None
        return ParsedTurn(text=words.strip(), thinking=thinking, calls=tuple(good))
