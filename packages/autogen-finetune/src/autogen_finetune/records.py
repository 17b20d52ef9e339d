"""Threads of classic AutoGen (`agent.chat_messages[peer]`, 0.2 to AG2 0.14) into Examples.

A thread is written from one agent's side: what it sent has the role assistant, what it received
has user. It is almost what the model saw, with three differences, all undone here:

- Results of parallel tool calls lie in one message, under `tool_responses`, and are unrolled into
  one tool turn each, as `ConversableAgent` does before it calls its client. `oai.to_messages` reads
  turns here as it does for the model, so that speakers of a group chat are named in both.
- System message and tool schemas are not in it; `system_message` and `tools` may stand beside it.
- The agent's opening words, before anyone spoke to it, were not generated; they are context only.

A thread cannot tell words that a person typed in an agent's name, or a default reply, from
generated ones; those are trained as the agent's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers.chat import as_example, as_objects, as_text, as_tools
from agent_finetune.records import Example, Message, Row
from autogen_finetune.oai import to_messages

FORMAT = "autogen"
KEYS = ("messages", "chat_history")
"""Where a row keeps its thread: our own files, and a dumped `ChatResult`."""

OTHERS = {*KEYS, "prompt", "completion", "conversations", "conversation", "chosen", "rejected"}
"""Keys that hold messages without being the name of a peer."""


def is_autogen(rows: Sequence[Row]) -> bool:
    """Whether only AutoGen writes such rows: `tool_responses` in a turn, or threads by peer."""
    first = list(islice((row.data for row in rows if row.problem is None), 20))
    return any(_by_peer(data) or _has_tool_responses(data) for data in first)


def threads(rows: Iterable[Row]) -> Iterator[Row]:
    """One row per thread; an object of threads by peer, as `chat_messages` is, is taken apart."""
    for row in rows:
        if row.problem is None and _by_peer(row.data):
            for peer, messages in row.data.items():
                yield Row(source=row.source, data={"id": peer, "messages": messages})
        else:
            yield row


def read_thread(row: Row) -> Example:
    """One thread: a list of messages, or an object that has one under `messages`.

    `chat_history` is read too, as a dumped `ChatResult` has it.
    """
    key = next((key for key in KEYS if key in row.data), None)
    if key is None:
        raise DataError(
            f"no key 'messages' or 'chat_history'; keys are {', '.join(map(repr, row.data))}"
        )
    messages: list[Message] = []
    if system := as_text(row.data.get("system_message"), "system_message"):
        messages.append(Message(role="system", text=system))
    opened = False
    for turn in to_messages(as_objects(row.data[key], key), key):
        opened = opened or turn.role == "user"
        generated = opened or turn.role != "assistant"
        messages.append(turn if generated else replace(turn, trained=False))
    if not any(m.role == "assistant" and m.trained for m in messages):
        raise DataError("the agent only opened the chat; there is no reply of it to learn from")
    return as_example(row, messages, as_tools(row.data.get("tools")))


def _by_peer(data: Mapping[str, Any]) -> bool:
    return bool(data) and not data.keys() & OTHERS and all(map(_is_thread, data.values()))


def _is_thread(value: object) -> bool:
    """A list of messages of which some name their speaker, as AutoGen does."""
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        return False
    named = any("name" in turn for turn in value)
    return named and all("role" in turn and "content" in turn for turn in value)


def _has_tool_responses(data: Mapping[str, Any]) -> bool:
    messages = next((data[key] for key in KEYS if key in data), None)
    return isinstance(messages, list) and any(
        isinstance(turn, Mapping) and "tool_responses" in turn for turn in messages
    )
