"""Whose ids a recorded turn holds: those of this tokenizer and template, or of others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from agent_finetune.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def digest(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """One digest, `sha256:...`, over what every id stands for and how turns are written.

    Args:
        tokenizer: Its vocabulary counts, added tokens included.
        template: The adapted chat template.
    """
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    written = json.dumps([template, words])
    return f"sha256:{hashlib.sha256(written.encode()).hexdigest()}"


def own(messages: Sequence[Message], renderer: str) -> tuple[Message, ...]:
    """The same messages, without the ids of another renderer: such turns are rendered anew.

    Ids whose origin was not kept are taken for this renderer's own.

    Args:
        messages: Of an example, a prompt or an answer.
        renderer: `Renderer.digest`.
    """
    return tuple(
        replace(message, generation=None)
        if message.generation and message.generation.renderer not in (None, renderer)
        else message
        for message in messages
    )
