"""How a model's family writes turns, out of its response template.

Transformers describes a family's turns by a `response_template`; a tokenizer may carry one, and
TRL has one for each family that it knows. Regions are found here, because a turn may be cut off,
and one call of several may be broken; what is in a call is read by Transformers.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import regex

from agent_finetune.records import ToolCall
from agent_finetune.render.adapt import Probed
from agent_finetune.render.markup import (
    ALIKE,
    ATEM,
    ATEM_CALL,
    ATEM_ENDS,
    HARMONY,
    PYTHON_BLOCK,
)
from agent_finetune.render.messages import plain_tools
from agent_finetune.render.preamble import own_template
from agent_finetune.render.template import control_tokens
from agent_finetune.toolcalls.forms import PLAIN, THINKING, Block, Form, Read, Region, literal
from agent_finetune.toolcalls.reading import (
    make_call,
    read_arguments,
    read_calls,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_THINKING_FIELDS = ("reasoning_content", "thinking", "reasoning")
_JSON_CALL = regex.compile(r'\[?\s*\{\s*"(?:name|function|type|id)"\s*:.*', regex.DOTALL)
_LEFT_BY_TAGS = regex.compile(r"(?:\s|,|</\w+>)*")
_ENDS_IN_A_TAG = regex.compile(r"</\w+>\s*$")

_NAMED_CALL = regex.compile(r"\s*(?P<name>[\w.-]+)\[ARGS\](?P<arguments>.*)", regex.DOTALL)
_FINAL = literal("<|channel|>final<|message|>")


class Family:
    """The form of one tokenizer's turns."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, probed: Probed) -> None:
        self._tokenizer = tokenizer
        self._probed = probed

    def form(self, tools: Sequence[Mapping[str, Any]], asking: str) -> Form:
        """How turns are written, the family's own regions first and ours behind them.

        Args:
            tools: Tools offered; XML-like formats need them to type the arguments.
            asking: What the prompt ends with to ask for the turn; it may open a region.
        """
        fields = self._fields
        own = [self._region(name, field, tools) for name, field in fields.items()]
        regions = [region for region in own if region.open]
        if any(region.open and region.open.pattern == _FINAL.pattern for region in regions):
            regions = [*HARMONY, *regions]
        if self._template is ATEM:
            regions.append(ATEM_ENDS)
        return Form(
            regions=(*regions, *self._marked, *PLAIN.regions),
            inside=_inside([*own, THINKING], asking),
            words=not fields or any(region.open is None for region in own),
            markers=self._markers,
            header=self._probed.header,
        )

    def _region(
        self, name: str, field: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]
    ) -> Region:
        opened, closed = _pattern(field, "open"), _pattern(field, "close")
        if name == "tool_calls":
            if opened and "<\\|tool_call_start\\|>" in opened.pattern:
                return PYTHON_BLOCK
            as_json = field.get("content") == "json"
            read = self._reader(field, tools)
            return Region(kind="call", open=opened, close=closed, read=read, quoted=as_json)
        if name not in _THINKING_FIELDS:
            return Region(kind="text", open=opened, close=closed)
        if opened and opened.pattern.startswith("(?="):
            # Nemotron's looks ahead for the end of thinking that the prompt opened.
            return replace(THINKING, close=closed)
        return Region(kind="thinking", open=opened, close=closed)

    @cached_property
    def _marked(self) -> tuple[Region, ...]:
        """Markup that the template prints and no response template tells of."""
        openings = self._probed.openings
        regions: list[Region] = []
        marker = _JSON_CALL.sub("", openings.call).strip()
        controls = control_tokens(self._tokenizer)
        ours = any(known in marker for known in ("<tool_call>", "<|startofthink|>"))
        if not self._fields and not ours and any(c in marker for c in controls):
            # As Mistral's [TOOL_CALLS].
            read = _read_marked
            regions.append(Region(kind="call", open=literal(marker), read=read))
        if opening := openings.text.strip():
            before = regex.compile(r"\s*" + regex.escape(opening))
            regions.append(Region(kind="markup", open=before, first=True))
        if closing := openings.closing.strip():
            at_end = regex.compile(regex.escape(closing) + r"\s*\Z")
            regions.append(Region(kind="markup", open=at_end))
        return tuple(regions)

    @cached_property
    def _markers(self) -> tuple[str, ...]:
        """What is in a call that was cut off, where outside of regions are no words."""
        call = self._probed.openings.call.strip()
        return tuple(filter(None, (call, *control_tokens(self._tokenizer))))

    @property
    def _fields(self) -> Mapping[str, Mapping[str, Any]]:
        return self._template.get("fields", {}) if self._template else {}

    @cached_property
    def _template(self) -> dict[str, Any] | None:
        """The response template; None where calls are our text, or the family is not known."""
        if {"tools-as-text", "chatml"} & set(self._probed.adaptation.names):
            return None
        if self._tokenizer.response_template is not None:
            return dict(self._tokenizer.response_template)
        own = own_template(self._probed.adaptation.template)
        known = self._template_of_trl(own) or self._template_of_trl(own + "\n")
        call = self._probed.openings.call
        if known or ATEM_CALL in own:
            return known or ATEM
        for opening, name in ALIKE:
            if call.lstrip().startswith(opening):
                return self._template_of_trl(_shipped(name))
        return None

    def _template_of_trl(self, chat_template: str) -> dict[str, Any] | None:
        """What TRL knows of the family with this chat template."""
        from trl.chat_template_utils import add_response_schema

        family = copy.copy(self._tokenizer)
        family.chat_template = chat_template
        try:
            return dict(add_response_schema(family).response_template)
        except ValueError:  # not a family that TRL knows
            return None

    def _reader(self, field: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]) -> Read:
        """Reads a call as Transformers does, and JSON that it cannot read as we do."""
        tag = field.get("content_args", {}).get("tag_pattern")
        # Llama-3's opening and closing are a part of the JSON, and the stop of the closing.
        endings = ("", self._probed.call_stop.text) if field.get("content") == "json" else ("",)

        def read(block: Block) -> tuple[ToolCall, ...]:
            if tag and _leaves_something(tag, block):
                return ()
            for ending in endings:
                if calls := self._read(block.raw + ending, tools):
                    return calls
            return read_calls(block.body) or read_calls(block.raw, bare=True)

        return read

    def _read(self, raw: str, tools: Sequence[Mapping[str, Any]]) -> tuple[ToolCall, ...]:
        parse = self._tokenizer.parse_response
        try:
            said = parse(raw, self._template, prefix="", tools=plain_tools(tools))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return ()  # malformed
        calls = [_call(found) for found in said.get("tool_calls") or ()]
        if said.get("content") or not all(calls):
            return ()
        return tuple(call for call in calls if call)


def _inside(regions: Sequence[Region], asking: str) -> Region | None:
    """The region that the prompt leaves open, or that is open without any markup."""
    for region in regions:
        if region.kind != "thinking" or region.close is None:
            continue
        if region.open is None:
            return region
        ends = [match.end() for match in region.open.finditer(asking)]
        if ends and not region.close.search(asking, ends[-1]):
            return region
    return None


def _call(found: Any) -> ToolCall | None:
    """A call as a response template shapes it; what is in it may be any JSON."""
    said = found.get("function", found) if isinstance(found, Mapping) else None
    if not isinstance(said, Mapping):
        return None
    return make_call(said.get("name"), said.get("arguments"))


def _pattern(field: Mapping[str, Any], which: str) -> regex.Pattern[str] | None:
    """What opens or closes a field: a pattern, a text, or one of several texts."""
    if (pattern := field.get(f"{which}_pattern")) is not None:
        return regex.compile(pattern, regex.DOTALL)
    texts = field.get(which)
    if texts is None:
        return None
    texts = [texts] if isinstance(texts, str) else sorted(texts, key=len, reverse=True)
    return regex.compile("|".join(map(regex.escape, texts)))


def _shipped(name: str) -> str:
    """A chat template that TRL ships."""
    return (files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def _leaves_something(tag: str, block: Block) -> bool:
    """Whether a call in tags has anything that is no tag, or was cut off among them."""
    rest = regex.sub(tag, "", block.body, flags=regex.DOTALL)
    whole = block.closed or _ENDS_IN_A_TAG.search(rest)
    return not whole or not _LEFT_BY_TAGS.fullmatch(rest)


def _read_marked(block: Block) -> tuple[ToolCall, ...]:
    """JSON of calls, or as newer Mistral templates say it, `name[ARGS]{...}`."""
    named = [_NAMED_CALL.fullmatch(part) for part in block.body.split(_marker_of(block))]
    calls = [read_arguments(call["name"], call["arguments"]) for call in named if call]
    if all(named) and all(calls):
        return tuple(call for (call,) in calls)
    return read_calls(block.body)


def _marker_of(block: Block) -> str:
    return block.raw.removesuffix(block.body)
