"""Token ids of a prompt as it is served, and of what the model says behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent_finetune.errors import RenderError
from agent_finetune.render.template import common_prefix

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Offsets = tuple[tuple[int, int], ...]

_ANCHORS = ("\n", "x", ":")


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """Ids of a completion, and the characters of its text that each covers."""

    ids: tuple[int, ...]
    offsets: Offsets


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text of ids, special tokens included, nothing cleaned up."""
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, served: str) -> tuple[int, ...]:
    """Ids of a rendered prompt, as `apply_chat_template` makes them."""
    return tuple(tokenizer(served, add_special_tokens=False)["input_ids"])


def completion(
    tokenizer: PreTrainedTokenizerBase, served: str, prompt: Sequence[int], said: str
) -> Encoded:
    """Ids that the model has to produce after `prompt` for `said` to come out.

    Where the tokens of prompt and completion together begin with the prompt's, the rest is the
    answer. Else a token would reach across the border, which no model can produce: what it says
    is then tokenized by itself, behind an anchor, because many tokenizers treat the beginning of
    a text in their own way (SentencePiece puts a space there).

    Raises:
        RenderError: No tokenization decodes to the right text.
    """
    whole = encode(tokenizer, served + said)
    count = len(prompt)
    if whole.ids[:count] == tuple(prompt):
        return _shifted(whole, count, len(served))
    expected = decode(tokenizer, whole.ids)
    for anchor in (*_ANCHORS, *tokenizer.all_special_tokens):
        before = encode(tokenizer, anchor).ids
        both = encode(tokenizer, anchor + said)
        if both.ids[: len(before)] != before:
            continue
        found = _shifted(both, len(before), len(anchor))
        if decode(tokenizer, [*prompt, *found.ids]) == expected:
            return found
    raise RenderError(
        f"what the model says cannot be tokenized behind the served prompt {served[-40:]!r}: "
        f"{said[:60]!r} decodes to something else"
    )


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> Encoded:
    """Ids of a rendered text, nothing put before it, and the characters that each covers."""
    if tokenizer.is_fast:
        made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        offsets = tuple((start, end) for start, end in made["offset_mapping"])
        return Encoded(ids=tuple(made["input_ids"]), offsets=offsets)
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    return Encoded(ids=ids, offsets=decoded_offsets(tokenizer, ids))


def _shifted(encoded: Encoded, tokens: int, characters: int) -> Encoded:
    """Drop the first tokens, and count characters from where the rest begins."""
    return Encoded(
        ids=encoded.ids[tokens:],
        offsets=tuple(
            (max(start - characters, 0), max(end - characters, 0))
            for start, end in encoded.offsets[tokens:]
        ),
    )


def decoded_offsets(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> Offsets:
    """Characters of the decoded text that each id covers.

    Decodes growing pieces, so it holds for ids that no text would tokenize to. A character
    spread over several tokens belongs to all of them.
    """
    offsets: list[tuple[int, int]] = []
    whole = decode(tokenizer, ids)
    start = 0
    for count in range(1, len(ids) + 1):
        end = len(common_prefix(decode(tokenizer, ids[:count]), whole))
        offsets.append((start, max(end, start + 1 if start < len(whole) else start)))
        start = max(start, end)
    return tuple(offsets)
