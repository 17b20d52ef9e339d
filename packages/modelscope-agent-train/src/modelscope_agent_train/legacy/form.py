"""The 2023 text of a conversation, which of it is trained, and where the model begins to speak."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent_finetune.records import Message
from modelscope_agent_train.legacy.reading import Conversation

SYSTEM = "<|system|>:"
USER = "\n\n<|user|>:"
ASSISTANT = "\n\n<|assistant|>:"
WRITTEN_END = "</s>"
END = "\n\n" + WRITTEN_END
THINK, THINK_END = "<|startofthink|>", "<|endofthink|>"
EXEC, EXEC_END = "<|startofexec|>", "<|endofexec|>"

_OPENINGS: Mapping[str, str] = {"system": SYSTEM, "user": USER, "tool": ""}
_BLOCK = re.compile(rf"({re.escape(EXEC)}.*?{re.escape(EXEC_END)})", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class LegacyStep:
    """What the model is shown, and what it has to say up to the next exec block or the end."""

    prompt: str
    """All before it, the assistant's header included, as it is served; without the tokens that
    only a tokenizer knows (begin and end of sequence), which `prompt_ids` adds."""
    label: str
    """What it says; never the header, never `\\n\\n</s>`."""
    header: str
    """`\\n\\n<|assistant|>:` at the beginning of a turn, else empty. In 2023 evaluation left it out
    of the prompt and had it in the label."""
    final: bool
    """Whether the turn ends here, with `\\n\\n</s>`."""


def text_pieces(conversation: Conversation) -> list[tuple[str, bool]]:
    """The whole text in pieces, and whether each is trained.

    Source: the script's own rules. Trained is the assistant's text with its header and `</s>`;
    exec blocks, their tags included, are not. No piece is empty.
    """
    pieces = [(SYSTEM + conversation.system, False)]
    for turn in conversation.turns:
        pieces.append((USER + turn.user, False))
        pieces += cut(ASSISTANT + turn.answer + END)
    return pieces


def cut(answer: str) -> Iterator[tuple[str, bool]]:
    """An assistant's text at its exec blocks; those are not trained."""
    for place, piece in enumerate(_BLOCK.split(answer)):
        if piece:
            yield piece, place % 2 == 0


def messages(conversation: Conversation, end: str = END) -> list[Message]:
    """The same as messages, their texts raw: an exec block is a tool's, all else the assistant's.

    Every turn begins and ends with an assistant's message, which may be empty in the first place.

    Args:
        conversation: A row.
        end: What ends a turn; the text of its last message ends with it.
    """
    found = [Message(role="system", text=conversation.system)]
    for turn in conversation.turns:
        found.append(Message(role="user", text=turn.user))
        blocks = _BLOCK.split(turn.answer + end)
        for place, piece in enumerate(blocks):
            if piece or place == 0:
                found.append(Message(role="tool" if place % 2 else "assistant", text=piece))
    return found


def header(before: Sequence[Message]) -> str:
    """What opens an assistant's message behind these; nothing behind a result of its turn."""
    return "" if before[-1].role == "tool" else ASSISTANT


def shown(said: Sequence[Message]) -> str:
    """Messages as text; the first is no assistant's."""
    text = ""
    for place, message in enumerate(said):
        opening = header(said[:place]) if message.role == "assistant" else _OPENINGS[message.role]
        text += opening + message.text
    return text


def places(said: Sequence[Message], end: str = END) -> list[int]:
    """Where in messages the model has something to say besides what ends a turn."""
    return [
        place
        for place, message in enumerate(said)
        if message.role == "assistant" and message.text not in ("", end)
    ]


def steps(conversation: Conversation) -> list[LegacyStep]:
    """The teacher-forced steps of a conversation, in order.

    Each is shown the recorded words and results before it. Unlike in 2023, later turns are shown
    what the assistant answered in earlier ones.
    """
    said = messages(conversation)
    found = []
    for place in places(said):
        opening = header(said[:place])
        final = place + 1 == len(said) or said[place + 1].role == "user"
        label = said[place].text.removesuffix(END) if final else said[place].text
        prompt = shown(said[:place]) + opening
        found.append(LegacyStep(prompt=prompt, label=label, header=opening, final=final))
    return found
