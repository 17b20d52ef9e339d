"""Histories of AG2 1.x, as it writes them itself, as threads of OpenAI's chat dicts.

A line of `/log/STREAM.jsonl` of a knowledge store is `{"type": ..., "data": event.to_dict()}`;
Redis streams have `{"__event__": ..., ...}`. AG2 is not imported; `ag2.messages` does the same with
live events.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent_finetune.errors import DataError
from agent_finetune.readers.chat import as_objects
from agent_finetune.records import Row

Dicts = list[dict[str, Any]]
Item = Mapping[str, Any]


def is_event(item: object) -> bool:
    """Whether only AG2 1.x writes such an object."""
    return isinstance(item, Mapping) and _kind(item) is not None


def is_saved(data: Item) -> bool:
    """Whether an object keeps a history under `events`."""
    events = data.get("events")
    return isinstance(events, list) and bool(events) and all(map(is_event, events))


def thread(row: Row) -> Row:
    """The history of a row under `events` as a thread; `system_message` and `tools` stay with it.

    Raises:
        DataError: It holds what is no text.
    """
    messages = list(_Turns().of(as_objects(row.data["events"], "events")))
    rest = {key: value for key, value in row.data.items() if key != "events"}
    return Row(source=row.source, data={**rest, "messages": messages})


def _kind(event: Item) -> str | None:
    """Name of an event's class; None of what is no event."""
    name = event.get("__event__")
    if name is None and isinstance(event.get("data"), Mapping):
        name = event.get("type")
    if not isinstance(name, str) or not name.startswith("ag2."):
        return None
    return name.rsplit(".", 1)[-1]


def _fields(event: Item) -> Item:
    return event if "__event__" in event else event["data"]


class _Turns:
    """One walk over a history; see `ag2.messages`, which this is the same as."""

    def __init__(self) -> None:
        self._open: list[str] = []
        """Calls that were not answered yet."""
        self._asked: set[str] = set()
        self._results: dict[str, Item] = {}

    def of(self, events: Iterable[Item]) -> Iterator[dict[str, Any]]:
        for index, event in enumerate(events):
            fields, what = _fields(event), f"events[{index}]"
            match _kind(event):
                case "ModelRequest" | "DrainedModelRequest":
                    yield from self._closed(what)
                    yield {"role": "user", "content": _text(fields["parts"], what)}
                case "ModelResponse":
                    yield from self._response(fields, what)
                case "ToolResultsEvent":
                    self._open = []
                    for result in fields["results"]:
                        yield _result(result, what)
                case "CompactionSummary":
                    yield from self._closed(what)
                    summary = f"[Summary of earlier conversation]\n{fields['summary']}"
                    yield {"role": "user", "content": summary}
                case _:
                    if "parent_id" in fields and "result" in fields:
                        self._results[fields["parent_id"]] = fields

    def _response(self, fields: Item, what: str) -> Iterator[dict[str, Any]]:
        message = fields.get("message")
        asked = (fields.get("tool_calls") or {}).get("calls") or ()
        calls = [call for call in asked if call["id"] not in self._asked]
        forced = bool(fields.get("response_force"))
        if forced and message is None and not calls:
            return  # AG2 hands calls that it does not make itself to who asked, once more
        yield from self._closed(what)
        self._open = [call["id"] for call in calls]
        self._asked.update(self._open)
        said: dict[str, Any] = {"role": "assistant", "content": (message or {}).get("content")}
        if message:
            kept = message.get("metadata") or {}
        else:
            kept = (calls[0].get("vendor_metadata") if calls else None) or {}
        if kept.get("thinking"):
            said["reasoning_content"] = kept["thinking"]
        if calls:
            said["tool_calls"] = [_call(call) for call in calls]
        if forced:
            said["weight"] = 0  # AG2 said it in the model's name
        yield said

    def _closed(self, what: str) -> Iterator[dict[str, Any]]:
        """Results of calls that the conversation went on from without an answer to them."""
        results = [self._results[id] for id in self._open if id in self._results]
        self._open = []
        for result in results:
            yield _result(result, what)


def _call(call: Item) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": call.get("arguments") or "{}"}
    return {"id": call["id"], "type": "function", "function": function}


def _result(fields: Item, what: str) -> dict[str, Any]:
    result = fields["result"]
    parts = result.get("data", result)["parts"]
    return {
        "role": "tool",
        "tool_call_id": fields["parent_id"],
        **({"name": fields["name"]} if fields.get("name") else {}),
        "content": _text(parts, what),
    }


def _text(parts: Iterable[Item], what: str) -> str:
    return "\n".join(_part(part, what) for part in parts)


def _part(part: Item, what: str) -> str:
    kind = _kind(part)
    if kind == "TextInput":
        return str(part["content"])
    if kind == "DataInput":
        return json.dumps(part["data"], ensure_ascii=False, separators=(",", ":"))
    raise DataError(f"{what} holds {kind or 'something unknown'}; the model reads text only")
