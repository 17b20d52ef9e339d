"""What AutoGens save of conversations into Examples: classic ones here, the others brought here.

A thread of classic AutoGen (`agent.chat_messages[peer]`, 0.2 to AG2 0.14) is written from one
agent's side: what it sent has the role assistant, what it received has user. It is almost what the
model saw, with three differences, all undone here:

- Results of parallel tool calls lie in one message, under `tool_responses`, and are unrolled into
  one tool turn each, as `ConversableAgent` does before it calls its client. `oai.to_messages` reads
  turns here as it does for the model, so that speakers of a group chat are named in both.
- System message and tool schemas are not in it; `system_message` and `tools` may stand beside it.
- The agent's opening words, before anyone spoke to it, were not generated; they are context only.

A thread cannot tell words that a person typed in an agent's name, or a default reply, from
generated ones; those are trained as the agent's own.

Runs and states of AutoGen 0.4+ (`records_agentchat`) and histories of AG2 1.x (`records_ag2`)
become such threads, one for each agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers import strictjson
from agent_finetune.readers.chat import as_example, as_objects, as_text, as_tools
from agent_finetune.records import Example, Message, Row
from autogen_finetune import records_ag2, records_agentchat
from autogen_finetune.oai import to_messages

FORMAT = "autogen"
KEYS = ("messages", "chat_history")
"""Where a row keeps its thread: our own files, and a dumped `ChatResult`."""

OTHERS = {*KEYS, "prompt", "completion", "conversations", "conversation", "chosen", "rejected"}
"""Keys that hold messages without being the name of a peer."""


def is_autogen(rows: Sequence[Row]) -> bool:
    """Whether only AutoGen writes such rows.

    That is `tool_responses` in a turn, a thread with a `system_message` beside it, threads by
    peer, a run or state of AutoGen 0.4+, and an event or history of AG2 1.x.
    """
    first = list(islice((row.data for row in rows if row.problem is None), 20))
    return any(
        _by_peer(data)
        or _has_tool_responses(data)
        or _has_system_message(data)
        or _is_saved(data)
        or _loose(data) is not None
        for data in first
    )


def threads(rows: Iterable[Row]) -> Iterator[Row]:
    """One row per thread, which `read_thread` takes; what holds several is taken apart.

    Files with a message or an event per row, as AG2 writes its log, are a thread each.
    """
    for _, rows_of_file in groupby(rows, key=_file):
        for row in _together(list(rows_of_file)):
            try:
                yield from [row] if row.problem is not None else _apart(row)
            except DataError as error:
                yield Row(source=row.source, problem=str(error))
            except (KeyError, TypeError, AttributeError) as error:
                problem = f"not as AutoGen writes it: {type(error).__name__}: {error}"
                yield Row(source=row.source, problem=problem)


def read_thread(row: Row) -> Example:
    """One thread: a list of messages, or an object that has one under `messages`.

    `chat_history` is read too, as a dumped `ChatResult` has it.

    Raises:
        DataError: There is none, it cannot be read, or no model said anything in it.
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


def _apart(row: Row) -> list[Row]:
    if _by_peer(row.data):
        return [
            Row(source=row.source, data={"id": peer, "messages": messages})
            for peer, messages in row.data.items()
        ]
    if records_agentchat.is_saved(row.data):
        return list(records_agentchat.sides(row))
    if records_ag2.is_saved(row.data):
        return [records_ag2.thread(row)]
    return [row]


def _file(row: Row) -> str:
    return row.source.rpartition(":")[0]


def _together(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows of a file; where each is a part of one conversation, that conversation."""
    key = next((_loose(row.data) for row in rows if row.problem is None), None)
    if key is None:
        return rows
    first = Row(source=rows[0].source, data={key: [row.data for row in rows]})
    if broken := next((row for row in rows if row.problem is not None), None):
        return [broken]
    if other := next((row for row in rows if _loose(row.data) != key), None):
        return [Row(source=other.source, problem=f"the rows before it are {key}; this is none")]
    return [_whole(first, key)]


def _whole(row: Row, key: str) -> Row:
    """The row with what stands beside its messages in a json file, of which only they are rows."""
    path = Path(_file(row))
    if path.suffix != ".json" or not path.is_file():
        return row
    try:
        document = strictjson.loads(path.read_text("utf-8-sig"))
    except DataError:  # a line for each, by another name
        return row
    beside = isinstance(document, Mapping) and key in document
    return Row(source=f"{path}:1", data=document) if beside else row


def _is_saved(data: Mapping[str, Any]) -> bool:
    return records_agentchat.is_saved(data) or records_ag2.is_saved(data)


def _loose(data: Mapping[str, Any]) -> str | None:
    """The key under which a row belongs that is a message or an event of a conversation."""
    if records_agentchat.is_message(data):
        return "messages"
    return "events" if records_ag2.is_event(data) else None


def _by_peer(data: Mapping[str, Any]) -> bool:
    return bool(data) and not data.keys() & OTHERS and all(map(_is_thread, data.values()))


def _is_thread(value: object) -> bool:
    """A list of messages of which some name their speaker, as AutoGen does."""
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        return False
    named = any("name" in turn for turn in value)
    return named and all("role" in turn and "content" in turn for turn in value)


def _has_system_message(data: Mapping[str, Any]) -> bool:
    """Named as the attribute of an agent; other formats hold it in the thread, or as `system`."""
    return isinstance(data.get("system_message"), str) and any(
        isinstance(data.get(key), list) for key in KEYS
    )


def _has_tool_responses(data: Mapping[str, Any]) -> bool:
    messages = next((data[key] for key in KEYS if key in data), None)
    return isinstance(messages, list) and any(
        isinstance(turn, Mapping) and "tool_responses" in turn for turn in messages
    )
