"""Answers held to a JSON schema, and calls that are forced, while they are generated.

llguidance says which tokens may come next; what stands around the JSON is found from the model's
own chat template, so that a forced call reads as the model was trained to say it.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits
from llguidance.hf import from_tokenizer
from transformers import PreTrainedTokenizerFast

from agent_finetune.engine.schemas import prepared
from agent_finetune.engine.shapes import CALL_ID, Shape, Shapes
from agent_finetune.errors import ConfigError, EngineError
from agent_finetune.render import Renderer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

THINKING_TOKENS = 1024
"""Most tokens of thinking before what is held to a grammar, unless told otherwise."""

_CHARACTERS = 4
"""Characters that stand for a token where thinking is not closed by a token of its own."""
_KEPT = 64
"""Grammars that are kept compiled."""


class Constraint:
    """What one answer is held to, as far as it has come. For one thread at a time."""

    def __init__(self, matcher: LLMatcher, size: int) -> None:
        self._matcher = matcher
        self._size = size

    @property
    def finished(self) -> bool:
        """Whether the answer is complete, so that nothing but a stop may follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def fill(self, words: NDArray[np.int32]) -> None:
        """Write which tokens may come next: bit `i % 32` of word `i // 32` is token `i`.

        Stops are among them exactly when the answer may end there.

        Args:
            words: (ceil(V / 32),), contiguous; all of it is overwritten.

        Raises:
            EngineError: The grammar needs more work for this token than it is given.
        """
        made = np.empty((self._size + 31) // 32, dtype=np.int32)
        self._matcher.unsafe_compute_mask_ptr(made.ctypes.data, made.nbytes)
        self._check()
        words[:] = made[: len(words)]

    def advance(self, token: int) -> None:
        """Go on behind a token that was chosen.

        Raises:
            EngineError: It is not one that may come next.
        """
        self._matcher.consume_token(token)
        self._check()

    def legal(self, ids: Sequence[int]) -> bool:
        """Whether all of these may come next, one after another; nothing is advanced."""
        matcher = self._matcher.deep_copy()
        return all(matcher.consume_token(token) for token in ids)

    def _check(self) -> None:
        if self._matcher.is_error():
            what = str(self._matcher.get_error()).partition("\n")[0]
            raise EngineError(f"the answer cannot be held to its grammar: {what}")


class Grammars:
    """Makes constraints for one model and chat template, and keeps what it compiled.

    Making one reads the whole vocabulary, about a second for a large one. Safe under threads.

    Args:
        renderer: The renderer that the answers' prompts come from.
        tokenizer: Its tokenizer.
        vocab_size: V, the width of the model's logits; ids without a token are never allowed.

    Raises:
        ConfigError: The tokenizer has no fast form, which llguidance needs.
    """

    def __init__(
        self, renderer: Renderer, tokenizer: PreTrainedTokenizerBase, vocab_size: int
    ) -> None:
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ConfigError(
                f"answers of {tokenizer.name_or_path!r} cannot be held to a schema or a tool: "
                f"{type(tokenizer).__name__} is no fast tokenizer"
            )
        self._stop_strings = renderer.stop_strings
        self._size = max(vocab_size, len(tokenizer))
        self._tokens = from_tokenizer(
            tokenizer, n_vocab=self._size, eos_token=list(renderer.stop_ids) or None, slices=None
        )
        self._limits = LLParserLimits(verbose_errors=False)
        added = {token.content: place for place, token in tokenizer.added_tokens_decoder.items()}
        self._added = {
            text: place for text, place in added.items() if self._tokens.is_special_token(place)
        }
        longest_first = sorted(self._added, key=len, reverse=True)
        self._markers = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._tokenizer = tokenizer
        self._compiled = lru_cache(maxsize=_KEPT)(self._compile)
        self._take(renderer)

    def _take(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._shapes = Shapes(renderer, self._tokenizer)
        self._calls = lru_cache(maxsize=_KEPT)(self._call_grammar)

    def of(self, renderer: Renderer) -> Grammars:
        """The same for turns that another renderer asks for, with the vocabulary read once.

        Args:
            renderer: What `Renderer.thinking` makes of the one that these are of.
        """
        if renderer is self._renderer:
            return self
        other = copy.copy(self)
        other._take(renderer)
        return other

    def schema(
        self,
        schema: Mapping[str, Any],
        *,
        thinking: int = THINKING_TOKENS,
        asking: str | None = None,
    ) -> Constraint:
        """Hold an answer's words to one JSON value that matches a schema.

        Args:
            schema: A JSON Schema.
            thinking: Most tokens of thinking before it, where the model's turns can think; 0 is
                none.
            asking: How the prompt ends (`turns.Prompt`); None is as it does behind a user.

        Raises:
            ConfigError: llguidance cannot hold to this schema; the message says to what of it.
        """
        grammar = self._grammar([(self._shapes.words, schema)], thinking, asking)
        return self._constraint(grammar, "the schema")

    def call(
        self,
        tools: Sequence[Mapping[str, Any]],
        name: str | None = None,
        *,
        thinking: int = THINKING_TOKENS,
        asking: str | None = None,
    ) -> Constraint:
        """Hold an answer to exactly one call.

        Args:
            tools: Tools offered, each `{"type": "function", "function": {...}}`.
            name: The tool to call; None is any of them.
            thinking: As for `schema`.
            asking: As for `schema`.

        Raises:
            ConfigError: There is no such tool, or llguidance cannot hold to its parameters.
            RenderError: No call of a tool is read back as one with this chat template.
        """
        called = [tool for tool in tools if name in (None, tool["function"]["name"])]
        if not called:
            offered = ", ".join(repr(tool["function"]["name"]) for tool in tools)
            raise ConfigError(f"no tool {name!r} to call; tools offered are: {offered or 'none'}")
        grammar = self._calls(json.dumps(called), thinking, asking)
        names = ", ".join(repr(tool["function"]["name"]) for tool in called)
        return self._constraint(grammar, f"the parameters of {names}")

    def _call_grammar(self, called: str, thinking: int, asking: str | None) -> str:
        tools = json.loads(called)
        shape = self._shapes.call(tools)
        functions = [tool["function"] for tool in tools]
        return self._grammar(
            [
                (shape.named(each["name"]), {"type": "object", **(each.get("parameters") or {})})
                for each in functions
            ],
            thinking,
            asking,
        )

    def _constraint(self, grammar: str, what: str) -> Constraint:
        matcher = self._compiled(grammar)
        if matcher.is_error():
            error = " ".join(str(matcher.get_error()).partition("\n   1 |")[0].split())
            raise ConfigError(f"answers cannot be held to {what}: llguidance says {error}")
        return Constraint(matcher.deep_copy(), self._size)

    def _compile(self, grammar: str) -> LLMatcher:
        return LLMatcher(
            self._tokens, LLMatcher.grammar_from_lark(grammar), log_level=0, limits=self._limits
        )

    def _grammar(
        self,
        turns: Sequence[tuple[Shape, Mapping[str, Any]]],
        thinking: int,
        asking: str | None,
    ) -> str:
        """Lark grammar of a turn that is one of several shapes, each around its own JSON."""
        lines: list[str] = []
        ways: list[str] = []
        for index, (shape, schema) in enumerate(turns):
            value, shape = f"value_{index}", shape.behind(asking or "")
            lines.append(f"{value}: %json {self._json(schema, shape.separators)}")
            ended = value + self._literal(shape.after + self._spelled_stop(shape))
            thought = shape.thought if thinking and self._may_think(shape) else None
            if thought is not None:
                opening, closing, rest = thought
                lines += self._thinking(closing, thinking) if not ways else []
                ways.append(f"{self._literal(opening)} thinking {self._literal(rest)} {ended}")
            if thought is None or not _is_thought(shape.before, thought):
                ways.append(f"{self._literal(shape.before)} {ended}")
        return "\n".join([f"start: {' | '.join(ways)}", *lines, ""])

    def _json(self, schema: Mapping[str, Any], separators: tuple[str, str]) -> str:
        """A schema as llguidance reads it in a grammar.

        Blanks stand only where JSON is printed with them; a small model would say them for ever.
        """
        ready = prepared(schema)
        if found := self._markers.search(json.dumps(ready, ensure_ascii=False)):
            raise ConfigError(
                f"the JSON schema holds {found.group()!r}, which this model says as one token "
                "that is markup and never text"
            )
        options = {
            "whitespace_flexible": False,
            "item_separator": separators[0],
            "key_separator": separators[1],
        }
        return json.dumps({**ready, "x-guidance": options})

    def _may_think(self, shape: Shape) -> bool:
        """Whether the prompt opened a thinking block, or the model has a token to open one."""
        if shape.thought is None:
            return False
        opening = shape.thought[0]
        return not opening.strip() or self._markers.search(opening) is not None

    def _thinking(self, closing: str, tokens: int) -> list[str]:
        if closing in self._added:
            free = f"thought[max_tokens={tokens}]: /(?s:.*)/"
            return [f"thinking: thought {self._literal(closing)}", free]
        # Text ends where it first closes, and a limit in tokens would end it without closing.
        pattern = re.sub(r"([/\\.*+?()\[\]{}|^$&~-])", r"\\\1", closing)
        return [f"thinking[lazy]: /(?s:.{{0,{tokens * _CHARACTERS}}}){pattern}/"]

    def _spelled_stop(self, shape: Shape) -> str:
        """The stop where it is no single token, so that it has to be said as text."""
        return shape.stop if shape.stop in self._stop_strings else ""

    def _literal(self, text: str) -> str:
        """Text as a part of a grammar: added tokens by their ids, an id of a call as any id."""
        parts: list[str] = []
        place = 0
        marks = re.compile(f"{CALL_ID}|{self._markers.pattern}")
        for found in marks.finditer(text):
            parts += [json.dumps(text[place : found.start()])] if found.start() > place else []
            known = self._added.get(found.group())
            parts.append("/[a-zA-Z0-9]{9}/" if known is None else f"<[{known}]>")
            place = found.end()
        parts += [json.dumps(text[place:])] if place < len(text) else []
        return "".join(f" {part}" for part in parts)


def _is_thought(before: str, thought: tuple[str, str, str]) -> bool:
    """Whether what a turn says without thinking is an empty thought."""
    opening, closing, rest = thought
    return before.startswith(opening) and before.endswith(closing + rest)
