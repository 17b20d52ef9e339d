"""A chat template of one tokenizer, rendered to text; and the stops of its turns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent_finetune.errors import RenderError
from agent_finetune.render.messages import Tools
from agent_finetune.render.sandbox import CutOffError, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Template:
    """One Jinja template with the tokenizer whose special tokens it prints.

    Args:
        tokenizer: It is not changed.
        source: The template.
        thinking: Given to the template as `enable_thinking`; None leaves that undefined.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        source: str,
        *,
        thinking: bool | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.source = source
        self._options: dict[str, Any] = {}
        if thinking is not None:
            self._options["enable_thinking"] = thinking

    def text(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Tools = None,
        *,
        prompt: bool = False,
    ) -> str:
        """Render messages; with `prompt`, as they are served, asking for an assistant turn.

        Raises:
            RenderError: The template refuses these messages.
            CutOffError: It computes without end, or makes what no prompt can hold.
        """
        try:
            # What a template sees is Transformers' affair, and is asked of it as JSON.
            names = {*_ALWAYS_SEEN, *self.tokenizer.special_tokens_map, *self._options}
            seen = self.tokenizer.apply_chat_template(
                list(messages),
                tools=tools,
                chat_template=_as_json(names),
                add_generation_prompt=prompt,
                tokenize=False,
                **self._options,
            )
            return render(self.source, json.loads(str(seen)))
        except CutOffError as error:
            where = self.tokenizer.name_or_path or type(self.tokenizer).__name__
            raise CutOffError(f"the chat template of {where!r} is cut off: {error}") from error
        except RecursionError as error:
            where = self.tokenizer.name_or_path or type(self.tokenizer).__name__
            what = "it calls itself, or is nested, too deeply"
            raise CutOffError(f"the chat template of {where!r} is cut off: {what}") from error
        except Exception as error:  # a template is a program: it may raise anything
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise RenderError(f"the chat template cannot express this: {what}") from error


_ALWAYS_SEEN = ("messages", "tools", "documents", "add_generation_prompt")


def _as_json(names: Iterable[str]) -> str:
    """A template that prints what a template of this tokenizer sees."""
    pairs = ", ".join(f"'{name}': {name}" for name in sorted(names) if name.isidentifier())
    return f"{{{{ {{{pairs}}} | tojson }}}}"


def common_prefix(one: str, other: str) -> str:
    """The characters with which both texts begin."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return one[:place]
    return min(one, other, key=len)


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Special tokens of a tokenizer, the longest first."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return tuple(sorted(added | set(tokenizer.all_special_tokens), key=len, reverse=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """How turns of one kind end."""

    text: str
    rendered: bool
    """False: the template's text of a finished turn lacks it, so that it is added. GLM stops
    with the token that opens the next turn; some templates stop with nothing."""
    instead: str = ""
    """What the template prints where a stop that it lacks is added."""


_WRITTEN = re.compile(r"<\|\w+\|>")


def find_stop(ended: str, followed: str, controls: Sequence[str]) -> Stop | None:
    """The text that a model says to end its turn.

    Args:
        ended: What the template prints after the last words of a conversation.
        followed: What it prints there when another message follows.
        controls: The tokenizer's special tokens.

    Returns:
        The last special token that both have; else the first of `ended` (gpt-oss ends with one
        that only stands there); else, where `ended` is blank, the first of `followed`; else the
        last of what both have that is written as such a token (`<|endofthink|>`, which is no token
        of MSAgent's models); else the words that both have; None when there are none.
    """
    shared = common_prefix(ended, followed)
    if tokens := _find(shared, controls):
        return Stop(text=tokens[-1], rendered=True)
    if tokens := _find(ended, controls):
        return Stop(text=tokens[0], rendered=True)
    if not ended.strip() and (tokens := _find(followed, controls)):
        return Stop(text=tokens[0], rendered=False)
    if written := _WRITTEN.findall(shared):
        return Stop(text=written[-1], rendered=True)
    words = shared.strip() if shared.strip() == ended.strip() else shared.rpartition("\n")[0]
    return Stop(text=words.strip(), rendered=True) if words.strip() else None


def _find(text: str, controls: Sequence[str]) -> list[str]:
    """Special tokens in a text, in order."""
    found: list[str] = []
    place = 0
    while place < len(text):
        here = next((token for token in controls if text.startswith(token, place)), None)
        if here:
            found.append(here)
        place += len(here) if here else 1
    return found


def borrowed_stop(ended: str, followed: str, controls: Sequence[str]) -> Stop | None:
    """The first special token that the next message puts behind a finished turn."""
    tokens = _find(followed.removeprefix(ended.rstrip()), controls)
    return Stop(text=tokens[0], rendered=False) if tokens else None
