"""How many tokens a prompt has, asked often and about much the same."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from agent_finetune.contracts import Engine
from agent_finetune.errors import RenderError
from agent_finetune.records import Message
from agentscope_finetune import convert
from agentscope_finetune.threads import aside

_KEPT = 1024
"""Counts that are kept."""


class TokenCounter:
    """Counts prompts as an engine serves them, and remembers the counts.

    Args:
        engine: Whose tokenizer and chat template count.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: OrderedDict[str, int] = OrderedDict()

    async def count(
        self,
        dicts: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        thinking: bool | None,
    ) -> int:
        """Tokens of a prompt; of its text alone where the template refuses such a conversation.

        Raises:
            FinetuneError: The model cannot be loaded.
        """
        if not dicts and not tools:
            return 0
        asked = json.dumps([dicts, tools, thinking], ensure_ascii=False, default=str)
        key = hashlib.sha256(asked.encode()).hexdigest()
        if key not in self._known:
            self._known[key] = await aside(lambda: self._count(dicts, tools, thinking))
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]

    def _count(
        self,
        dicts: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        thinking: bool | None,
    ) -> int:
        messages = convert.to_messages(dicts)
        if messages:
            try:
                return self._engine.count_tokens(messages, tools, thinking=thinking)
            except RenderError:
                pass  # a part of a conversation, which this template does not print alone
        text = "\n".join(_text(message) for message in messages)
        return self._engine.count_tokens([Message(role="user", text=text)], tools)


def _text(message: Message) -> str:
    calls = [f"{call.name} {json.dumps(call.arguments)}" for call in message.tool_calls]
    return "\n".join(filter(None, (message.thinking, message.text, *calls)))
