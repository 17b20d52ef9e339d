"""How a model says a turn of words or a call, found from its template: text with a hole in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from agent_finetune.errors import RenderError
from agent_finetune.records import Message, ToolCall
from agent_finetune.render import Renderer
from agent_finetune.toolcalls import ParsedTurn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORDS = "textwords7k"
THOUGHT = "thinkingwords7k"
NAME = "toolname7k"
CALL_ID = "callid07k"
ARGUMENTS = {"argkey7k": "argvalue7k", "otherkey7k": "othervalue7k"}
SEPARATORS = ((", ", ": "), (",", ":"), (",", ": "))
"""What JSON may be printed with, between items and behind keys; Python's own come first."""

_TOOL = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "what",
        "parameters": {"type": "object", "properties": {k: {"type": "string"} for k in ARGUMENTS}},
    },
}
_MARKUP = re.compile(r"</?[^<>\s]+>")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What a turn says around a JSON value, behind the prompt as it is served."""

    before: str
    """From the prompt to the value, without thinking; may hold `NAME` and `CALL_ID`."""
    after: str
    """From the value to the stop."""
    stop: str
    """What ends the turn."""
    separators: tuple[str, str] = SEPARATORS[0]
    thought: tuple[str, str, str] | None = None
    """What opens thinking, what closes it, and from there to the value; None where a turn cannot
    think first. With an empty opening, the prompt has opened it."""

    def named(self, name: str) -> Shape:
        """This shape of a call, as a call of one tool."""
        thought = self.thought
        if thought is not None:
            thought = (thought[0], thought[1], thought[2].replace(NAME, name))
        return replace(
            self,
            before=self.before.replace(NAME, name),
            after=self.after.replace(NAME, name),
            thought=thought,
        )

    def behind(self, asking: str) -> Shape:
        """This shape behind a prompt that may have opened thinking already.

        Args:
            asking: How the prompt ends (`turns.Prompt`).
        """
        opening, closing, rest = self.thought or ("", "", "")
        if not opening.strip() or not asking.rstrip().endswith(opening.strip()):
            return self
        return replace(self, before=closing + rest, thought=("", closing, rest))

    def said(self, value: str, thought: str = "") -> str:
        """The turn with a value in its place, stop included; with a thought, where it has one."""
        before = self.before
        if thought and self.thought is not None:
            opening, closing, rest = self.thought
            before = opening + thought + closing + rest
        return (before + value + self.after + self.stop).replace(CALL_ID, "callaaaaa")


class Shapes:
    """Finds how turns are said with one chat template, and checks that they are read back."""

    def __init__(self, renderer: Renderer, tokenizer: PreTrainedTokenizerBase) -> None:
        self._renderer = renderer
        self._tokenizer = tokenizer

    @cached_property
    def words(self) -> Shape:
        """How the model says an answer in words; the value is all of its words.

        Raises:
            RenderError: The template does not let the words be found.
        """
        turn = Message(role="assistant", text=WORDS)
        shape = self._shape(turn, WORDS, SEPARATORS[0])
        if shape is None:
            raise RenderError("the words of an answer are not in what the template prints")
        thoughtful = self._parsed(shape.said(WORDS, THOUGHT), ())
        if (thoughtful.thinking, thoughtful.text) != (THOUGHT, WORDS):
            shape = replace(shape, thought=None)
        return shape

    def call(self, tools: Sequence[Mapping[str, Any]]) -> Shape:
        """How the model says one call; the value is its arguments, `NAME` its tool.

        The template's own way where it prints arguments as JSON, else Hermes' block or bare JSON
        as words: the first that `Renderer.parse` reads back for every tool.

        Raises:
            RenderError: None is read back.
        """
        names = [str(tool["function"]["name"]) for tool in tools]
        for shape in self._call_shapes():
            if all(self._reads_back(shape.named(name), name, tools) for name in names):
                thinks = all(
                    self._reads_back(shape.named(name), name, tools, THOUGHT) for name in names
                )
                return shape if thinks else replace(shape, thought=None)
        raise RenderError(
            f"calls of {', '.join(map(repr, names))} cannot be forced: no form of a call that is "
            "held to JSON is read back as a call with this chat template"
        )

    def _call_shapes(self) -> Iterator[Shape]:
        call = ToolCall(name=NAME, arguments=ARGUMENTS, id=CALL_ID)
        turn = Message(role="assistant", tool_calls=(call,))
        for separators in SEPARATORS:
            value = json.dumps(ARGUMENTS, separators=separators)
            shape = self._shape(turn, value, separators)
            if shape is not None:
                yield shape
                break
        words = self.words
        for opening, closing in (("<tool_call>\n", "\n</tool_call>"), ("", "")):
            start = f'{opening}{{"name": "{NAME}", "arguments": '
            thought = words.thought
            if thought is not None:
                thought = (thought[0], thought[1], thought[2] + start)
            before, after = words.before + start, "}" + closing + words.after
            yield replace(words, before=before, after=after, thought=thought)

    def _reads_back(
        self, shape: Shape, name: str, tools: Sequence[Mapping[str, Any]], thought: str = ""
    ) -> bool:
        value = json.dumps(ARGUMENTS, separators=shape.separators)
        parsed = self._parsed(shape.said(value, thought), tools)
        called = [(call.name, call.arguments) for call in parsed.calls]
        thoughtful = not thought or parsed.thinking == thought
        return called == [(name, ARGUMENTS)] and thoughtful and not (parsed.broken or parsed.text)

    def _parsed(self, said: str, tools: Sequence[Mapping[str, Any]]) -> ParsedTurn:
        ids = self._tokenizer(said, add_special_tokens=False)["input_ids"]
        return self._renderer.parse(ids, tools)

    def _shape(self, turn: Message, value: str, separators: tuple[str, str]) -> Shape | None:
        """The shape of a turn around a value; None where the value is not said exactly once."""
        said, stop = self._renderer.said(turn, [_TOOL])
        if said.count(value) != 1:
            return None
        before, _, after = said.partition(value)
        thought = self._thought(turn, value)
        return Shape(before=before, after=after, stop=stop, separators=separators, thought=thought)

    def _thought(self, turn: Message, value: str) -> tuple[str, str, str] | None:
        try:
            said, _ = self._renderer.said(replace(turn, thinking=THOUGHT), [_TOOL])
        except RenderError:
            return None
        opening, found, rest = said.partition(THOUGHT)
        rest = rest.partition(value)[0].lstrip()
        closing = _MARKUP.match(rest)
        if not found or closing is None:
            return None
        return opening, closing.group(), rest[closing.end() :]
