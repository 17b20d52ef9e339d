"""Messages of AgentScope as dicts that every chat template can print.

A chat template is a program that came with the model, and few of them agree on more than this:
content is a string, arguments are an object, the system message is the first and only one.
"""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from agentscope.formatter import FormatterBase
from agentscope.message import (
    Base64Source,
    DataBlock,
    HintBlock,
    Msg,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    ToolResultBlock,
)
from pydantic import Field

from agentscope_finetune.convert import parse_arguments


class TransformersChatFormatter(FormatterBase):
    """For a conversation of one user and one agent.

    Models here read text only: what else is in a message is said in words, with the place where
    it can be found.
    """

    async def format(self, msgs: list[Msg]) -> list[dict[str, Any]]:
        """Messages as dicts of `role` and `content`, and what else a turn has.

        An assistant's has `reasoning_content` and `tool_calls`, a result `name` and `tool_call_id`.
        """
        self.assert_list_of_msgs(msgs)
        turns = _Turns()
        for msg in msgs:
            self._add(turns, msg)
        return turns.dicts

    def convert_tool_result_to_string(
        self, output: str | list[TextBlock | DataBlock]
    ) -> tuple[str, list[TextBlock | DataBlock]]:
        """A result as text, and nothing beside it.

        The host's own writes a new file for the same picture at each call, so that no prompt
        would begin as the last one did.
        """
        return output if isinstance(output, str) else _words(output), []

    def _add(self, turns: _Turns, msg: Msg) -> None:
        """One message of the host: of an assistant it may hold many turns."""
        if msg.role == "system":
            turns.system(msg.get_text_content() or "")
            return
        if msg.role == "user":
            turns.user(_words(msg.get_content_blocks()))
            return
        turns.begin()
        for block in msg.get_content_blocks():
            if isinstance(block, TextBlock):
                turns.text(block.text)
            elif isinstance(block, DataBlock):
                turns.text(_media(block))
            elif isinstance(block, ThinkingBlock):
                turns.thinking(block.thinking)
            elif isinstance(block, ToolCallBlock):
                turns.call(block)
            elif isinstance(block, ToolResultBlock):
                text, _ = self.convert_tool_result_to_string(block.output)
                turns.result(block, text)
            elif isinstance(block, HintBlock):
                turns.user(block.hint if isinstance(block.hint, str) else _words(block.hint))
        turns.begin()


class TransformersMultiAgentFormatter(TransformersChatFormatter):
    """For a conversation of several speakers: what was said becomes one user turn that names them.

    Calls of tools and their results stay turns of their own.
    """

    conversation_history_prompt: str = Field(
        default=(
            "# Conversation History\n"
            "The content between <history></history> tags contains your conversation history\n"
        ),
        description="What stands before the conversation's history.",
    )

    async def format(self, msgs: list[Msg]) -> list[dict[str, Any]]:
        """As in the base class, with neighbouring messages that use no tools made one user turn."""
        self.assert_list_of_msgs(msgs)
        turns = _Turns()
        prompt = self.conversation_history_prompt
        said: list[Msg] = []
        for msg in [*msgs, None]:
            if msg is not None and msg.role != "system" and not _uses_tools(msg):
                said.append(msg)
                continue
            if _history(turns, said, prompt):
                prompt = ""
            said = []
            if msg is not None:
                self._add(turns, msg)
        return turns.dicts


class _Turns:
    """Turns as they are found: an assistant's turn is open until something else comes."""

    def __init__(self) -> None:
        self.dicts: list[dict[str, Any]] = []
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._calls: list[dict[str, Any]] = []

    def begin(self) -> None:
        """Close the open turn, if it says anything."""
        if any(self._text) or any(self._thinking) or self._calls:
            turn: dict[str, Any] = {"role": "assistant", "content": "\n".join(self._text)}
            if any(self._thinking):
                turn["reasoning_content"] = "\n".join(self._thinking)
            if self._calls:
                turn["tool_calls"] = self._calls
            self.dicts.append(turn)
        self._text, self._thinking, self._calls = [], [], []

    def system(self, text: str) -> None:
        """Instructions; those behind the beginning are the user's, as templates have one place."""
        self.begin()
        if not self.dicts:
            self.dicts.append({"role": "system", "content": text})
        elif self.dicts[-1]["role"] == "system":
            self.dicts[-1]["content"] += f"\n{text}"
        else:
            self.user(text)

    def user(self, text: str) -> None:
        self.begin()
        self.dicts.append({"role": "user", "content": text})

    def text(self, text: str) -> None:
        self._text.append(text)

    def thinking(self, text: str) -> None:
        self._thinking.append(text)

    def call(self, block: ToolCallBlock) -> None:
        function = {"name": block.name, "arguments": parse_arguments(block.input)}
        self._calls.append({"id": block.id, "type": "function", "function": function})

    def result(self, block: ToolResultBlock, text: str) -> None:
        self.begin()
        self.dicts.append(
            {"role": "tool", "tool_call_id": block.id, "name": block.name, "content": text}
        )


def _uses_tools(msg: Msg) -> bool:
    return msg.has_content_blocks(["tool_call", "tool_result"])


def _history(turns: _Turns, msgs: Sequence[Msg], prompt: str) -> bool:
    """Add what several speakers said as one user turn, and hints behind it; whether any spoke."""
    lines: list[str] = []
    hints: list[str] = []
    for msg in msgs:
        for block in msg.get_content_blocks():
            if isinstance(block, TextBlock):
                lines.append(f"{msg.name}: {block.text}")
            elif isinstance(block, DataBlock):
                lines.append(f"{msg.name}: {_media(block)}")
            elif isinstance(block, HintBlock):
                hints.append(block.hint if isinstance(block.hint, str) else _words(block.hint))
    if lines:
        turns.user(f"{prompt}<history>\n" + "\n".join(lines) + "\n</history>")
    for hint in hints:
        turns.user(hint)
    return bool(lines)


def _words(blocks: Sequence[Any]) -> str:
    """Blocks of text and media as text."""
    return "\n".join(
        _media(block) if isinstance(block, DataBlock) else block.text for block in blocks
    )


def _media(block: DataBlock) -> str:
    """Where a picture, sound or file is, in the host's words; the same for the same bytes."""
    kind = block.source.media_type.split("/")[0]
    if isinstance(block.source, Base64Source):
        place = f"saved locally at: {_saved(block.source)}"
    else:
        place = f"can be accessed at the URL: {block.source.url}"
    return f"<system-reminder>A(n) {kind} file is returned and {place}.</system-reminder>"


def _saved(source: Base64Source) -> Path:
    data = base64.b64decode(source.data)
    name = hashlib.sha256(data).hexdigest() + (mimetypes.guess_extension(source.media_type) or "")
    path = _folder() / name
    if not path.exists():
        path.write_bytes(data)
    return path


@cache
def _folder() -> Path:
    """This process' own folder for media; it stays, because conversations point into it."""
    return Path(tempfile.mkdtemp(prefix="agentscope-finetune-"))
